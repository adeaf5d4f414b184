"""kill -9 at every named point of a build, and at any instant: the last commit stands, the next build goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import Catalog, Embedder, load_embedder
from indexer.cli.common import SOME_SKIPPED
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Prepared
from indexer.store.rows import Entry, Refusal, StoredModel
from indexer.store.store import Store
from indexer.verbs import build

from ..conftest import EVA_TINY, PHOTOS
from ..fakes import FakeEmbedder
from .driver import Plan, points
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
    logged,
    rebuild,
    start,
    start_build,
    wait_until,
    wait_until_ready,
)

SCENES = {"first": first_build, "changes": changes}
# scene, point, and how often it is passed before
KILLS = [
    ("first", "made", 1),
    ("first", "migration", 3),
    ("first", "root", 1),
    ("first", "scan", 20),
    ("first", "model", 1),
    ("first", "decode", 11),
    ("first", "embed before", 3),
    ("first", "commit before", 1),
    ("first", "commit contents", 2),
    ("first", "commit vectors", 1),
    ("first", "commit after", 1),
    ("first", "index after", 1),
    ("first", "seal before", 1),
    ("changes", "lock", 1),
    ("changes", "left over", 1),
    ("changes", "read", 9),
    ("changes", "embed after", 3),
    ("changes", "seal break before", 1),
    ("changes", "seal break after", 1),
    ("changes", "commit before", 2),
    ("changes", "commit contents", 1),
    ("changes", "commit vectors", 3),
    ("changes", "commit after", 4),
    ("changes", "clean-up before", 1),
    ("changes", "clean-up after", 1),
    ("changes", "index before", 1),
    ("changes", "stamp after", 1),
    ("changes", "index rename before", 1),
    ("changes", "index rename after", 1),
    ("changes", "index named", 1),
    ("changes", "others removed", 1),
    ("changes", "refreshed", 1),
    ("changes", "seal rename before", 1),
    ("changes", "seal rename after", 1),
    ("changes", "seal after", 1),
]


REPAIRS = ["salvage before", "salvage after", "salvage rename before", "salvage rename after", "salvaged"]

pytestmark = pytest.mark.usefixtures("old_files")


@pytest.fixture(scope="module")
def scenes(old_files: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in SCENES.items()}


def test_every_point_is_tried() -> None:
    assert {point for _, point, _ in KILLS} | set(REPAIRS) == set(points())


@pytest.mark.parametrize(("name", "point", "nth"), KILLS)
def test_a_build_killed_at_a_point(scenes: dict[str, Scene], tmp_path: Path, name: str, point: str, nth: int) -> None:
    scene, log = scenes[name], tmp_path / "log"
    catalog = copy_catalog(scene.before, tmp_path / "catalog")
    process = start_build(Plan(str(log), point, nth), scene, catalog)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)
    assert_no_process_left(process)
    assert_unharmed(catalog, scene, log, tmp_path / "copy")
    assert_goes_on(catalog, scene, log)


def kill_at_an_instant(scene: Scene, folder: Path, seconds: float) -> bool:
    """Whether the build was still running so many seconds after it had begun."""
    log, catalog = folder / "log", copy_catalog(scene.before, folder / "catalog")
    process = start_build(Plan(str(log), dawdle=0.02), scene, catalog)
    wait_until_ready(process)
    time.sleep(seconds)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, SOME_SKIPPED)
    assert_no_process_left(process)
    if catalog.exists():
        assert_unharmed(catalog, scene, log, folder / "copy")
    assert_goes_on(catalog, scene, log)
    return process.returncode == -signal.SIGKILL


def length_of(scene: Scene, folder: Path) -> float:
    """Seconds that a build takes which nothing disturbs."""
    catalog = copy_catalog(scene.before, folder / "undisturbed")
    process = start_build(Plan(str(folder / "log of undisturbed"), dawdle=0.02), scene, catalog)
    wait_until_ready(process)
    started = time.monotonic()
    process.communicate(timeout=60)
    assert State.of(catalog) == scene.after  # the driver's build is that of the reference
    return time.monotonic() - started


@pytest.mark.parametrize("name", SCENES)
def test_a_build_killed_at_some_instants(scenes: dict[str, Scene], tmp_path: Path, name: str) -> None:
    longest = length_of(scenes[name], tmp_path)
    for number, share in enumerate(np.random.default_rng(7).uniform(0.2, 1.0, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_at_an_instant(scenes[name], folder, share * longest)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENES)
def test_a_build_killed_at_a_hundred_instants(scenes: dict[str, Scene], tmp_path: Path, name: str) -> None:
    longest, killed = length_of(scenes[name], tmp_path), 0
    for number, share in enumerate(np.random.default_rng(8).uniform(0.0, 1.0, 100)):
        folder = tmp_path / str(number)
        folder.mkdir()
        killed += kill_at_an_instant(scenes[name], folder, share * longest)
        shutil.rmtree(folder)
    assert killed > 70


def test_a_build_killed_after_every_commit_ends_all_the_same(scenes: dict[str, Scene], tmp_path: Path) -> None:
    scene, log = scenes["changes"], tmp_path / "log"
    catalog = copy_catalog(scene.before, tmp_path / "catalog")
    ends: list[int] = []
    while not ends or ends[-1] == -signal.SIGKILL:
        assert len(ends) < 20
        process = start_build(Plan(str(log), "commit after", 1), scene, catalog)
        process.communicate(timeout=60)
        ends.append(process.returncode)
    assert ends[-1] in (0, SOME_SKIPPED)
    assert len(ends) > 4
    assert State.of(catalog) == scene.after
    assert sum(logged(log, "embed")) == scene.fresh  # what was committed was not done again
    assert_finished(catalog)


def test_what_can_be_lost_is_a_thousand_pictures_or_a_minute(
    scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.COMMIT_IMAGES <= 1000
    assert build.COMMIT_SECONDS <= 30  # and what is in the model by then
    monkeypatch.setattr(build, "COMMIT_SECONDS", 0.0)
    sizes: list[int] = []
    real = Store.commit

    def commit(store: Store, entries: list[Entry], refusals: list[Refusal], model: StoredModel | None) -> None:
        sizes.append(len(entries) + len(refusals))
        real(store, entries, refusals, model)

    monkeypatch.setattr(Store, "commit", commit)
    rebuild(tmp_path / "catalog", scenes["first"].pictures)
    assert len(sizes) >= 30 / 4
    assert max(sizes) < 10


# -- repairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", REPAIRS)
def test_a_repair_killed_at_a_point(scenes: dict[str, Scene], tmp_path: Path, point: str) -> None:
    scene, log = scenes["changes"], tmp_path / "log"
    catalog = tmp_path / "catalog"
    rebuild(catalog, scene.pictures)
    harm(catalog / "catalog.sqlite")
    process = start(Plan(str(log), point), "verify", "--repair", "--catalog", catalog)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)
    assert_no_process_left(process)
    fake = FakeEmbedder()
    report = Catalog.verify(catalog, repair=True, loader=lambda _: fake)
    assert report.lost == ()
    assert State.of(catalog) == scene.after
    assert sum(fake.batches) == 1  # what was sound is not embedded again
    assert_finished(catalog)


def harm(database: Path) -> None:
    """A vector that is not what was written."""
    conn = sqlite3.connect(database)
    conn.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 9")
    conn.commit()
    conn.close()


# -- decoders ----------------------------------------------------------------------------------------------------------


def test_a_decoder_in_the_middle_of_a_large_picture_ends_too(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("L", (14_000, 14_000)).save(tmp_path / "pictures" / "large.png", compress_level=1)
    scene = Scene(tmp_path / "pictures", None, State([], [], {}), 0)
    process = start_build(Plan(str(tmp_path / "log"), "decode", 1), scene, tmp_path / "catalog")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert_no_process_left(process)


def test_a_decoder_that_hangs_ends_too(scenes: dict[str, Scene], tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start_build(Plan(str(log), hang=True), scenes["first"], tmp_path / "catalog")
    try:
        wait_until(lambda: logged(log, "hang"))
        process.kill()
        process.communicate(timeout=60)
        assert_no_process_left(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_decoder_that_is_killed_costs_no_picture(scenes: dict[str, Scene], tmp_path: Path) -> None:
    """By the system, say, when memory runs out: what it was decoding is as good as ever."""
    killed: list[int] = []
    real = Decoders.submit

    def submit(self: Decoders, data: bytes, kind: str) -> Future[Prepared]:
        process = self._workers[0].process
        if process is not None and not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGSTOP)  # so that it does not answer before
            threading.Timer(0.3, os.kill, [process.pid, signal.SIGKILL]).start()
        return real(self, data, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoders, "submit", submit)
        rebuild(tmp_path / "catalog", scenes["first"].pictures)
    assert killed
    rebuild(tmp_path / "catalog", scenes["first"].pictures)
    assert State.of(tmp_path / "catalog") == scenes["first"].after


# -- the real model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(str(EVA_TINY), device="cpu")


@pytest.fixture(scope="module")
def photographs(old_files: None, tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Scene:
    """The demo photographs in two sizes, built without disturbance by the real model."""
    folder = tmp_path_factory.mktemp("photographs")
    for path in sorted(PHOTOS.glob("*.jpg")):
        shutil.copy(path, folder / path.name)
        with Image.open(path) as image:
            image.resize((100, 80)).save(folder / f"small-{path.name}")
    with Catalog.create(folder.parent / "undisturbed", loader=lambda _: embedder) as catalog:
        report = catalog.build([folder], workers=1)
    return Scene(folder, None, State.of(folder.parent / "undisturbed"), report.embedded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "nth"), [("read", 20), ("commit vectors", 2), ("commit after", 3), ("seal before", 1)]
)
def test_the_real_model_ends_with_the_same_vectors(
    photographs: Scene, embedder: Embedder, tmp_path: Path, point: str, nth: int
) -> None:
    catalog, plan = tmp_path / "catalog", Plan(str(tmp_path / "log"), point, nth, fake=False)
    words = ("build", photographs.pictures, "--catalog", catalog, "--workers", "1", "--model", EVA_TINY)
    process = start(plan, *words, "--device", "cpu")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert_no_process_left(process)
    with Catalog.create(catalog, loader=lambda _: embedder) as opened:
        opened.build([photographs.pictures], workers=1)
    here, there = State.of(catalog), photographs.after
    assert (here.counts, here.skips) == (there.counts, there.skips)
    for mine, others in zip(here.images, there.images, strict=True):
        assert mine[:-1] == others[:-1]  # vectors bit for bit
        # torch's last bits depend on how many pictures are in a batch, and so do those of a probability
        assert [label.split(":")[:2] for label in mine[-1].split()] == [
            label.split(":")[:2] for label in others[-1].split()
        ]
    assert_finished(catalog)
