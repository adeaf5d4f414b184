"""What the tests of faults share: a catalog to build, a process that builds it, and what must be true afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer import BuildReport, Catalog, CatalogNotFound
from indexer.store.store import FILE, Store

from ..conftest import ROOT, save_picture
from ..fakes import FakeEmbedder
from .driver import COMMIT_IMAGES, Plan

Row = tuple[Any, ...]
BROKEN = b"\x89PNG\r\n\x1a\nbroken"
# a killed build leaves no process behind for longer than this
ORPHANS_GONE = 5.0
# what a catalog that nobody has open consists of
BELONGS = ("catalog.sqlite", "catalog.seal", "build.lock")

_IMAGES = """
SELECT roots.path, images.path, images.size, mtime_ns, ctime_ns, hex(sha256), bytes, width, height, format, taken,
    camera, hex(vector), hex(pixels), hex(signature),
    (SELECT group_concat(rank || ':' || class || ':' || probability, ' ')
        FROM (SELECT * FROM labels WHERE labels.content_id = contents.id ORDER BY model_id, rank))
FROM images JOIN roots ON roots.id = root_id JOIN contents ON contents.id = images.content_id
LEFT JOIN vectors ON vectors.content_id = contents.id
LEFT JOIN fingerprints ON fingerprints.content_id = contents.id ORDER BY 1, 2
"""
_SKIPS = "SELECT roots.path, skips.path, reason, tried_with FROM skips JOIN roots ON roots.id = root_id ORDER BY 1, 2"


@dataclass(frozen=True)
class State:
    """All that matters of a catalog, vectors bit for bit."""

    images: list[Row]
    skips: list[Row]
    counts: dict[str, int]

    @classmethod
    def of(cls, folder: Path) -> State:
        conn = sqlite3.connect(folder / FILE)
        try:
            counts = {
                table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in (
                    *("roots", "models", "classes", "contents", "fingerprints", "vectors", "labels", "images", "skips"),
                )
            }
            return cls(conn.execute(_IMAGES).fetchall(), conn.execute(_SKIPS).fetchall(), counts)
        finally:
            conn.close()


@dataclass
class Scene:
    """Pictures, the catalog as it was before the build that is disturbed (None: there was none), and what must come.

    fresh: how many contents an undisturbed build embeds.
    """

    pictures: Path
    before: Path | None
    after: State
    fresh: int
    known: set[Row] = field(default_factory=set)

    @classmethod
    def make(cls, pictures: Path, before: Path | None, scratch: Path) -> Scene:
        """Sees what an undisturbed build comes to."""
        copy_catalog(before, scratch)
        report = rebuild(scratch, pictures)
        scene = cls(pictures, before, State.of(scratch), report.embedded)
        scene.known = {*scene.after.images, *(State.of(before).images if before else ())}
        return scene


def first_build(folder: Path) -> Scene:
    """A build from nothing: thirty pictures, copies, and files that are none."""
    pictures = folder / "pictures"
    for seed in range(30):
        save_picture(pictures / f"{'sub/' * (seed % 3)}{seed:02}.png", seed)
    copies_and_skips(pictures)
    return Scene.make(pictures, None, folder / "undisturbed")


def changes(folder: Path) -> Scene:
    """A catalog of forty pictures, then pictures that are new, changed, moved, removed and broken."""
    pictures = folder / "pictures"
    for seed in range(30):
        save_picture(pictures / f"{seed:02}.png", seed)
    for seed in range(30, 40):
        save_picture(pictures / f"old/{seed}.png", seed)
    copies_and_skips(pictures)
    rebuild(folder / "before", pictures)
    for seed in range(100, 112):
        save_picture(pictures / f"new/{seed}.png", seed)
    for seed in (3, 4, 5):
        save_picture(pictures / f"{seed:02}.png", 200 + seed)
    (pictures / "old").rename(pictures / "moved")  # a fifth of all: not to be taken for an accident
    (pictures / "10.png").unlink()
    (pictures / "11.png").unlink()
    (pictures / "12.png").write_bytes(BROKEN)
    (pictures / "new/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (pictures / "broken.png").unlink()
    shutil.copy(pictures / "20.png", pictures / "new/copy.png")
    (pictures / "new/notes.txt").write_text("no picture")
    return Scene.make(pictures, folder / "before", folder / "undisturbed")


def copies_and_skips(pictures: Path) -> None:
    shutil.copy(pictures / "00.png", pictures / "copy.png")
    (pictures / "broken.png").write_bytes(BROKEN)
    (pictures / "notes.txt").write_text("no picture")


def copy_catalog(source: Path | None, target: Path) -> Path:
    if source is not None:
        shutil.copytree(source, target)
    return target


def rebuild(folder: Path, pictures: Path, fake: FakeEmbedder | None = None) -> BuildReport:
    """A build that nothing disturbs, in this process."""
    with Catalog.create(folder, loader=lambda _: fake or FakeEmbedder(batch_size=4)) as catalog:
        return catalog.build([pictures], workers=1)


def start(plan: Plan, *words: str | Path, preload: Path | None = None, **more: str) -> subprocess.Popen[str]:
    """An `indexer` of its own that follows a plan."""
    environment = {**os.environ, **more, "PLAN": plan.to_json()}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.driver", *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_build(plan: Plan, scene: Scene, catalog: Path, **more: Any) -> subprocess.Popen[str]:
    words = ("build", scene.pictures, "--catalog", catalog, "--workers", "1")
    return start(plan, *words, **more)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def assert_no_process_left(process: subprocess.Popen[str]) -> None:
    """The decoders of a build that was killed end by themselves."""
    deadline = time.monotonic() + ORPHANS_GONE
    while is_alive(process.pid):
        assert time.monotonic() < deadline, "a decoder has outlived its build"
        time.sleep(0.02)


def is_alive(group: int) -> bool:
    """Whether a process of a group runs; one that waits to be reaped does not."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state not in "ZX":
                return True
    return False


def logged(log: Path, word: str) -> list[int]:
    if not log.exists():
        return []
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(word)]


def assert_unharmed(catalog: Path, scene: Scene, log: Path, scratch: Path) -> None:
    """A catalog that a build left in the middle answers from its last commit, and nothing in it is damaged.

    Looks at a copy, so that the next build finds what the disturbed one left.
    """
    commits = logged(log, "commit")
    shutil.copytree(catalog, scratch)
    try:
        with Catalog.open(scratch, readonly=True) as opened:
            check_answers(opened)
    except CatalogNotFound:
        assert scene.before is None
        assert not commits
        return
    store = Store.open(scratch, readonly=True)
    assert store.generation >= max(commits, default=0)
    store.close()
    report = Catalog.verify(scratch)
    assert report.problems == ()
    assert set(State.of(scratch).images) <= scene.known


def check_answers(catalog: Catalog) -> None:
    """Every picture in a catalog that is still the same finds itself."""
    for image in catalog:
        path = Path(image.path)
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == image.sha256:
            matches = catalog.query(path, k=3, include_self=True)
            assert path.as_posix() in {match.path for match in matches if match.score > 0.999}


def assert_goes_on(catalog: Path, scene: Scene, log: Path) -> None:
    """The next build ends where an undisturbed one does, and repeats little."""
    fake = FakeEmbedder(batch_size=4)
    rebuild(catalog, scene.pictures, fake)
    assert State.of(catalog) == scene.after
    assert sum(logged(log, "embed")) + sum(fake.batches) - scene.fresh <= COMMIT_IMAGES
    assert_finished(catalog)


def assert_finished(catalog: Path) -> None:
    """Nothing is amiss, and nothing is left over."""
    report = Catalog.verify(catalog)
    assert (report.problems, report.notes) == ((), ())
    others = [path.name for path in catalog.iterdir() if path.name not in BELONGS]
    assert len(others) == 1, others
    assert others[0].endswith(".faiss")
