"""Several at once: builders wait their turn, readers see whole states, and nobody writes where nobody may."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import Catalog, CatalogError, CatalogLocked
from indexer.cli.common import SOME_SKIPPED
from indexer.files import network_file_system
from indexer.halves import unit
from indexer.store import connection, handles, lock
from indexer.store.connection import has_log
from indexer.store.lock import building
from indexer.store.vectors import as_stored
from indexer.verbs import build as build_verb
from indexer.verbs.nearest import IndexFiles, Nearest

from ..conftest import ROOT, save_picture
from ..fakes import FakeEmbedder
from .driver import Plan
from .harness import (
    Scene,
    State,
    assert_finished,
    changes,
    check_answers,
    copy_catalog,
    first_build,
    rebuild,
    start,
    start_build,
    wait_until_ready,
)

pytestmark = pytest.mark.usefixtures("old_files")


@pytest.fixture(scope="module")
def scene(old_files: None, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return changes(tmp_path_factory.mktemp("changes"))


@pytest.fixture
def folder(scene: Scene, tmp_path: Path) -> Path:
    """A catalog that has something to take in."""
    return copy_catalog(scene.before, tmp_path / "catalog")


# -- builders ----------------------------------------------------------------------------------------------------------


def test_a_second_build_says_at_once_who_holds_the_catalog(scene: Scene, folder: Path, tmp_path: Path) -> None:
    with building(folder, wait=False):
        since = json.loads((folder / lock.FILE).read_bytes())["since"]
        process = start_build(Plan(str(tmp_path / "log")), scene, folder)
        wait_until_ready(process)
        started = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 1
    assert process.returncode == 1
    assert err.count("\n") == 1
    for word in (str(folder), f"process {os.getpid()}", socket.gethostname(), since, "--wait"):
        assert word in err
    assert abs(time.time() - time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S"))) < 120
    rebuild(folder, scene.pictures)
    assert State.of(folder) == scene.after


def test_a_build_that_waits_gets_its_turn(scene: Scene, folder: Path, tmp_path: Path) -> None:
    words = ("build", scene.pictures, "--catalog", folder, "--workers", "1", "--wait")
    with building(folder, wait=False):
        process = start(Plan(str(tmp_path / "log")), *words)
        wait_until_ready(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == SOME_SKIPPED, err
    assert State.of(folder) == scene.after
    assert_finished(folder)


def test_the_lock_of_a_killed_build_is_free_at_once(scene: Scene, folder: Path, tmp_path: Path) -> None:
    process = start_build(Plan(str(tmp_path / "log"), dawdle=30), scene, folder)
    while not (folder / lock.FILE).read_bytes():
        time.sleep(0.02)
    with pytest.raises(CatalogLocked, match=f"process {process.pid}"):
        rebuild(folder, scene.pictures)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    started = time.monotonic()
    with building(folder, wait=False):
        assert time.monotonic() - started < 1
        assert json.loads((folder / lock.FILE).read_bytes())["pid"] == os.getpid()
    rebuild(folder, scene.pictures)
    assert State.of(folder) == scene.after


def test_the_holder_is_named_also_while_it_notes_what_it_has_checked(folder: Path) -> None:
    stop = threading.Event()

    def note() -> None:
        while not stop.is_set():
            lock.vouch(folder)

    with building(folder, wait=False):
        noting = threading.Thread(target=note)
        noting.start()
        try:
            for _ in range(300):
                with pytest.raises(CatalogLocked, match=f"process {os.getpid()}"), building(folder, wait=False):
                    pass
        finally:
            stop.set()
            noting.join()
        assert lock.vouched(folder)


def test_two_first_builds_at_the_same_time(old_files: None, tmp_path: Path) -> None:
    scene = first_build(tmp_path)
    for number in range(2):
        folder = tmp_path / f"catalog {number}"
        words = ("build", scene.pictures, "--catalog", folder, "--workers", "1", "--wait")
        processes = [start(Plan(str(tmp_path / "log")), *words) for _ in range(3)]
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode in (0, SOME_SKIPPED), err
        assert State.of(folder) == scene.after
        assert_finished(folder)


def run_in_another_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_catalog_stays_open_while_others_come_and_go(tmp_path: Path) -> None:
    """Sealing reads the file beside SQLite, and must not drop the locks that SQLite holds on it."""
    pictures, folder = tmp_path / "pictures", tmp_path / "catalog"
    for seed in range(20):
        save_picture(pictures / f"{seed}.png", seed)
    look = f"from indexer import Catalog\nwith Catalog.open({str(folder)!r}, readonly=True) as c: print(len(c))"
    other = (
        "from tests.faults.harness import rebuild; from pathlib import Path; from indexer.pictures import scan; "
        f"scan.SETTLED_NS = 0; rebuild(Path({str(folder)!r}), Path({str(pictures)!r}))"
    )
    with Catalog.create(folder, loader=lambda _: FakeEmbedder()) as catalog:
        for number in range(3):
            catalog.build([pictures], workers=1)
            assert Catalog.verify(folder).ok
            assert int(run_in_another_process(look)) == len(catalog)
            assert (folder / "catalog.sqlite-shm").exists()  # whoever left last took himself for the last one of all
            save_picture(pictures / f"other {number}.png", 300 + number)
            run_in_another_process(other)
            assert len(catalog) == 20 + 2 * number + 1
            save_picture(pictures / f"mine {number}.png", 400 + number)
        catalog.build(workers=1)
        assert int(run_in_another_process(look)) == len(catalog) == 26
    assert_finished(folder)


def test_what_is_kept_open_for_the_locks_is_closed_in_the_end(scene: Scene, folder: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    rebuild(folder, scene.pictures)
    before = open_files()
    for _ in range(5):
        Catalog.verify(folder)
    assert open_files() == before
    with Catalog.open(folder) as one, Catalog.open(folder) as two:
        Catalog.verify(folder)
        there = open_files()  # SQLite keeps one for later, too
        for _ in range(5):
            Catalog.verify(folder)
        assert open_files() == there
        assert [len(kept) for kept in handles._kept.values()] == [1]
        assert len(one) == len(two)
    assert open_files() == before
    assert not handles._kept
    assert not handles._users


# -- readers -----------------------------------------------------------------------------------------------------------

PAIRS = 30


def pool_of_pairs(folder: Path) -> dict[str, tuple[int, int, list[float]]]:
    """Pictures of every pair in two versions: SHA-256 -> pair, version, vector."""
    facts, fake = {}, FakeEmbedder()
    for pair in range(PAIRS):
        for version in range(2):
            for member in "ab":
                path = save_picture(folder / f"{pair}-{member}-{version}.png", 1000 * pair + 10 * version + ord(member))
                with Image.open(path) as image:
                    vector = as_stored(fake.embed([np.asarray(image.convert("RGB"))]))[0]
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                facts[digest] = (pair, version, [float(x) for x in vector])
    return facts


class Builder:
    """Adds, changes and removes pairs of pictures, each build one commit and one clean-up."""

    def __init__(self, folder: Path) -> None:
        self.pool = folder / "pool"
        self.pictures = folder / "pictures"
        self.catalog = folder / "catalog"
        self.facts = pool_of_pairs(self.pool)
        self.rng = np.random.default_rng(3)
        self.state: dict[int, int] = {}
        self.slowest = 0.0
        self.builds = 0
        for pair in range(0, PAIRS, 2):
            self.put(pair, 0)
        self.build()

    def put(self, pair: int, version: int | None) -> None:
        for member in "ab":
            target = self.pictures / f"{pair}-{member}.png"
            if version is None:
                target.unlink()
                self.state.pop(pair, None)
            else:
                target.parent.mkdir(exist_ok=True)
                target.write_bytes((self.pool / f"{pair}-{member}-{version}.png").read_bytes())
                self.state[pair] = version

    def step(self) -> None:
        for pair in self.rng.choice(PAIRS, 4, replace=False).tolist():
            version = self.state.get(pair)
            choices = (0, 1) if version is None else (None, 1 - version)
            self.put(pair, choices[int(self.rng.integers(2))])
        self.build()

    def build(self) -> None:
        started = time.monotonic()
        with Catalog.create(self.catalog, loader=lambda _: FakeEmbedder(batch_size=3)) as opened:
            opened.build([self.pictures], workers=1, prune=True)
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.builds += 1


def read_while_building(folder: Path, seconds: float, processes: int, threads: int, *how: str) -> dict[str, int]:
    builder = Builder(folder)
    facts = folder / "facts.json"
    facts.write_text(json.dumps(builder.facts))
    words = [str(builder.catalog), str(facts), str(threads), str(seconds), *how]
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.reader", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    until, verified, stop = time.monotonic() + seconds, 0, threading.Event()
    problems: list[str] = []

    def check() -> None:
        nonlocal verified
        while not stop.is_set():
            problems.extend(Catalog.verify(builder.catalog).problems)
            verified += 1

    checker = threading.Thread(target=check)
    checker.start()
    try:
        while time.monotonic() < until:
            builder.step()
    finally:
        stop.set()
        checker.join()
    reports = [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
    assert [report["problems"] for report in reports] == [[]] * processes
    assert problems == []
    assert builder.slowest < 30
    builder.build()
    assert_finished(builder.catalog)
    return {
        "builds": builder.builds,
        "verified": verified,
        "queries": sum(report["queries"] for report in reports),
        "refused": sum(report["refused"] for report in reports),
        "states": max(report["states"] for report in reports),
    }


def test_a_log_may_go_while_it_is_looked_at(tmp_path: Path) -> None:
    """SQLite deletes it when the last one leaves, which is no reason for verify or a reader to fail."""
    log, stop = tmp_path / "catalog.sqlite-wal", threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            log.write_bytes(b"changes")
            log.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    seen: set[bool] = set()
    started = time.monotonic()
    try:
        while (passed := time.monotonic() - started) < 0.3 or (len(seen) < 2 and passed < 30):
            seen.add(has_log(log.with_name("catalog.sqlite")))
    finally:
        stop.set()
        other.join()
    assert seen == {True, False}


@pytest.fixture
def whole_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of a slow machine commits by the clock, which would part the pairs."""
    monkeypatch.setattr(build_verb, "COMMIT_SECONDS", 1e9)


@pytest.mark.usefixtures("whole_commits")
def test_readers_see_whole_states(tmp_path: Path) -> None:
    seen = read_while_building(tmp_path, seconds=8, processes=4, threads=5)
    assert seen["builds"] > 2, seen
    assert seen["states"] > 1, seen
    assert seen["queries"] > 40, seen
    assert seen["verified"] > 3, seen
    assert seen["refused"] == 0


@pytest.mark.usefixtures("whole_commits")
def test_readers_who_may_not_write_see_whole_states(tmp_path: Path) -> None:
    seen = read_while_building(tmp_path, 5, 2, 3, "unwritable")
    assert seen["builds"] > 2, seen
    assert seen["states"] > 1, seen
    assert seen["queries"] > 20, seen


@pytest.mark.slow
@pytest.mark.usefixtures("whole_commits")
def test_readers_see_whole_states_for_minutes(tmp_path: Path) -> None:
    seen = read_while_building(tmp_path, seconds=120, processes=4, threads=5)
    assert seen["states"] > 30, seen


def test_a_reader_of_an_earlier_state_finds_what_has_been_removed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbour file is of a later state by then, and lacks it."""
    monkeypatch.setattr("indexer.store.store.SEAL_SECONDS", 0.1)
    pictures, folder = tmp_path / "pictures", tmp_path / "catalog"
    for seed in range(9):
        save_picture(pictures / f"{seed}.png", seed)
    rebuild(folder, pictures)
    with Catalog.open(folder, readonly=True) as reader:
        store = reader._store
        with store.snapshot():
            model = store.model()
            assert model is not None
            _, contents, rows = store.vectors.of(range(100), model)
            for seed in (2, 3):
                (pictures / f"{seed}.png").unlink()
            with Catalog.open(folder, loader=lambda _: FakeEmbedder()) as catalog:
                assert catalog.build(prune=True).images == 7
            found = Nearest(store, IndexFiles(folder), model).search(unit(rows[2:3]), 100)
            assert set(found.ids[0].tolist()) == set(contents)
            assert found.ids[0, 0] == contents[2]
        assert len(reader.query(unit(rows)[2], k=100)) == 7
    assert Catalog.verify(folder).notes  # the build did not wait for the reader
    rebuild(folder, pictures)
    assert_finished(folder)


# -- places that cannot be written -------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {path.name: path.stat() for path in [folder, *folder.iterdir()]}
    return {name: (status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in found.items()}


def test_where_nothing_may_be_written_queries_work(scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    before = listing(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    with Catalog.open(folder, readonly=True, loader=lambda _: FakeEmbedder()) as catalog:
        check_answers(catalog)
        assert catalog.query(Image.new("RGB", (9, 9), "red"), k=3)
        assert catalog.info().images == 41
    assert listing(folder) == before


@pytest.fixture
def unwritable(scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """A catalog of somebody who may not write to its folder, where SQLite then has no log and no locks."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    with Catalog.open(folder, readonly=True, loader=lambda _: FakeEmbedder()) as catalog:
        yield catalog


def test_who_may_not_write_sees_what_was_built_since(scene: Scene, unwritable: Catalog) -> None:
    vector = np.ones(48, np.float32)
    seen = {len(unwritable), len(unwritable.query(vector, k=100))}
    assert rebuild(unwritable.folder, scene.pictures).added
    assert len(unwritable) not in seen
    assert len(unwritable.query(vector, k=100)) == len(unwritable) == len(list(unwritable)) == unwritable.info().images
    with Catalog.open(unwritable.folder, readonly=True) as another:
        assert len(another) == len(unwritable)


def test_who_may_not_write_never_takes_two_states_for_one(scene: Scene, unwritable: Catalog) -> None:
    store = unwritable._store
    with pytest.raises(CatalogLocked, match="Try again"), store.snapshot():
        assert store.count("images") == 41
        rebuild(unwritable.folder, scene.pictures)
        store.count("images")
    now = len(unwritable)
    assert now == len(unwritable.query(np.ones(48, np.float32), k=100))


def test_who_may_not_write_is_told_so_half_way(
    scene: Scene, unwritable: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.store.image_rows.IN_ONE_STATEMENT", 2)
    images = iter(unwritable)
    next(images)
    rebuild(unwritable.folder, scene.pictures)
    assert len(unwritable) > 41
    with pytest.raises(CatalogLocked, match="Try again"):
        list(images)


def test_a_file_that_is_locked_is_not_taken_for_one_on_a_full_disk(
    scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(folder / "catalog.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CatalogLocked, match="busy"):
            Catalog.open(folder, readonly=True)
        with pytest.raises(CatalogLocked, match="busy"):  # which is no damage that a repair could mend
            Catalog.verify(folder)
        other.execute("ROLLBACK")
    with Catalog.open(folder, readonly=True) as catalog:
        check_answers(catalog)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("not allowed to mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def make_readonly(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def test_a_readonly_disk_answers_queries(scene: Scene, disk: Path, tmp_path: Path) -> None:
    catalog = copy_catalog(scene.before, disk / "catalog")
    make_readonly(disk)
    before = listing(catalog)
    picture = str(scene.pictures / "20.png")
    process = start(Plan(""), "query", picture, "--catalog", catalog, "-k", "3", "--include-self")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert picture in out
    process = start_build(Plan(str(tmp_path / "log")), scene, catalog)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert str(catalog) in err
    assert listing(catalog) == before


def test_a_killed_build_on_a_disk_that_is_readonly_now(scene: Scene, disk: Path, tmp_path: Path) -> None:
    """SQLite's log is read where it lies; nothing can be folded in."""
    catalog = copy_catalog(scene.before, disk / "catalog")
    process = start_build(Plan(str(tmp_path / "log"), "clean-up before"), scene, catalog)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert (catalog / "catalog.sqlite-wal").stat().st_size
    make_readonly(disk)
    with Catalog.open(catalog, readonly=True) as opened:
        check_answers(opened)
        assert str(scene.pictures / "new" / "100.png") in opened


# -- network file systems ----------------------------------------------------------------------------------------------

LINE = "36 35 0:32 / {point} rw,relatime shared:1 - {kind} server:/export rw\n"


def mounts(*entries: tuple[str | Path, str]) -> str:
    return "".join(LINE.format(point=str(point).replace(" ", "\\040"), kind=kind) for point, kind in entries)


@pytest.mark.parametrize(
    ("below", "entries", "kind"),
    [
        ("a/b", [("", "ext4")], None),
        ("a/b", [("", "nfs4")], "nfs4"),
        ("a/b", [("", "ext4"), ("a", "cifs")], "cifs"),
        ("a/b", [("a", "cifs"), ("", "ext4")], "cifs"),
        ("a/b", [("a", "nfs"), ("a/b", "xfs")], None),
        ("a/b", [("a", "autofs"), ("a", "nfs4")], "nfs4"),
        ("ab/c", [("", "ext4"), ("a", "nfs")], None),
        ("a b/c", [("", "ext4"), ("a b", "smb3")], "smb3"),
        ("a/b", [("", "fuse.sshfs")], "fuse.sshfs"),
        ("a/b", [("", "fuse.glusterfs")], "fuse.glusterfs"),
        ("a/b", [("", "fuseblk")], None),
        ("a/b", [], None),
    ],
)
def test_the_file_system_of_a_path(
    tmp_path: Path, below: str, entries: list[tuple[str, str]], kind: str | None
) -> None:
    text = "garbage\n\n" + mounts(*((tmp_path / point, found) for point, found in entries))
    assert network_file_system(tmp_path / below, text) == kind
    (tmp_path / "link").symlink_to(tmp_path / below)
    assert network_file_system(tmp_path / "link", text) == kind


def test_the_file_system_of_this_machine() -> None:
    assert network_file_system(Path("/")) is None


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path is on a network file system."""
    for module in ("indexer.files", "indexer.store.connection"):
        monkeypatch.setattr(f"{module}.network_file_system", lambda _: "nfs4")


def test_a_build_on_a_network_file_system_is_refused(scene: Scene, folder: Path, tmp_path: Path, on_nfs: None) -> None:
    before = listing(folder)
    builds: list[Callable[[], object]] = [
        lambda: rebuild(folder, scene.pictures),
        lambda: rebuild(tmp_path / "new", scene.pictures),
        lambda: Catalog.verify(folder, repair=True),
    ]
    for build in builds:
        with pytest.raises(CatalogError) as refusal:
            build()
        assert "network file system (nfs4)" in str(refusal.value)
        assert "--catalog" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert listing(folder) == before


def test_a_query_on_a_network_file_system_works_and_writes_nothing(scene: Scene, folder: Path, on_nfs: None) -> None:
    before = listing(folder)
    with Catalog.open(folder, readonly=True) as catalog:
        check_answers(catalog)
    assert listing(folder) == before
    with Catalog.open(folder, loader=lambda _: FakeEmbedder()) as catalog, pytest.raises(CatalogError, match="nfs4"):
        catalog.build([scene.pictures], workers=1)
