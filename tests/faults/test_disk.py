"""Disks that are full or fail: one line that says so, the last commit as it was, and the next build goes on."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexer import Catalog, CatalogError, IndexerError
from indexer.cli.common import SOME_SKIPPED
from indexer.files import temporary_of
from indexer.neighbours import making
from indexer.neighbours.stamp import Stamp as IndexStamp
from indexer.neighbours.stamp import path_of
from indexer.records import Stamp
from indexer.store import connection
from indexer.store.store import Store
from indexer.store.survey import Survey

from ..fakes import FakeEmbedder
from .driver import Plan
from .harness import (
    Scene,
    State,
    assert_finished,
    assert_goes_on,
    assert_no_process_left,
    assert_unharmed,
    changes,
    copy_catalog,
    first_build,
    rebuild,
    start,
    start_build,
)

SCENES = {"first": first_build, "changes": changes}
# a build that cannot go on says so within
SECONDS = 20
SHIM = Path(__file__).with_name("shim.c")
KIB = 1024

pytestmark = pytest.mark.usefixtures("old_files")


@pytest.fixture(scope="module")
def scenes(old_files: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in SCENES.items()}


def end(process: subprocess.Popen[str], catalog: Path) -> bool:
    """Whether a build got through; if not, it has said in one line what is wrong with which file, and what to do."""
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < SECONDS
    if process.returncode in (0, SOME_SKIPPED):
        return True
    assert process.returncode == 1, err
    assert err.startswith("Error: "), err
    assert err.count("\n") == 1, err
    assert str(catalog) in err
    assert "Check the disk" in err
    return False


# -- the Nth write does not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sizes"), [("first", (0, 24, 140, 420)), ("changes", (0, 44, 100, 160))])
def test_files_that_cannot_grow(scenes: dict[str, Scene], tmp_path: Path, name: str, sizes: tuple[int, ...]) -> None:
    """RLIMIT_FSIZE: a write beyond so many KiB fails, whatever the file."""
    scene = scenes[name]
    for size in sizes:
        log, catalog = tmp_path / f"log {size}", copy_catalog(scene.before, tmp_path / f"catalog {size}")
        assert not end(start_build(Plan(str(log), file_size=size * KIB), scene, catalog), catalog), size
        assert_unharmed(catalog, scene, log, tmp_path / f"copy {size}")
        assert_goes_on(catalog, scene, log)


@pytest.mark.parametrize("name", SCENES)
def test_a_limit_that_grows_until_the_build_gets_through(scenes: dict[str, Scene], tmp_path: Path, name: str) -> None:
    """The same catalog all the time: what has been committed under one limit is there under the next."""
    scene, log, size, refused = scenes[name], tmp_path / "log", 32, 0
    catalog = copy_catalog(scene.before, tmp_path / "catalog")
    while not end(start_build(Plan(str(log), file_size=size * KIB), scene, catalog), catalog):
        refused += 1
        size = size * 3 // 2
        assert size < 64 * KIB
    assert refused > 1
    assert State.of(catalog) == scene.after
    assert_finished(catalog)


# -- one thing fails, and the error says which -------------------------------------------------------------------------


def refusing(real: Callable[..., Any], number: int, which: str = "") -> Callable[..., Any]:
    """A function of the system that fails for some files."""

    def call(*arguments: Any, **named: Any) -> Any:
        if not which or any(which in os.fspath(a) for a in arguments if isinstance(a, (str, os.PathLike))):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    return call


@pytest.mark.parametrize(
    ("owner", "name", "which", "says"),
    [
        (os, "replace", ".faiss", "neighbours-"),
        (os, "replace", ".seal", "catalog.seal"),
        (Path, "open", ".faiss.tmp", "neighbours-"),
        (Path, "open", ".seal.tmp", "catalog.seal"),
        (Path, "unlink", ".seal", "catalog.seal"),
        (Path, "glob", "", "catalog"),
        (os, "fsync", "", "catalog"),
        (os, "pwrite", "", "build.lock"),
        (os, "ftruncate", "", "build.lock"),
        (making, "append_stamp", "", "neighbours-"),
    ],
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_the_system_refuses_is_an_error_of_ours(
    scenes: dict[str, Scene],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    which: str,
    says: str,
    number: int,
) -> None:
    catalog = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refusing(getattr(owner, name), number, which))
        with pytest.raises(CatalogError) as refusal:
            rebuild(catalog, scenes["changes"].pictures)
    text = str(refusal.value)
    assert says in text
    assert os.strerror(number) in text
    assert "Check the disk" in text
    rebuild(catalog, scenes["changes"].pictures)
    assert State.of(catalog) == scenes["changes"].after
    assert_finished(catalog)


def test_what_faiss_refuses_is_an_error_of_ours(
    scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Error in void faiss::write_index(...) at index_write.cpp:1: write error\nError: more of it")

    catalog = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "serialize_index", refuse)
        with pytest.raises(IndexerError) as refusal:
            rebuild(catalog, scenes["changes"].pictures)
    assert str(catalog / "neighbours-") in str(refusal.value)
    assert "write error" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert_goes_on(catalog, scenes["changes"], tmp_path / "no log")


def test_an_index_that_did_not_fit_is_never_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss's own writer does not notice when the last bytes of a file are refused."""
    monkeypatch.setattr(making, "append_stamp", None)  # that must not be what fails
    stamp = IndexStamp("uuid", "model", "flat fp16", dim=4, covered=3, last=3, recall=1.0)
    full = tmp_path / "full"
    full.mkdir()
    temporary_of(path_of(full, stamp.name)).symlink_to("/dev/full")
    with pytest.raises(CatalogError, match="No space left"):
        making.write_index(full, [(np.arange(1, 4), np.arange(1, 4), np.eye(3, 4, dtype=np.float16))], stamp)
    assert list(full.iterdir()) == []


def test_what_a_build_has_found_out_must_fit_too(scenes: dict[str, Scene], tmp_path: Path) -> None:
    """It is kept in temporary tables, which SQLite puts on a disk when they are large."""
    folder = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    store = Store.open(folder)
    survey = Survey(store)
    store.sqlite.execute("PRAGMA temp.max_page_count = 10")
    with pytest.raises(CatalogError, match="disk is full"):
        for number in range(5000):
            survey.add_todo(1, b"%d.png" % number, Stamp(1, 2, 3), None)
    with pytest.raises(CatalogError, match="disk is full"):
        for number in range(5000):
            survey.add_gone(1, b"", number)
    store.close()


class Full:
    """A connection whose commits fail."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn

    def commit(self) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)


def test_a_commit_beside_the_build_that_fails_leaves_a_catalog_that_goes_on(
    scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's own connection fails: the build ends with that, and nothing of it was kept."""
    folder = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    connect = connection._connect
    with Catalog.open(folder, loader=lambda _: FakeEmbedder()) as catalog:
        before, threads = catalog.info().contents, threading.active_count()
        monkeypatch.setattr(connection, "_connect", lambda path: Full(connect(path)))
        with pytest.raises(CatalogError, match="disk is full"):
            catalog.build(workers=1)
        assert catalog.info().contents == before
        assert threading.active_count() == threads
        monkeypatch.setattr(connection, "_connect", connect)
        catalog.build(workers=1)
    assert State.of(folder) == scenes["changes"].after
    assert_finished(folder)


def test_a_commit_that_fails_leaves_a_catalog_that_goes_on(
    scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, with one open catalog: nothing hangs on in the middle of a transaction."""
    folder = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    with Catalog.open(folder, loader=lambda _: FakeEmbedder()) as catalog:
        conn = catalog._store.sqlite
        monkeypatch.setattr(catalog._store, "sqlite", Full(conn))
        with pytest.raises(CatalogError, match="disk is full"):
            catalog.build(workers=1)
        assert not conn.in_transaction
        monkeypatch.setattr(catalog._store, "sqlite", conn)
        catalog.build(workers=1)
    assert State.of(folder) == scenes["changes"].after
    assert_finished(folder)


# -- every single write, by a library that comes before the system's ---------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    if shutil.which("cc") is None or not Path("/proc/self/fd").exists():
        pytest.skip("no C compiler, or no Linux")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)
    return library


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("does", ["ENOSPC", "EIO", "kill", "tear"])
@pytest.mark.parametrize("name", SCENES)
def test_every_single_write(scenes: dict[str, Scene], shim: Path, tmp_path: Path, name: str, does: str) -> None:
    """Writes, syncs, truncations, renamings and deletions in the catalog's folder, one after the other.

    kill: instead of it; tear: in the middle of it.
    """
    scene = scenes[name]
    outcomes: dict[int, int] = {}
    for nth in itertools.count(1):
        folder = tmp_path / str(nth)
        folder.mkdir()
        log, catalog, mark = folder / "log", folder / "catalog", folder / "mark"
        copy_catalog(scene.before, catalog)
        code = str(getattr(errno, does, does))
        planted = {"SHIM_FOLDER": str(catalog), "SHIM_NTH": str(nth), "SHIM_DOES": code, "SHIM_MARK": str(mark)}
        process = start_build(Plan(str(log)), scene, catalog, preload=shim, **planted)
        if does in ("kill", "tear"):
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL or not mark.exists()
            assert_no_process_left(process)
        else:
            end(process, catalog)
        if not mark.exists():
            break
        outcomes[process.returncode] = outcomes.get(process.returncode, 0) + 1
        if process.returncode in (0, SOME_SKIPPED):  # it could do without
            assert State.of(catalog) == scene.after, nth
        assert_unharmed(catalog, scene, log, folder / "copy")
        assert_goes_on(catalog, scene, log)
        shutil.rmtree(folder)
    assert sum(outcomes.values()) > 100, outcomes


# -- a disk that is full -----------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB, or gives it so many."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: int) -> Path:
        options = f"size={size}k" + (",remount" if os.path.ismount(disk) else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True)
        if done.returncode:
            pytest.skip("not allowed to mount a disk")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> Path:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass
    return disk / "filler"


@pytest.mark.slow
def test_a_disk_that_grows_until_the_build_gets_through(
    scenes: dict[str, Scene], tmp_path: Path, mounted: Callable[[int], Path]
) -> None:
    scene, log = scenes["changes"], tmp_path / "log"
    assert scene.before
    # KiB: what is there already in pages of 4, and hardly more
    size = 8 + sum(4 * -(-file.stat().st_size // 4096) for file in scene.before.iterdir())
    refused = 0
    catalog = copy_catalog(scene.before, mounted(size) / "catalog")
    while not end(start_build(Plan(str(log)), scene, catalog), catalog):
        refused += 1
        assert_unharmed(catalog, scene, log, tmp_path / f"copy {size}")
        size += 16
        mounted(size)
    assert refused > 1
    assert State.of(catalog) == scene.after
    assert_finished(catalog)


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_a_full_disk_answers_queries(
    scenes: dict[str, Scene], tmp_path: Path, mounted: Callable[[int], Path], finished: bool
) -> None:
    scene, log = scenes["changes"], tmp_path / "log"
    catalog = copy_catalog(scene.before, mounted(4000) / "catalog")
    if not finished:
        process = start_build(Plan(str(log), "commit after", 2), scene, catalog)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    filler = fill(catalog.parent)
    picture = str(scene.pictures / "20.png")
    for _ in range(2):
        process = start(Plan(str(log)), "query", picture, "--catalog", catalog, "-k", "2", "--include-self")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert picture in out
    assert not end(start_build(Plan(str(log)), scene, catalog), catalog)
    filler.unlink()
    assert_goes_on(catalog, scene, log)


def test_a_query_needs_no_room(scenes: dict[str, Scene], tmp_path: Path) -> None:
    """The same with no files that can grow: SQLite's own files beside the catalog do not come to be."""
    catalog = copy_catalog(scenes["changes"].before, tmp_path / "catalog")
    picture = str(scenes["changes"].pictures / "20.png")
    words = ("query", picture, "--catalog", catalog, "-k", "2", "--include-self")
    process = start(Plan(str(tmp_path / "log"), file_size=0), *words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert picture in out
