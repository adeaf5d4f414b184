"""bench: what it measures and says, whatever it measures with, and that nothing of it stays."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer import BenchReport, InvalidArgument, Progress, load_embedder
from indexer.embed import peak
from indexer.embed.embedder import Embedded, Embedder
from indexer.preprocess import Pixels
from indexer.verbs.bench import SEARCHED, BenchOptions, bench

from ..conftest import EVA_TINY, PHOTOS, save_picture
from ..embed.conftest import needs_int8
from ..fakes import AheadEmbedder

QUICK = BenchOptions(pictures=24, seconds=0.02)
# in so much time even a busy machine takes the largest batch through the fake
UNHURRIED = replace(QUICK, seconds=0.2)


class Fake(AheadEmbedder):
    """In a precision that it is told, and as slow as it is told."""

    seconds = 0.0

    def __init__(self, precision: str, batch_size: int | None) -> None:
        super().__init__(batch_size=batch_size or 8)
        self.precision = "fp32" if precision == "auto" else precision

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        time.sleep(len(batch) * self.seconds)
        return super().forward(batch, k)


class Slow(Fake):
    seconds = 0.01


class Slowest(Fake):
    """Far slower than a busy machine decodes."""

    seconds = 0.2

    def __init__(self, precision: str, batch_size: int | None) -> None:
        super().__init__(precision, batch_size or 1)


class Small(Fake):
    """Runs out of memory with more than eight pictures."""

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        self.batch_size = min(self.batch_size, 8)
        return super().forward(batch, k)


@pytest.fixture(autouse=True)
def passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where passing folders are made."""
    folder = tmp_path / "passing"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only torch can tell: a picture is a million operations, the machine does 10^10 a second."""
    monkeypatch.setattr(peak, "operations", lambda source: 1e6)
    monkeypatch.setattr(peak, "product_rate", lambda device, precision, seconds: 1e10)


def check(report: BenchReport) -> None:
    """What holds for every report."""
    assert report.processor
    assert report.cores >= 1
    decoding = report.decoding
    rates = [decoding.decode, decoding.prepare, decoding.together, report.store, report.end_to_end]
    assert all(rate > 0 for rate in rates)
    assert set(report.stages) == {"decode and prepare", "forward", "store"}
    assert report.stages[report.bottleneck] == min(report.stages.values())
    assert report.share_of_bottleneck == report.end_to_end / min(report.stages.values())
    for forward in report.forwards:
        assert forward.share == pytest.approx(forward.rate * report.operations / forward.peak)
    assert [search.vectors for search in report.searches] == list(SEARCHED)
    assert report.searched_within(0.1) == pytest.approx(10 * report.searched_within(0.01), rel=0.01)


def test_every_stage_is_measured(known_peak: None, passing: Path) -> None:
    stages: list[Progress] = []
    report = bench(Fake, UNHURRIED, stages.append)
    check(report)
    measured = [(forward.precision, forward.batch) for forward in report.forwards]
    assert measured == [(precision, batch) for precision in ("fp32", "bf16", "int8") for batch in (1, 8, 32)]
    assert [(agreed.precision, agreed.same_first) for agreed in report.agreements] == [("bf16", 1), ("int8", 1)]
    assert [agreed.mean_cosine for agreed in report.agreements] == pytest.approx([1, 1])
    assert report.built == 24
    assert (report.pictures, report.precision, report.batch, report.device) == (
        "made-up JPEGs of 500 x 375",
        "fp32",
        8,
        "cpu",
    )
    assert report.remarks == ()
    assert {progress.stage for progress in stages} == {"load", "decode", "forward", "commit", "embed", "query", "agree"}
    assert not list(passing.iterdir())


def test_the_bottleneck_is_the_slowest_stage(known_peak: None) -> None:
    report = bench(Slowest, replace(QUICK, precision="fp32", pictures=4, seconds=0.5))
    assert report.bottleneck == "forward"  # 5 pictures a second at most
    assert report.agreements == ()
    assert {forward.precision for forward in report.forwards} == {"fp32"}
    assert replace(report, store=0.5).bottleneck == "store"
    slow_decoders = replace(report, decoding=replace(report.decoding, together=0.5), end_to_end=0.375)
    assert slow_decoders.bottleneck == "decode and prepare"
    assert slow_decoders.share_of_bottleneck == 0.75


@pytest.mark.parametrize(("device", "told"), [("cpu", True), ("mps", False)])
def test_the_model_is_measured_as_in_a_long_build(known_peak: None, device: str, told: bool) -> None:
    """On a CPU, whose cores share themselves out then; a GPU would compile first."""
    totals: list[int | None] = []

    class Told(Fake):
        def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
            totals.append(total)
            return super().stream(batches, total)

    Told.device = device
    bench(Told, replace(QUICK, precision="fp32"))
    assert ((totals[0] or 0) >= 100_000) == told


def test_passes_that_would_take_too_long_are_left_out(known_peak: None) -> None:
    report = bench(Slow, replace(QUICK, precision="fp32", seconds=0.1))
    assert [forward.batch for forward in report.forwards] == [1, 8]
    (remark,) = report.remarks
    assert remark == "fp32 with 32 pictures a pass was left out: one takes longer than --seconds."


def test_passes_that_do_not_fit_are_left_out(known_peak: None) -> None:
    report = bench(Small, replace(UNHURRIED, precision="fp32"))
    assert [forward.batch for forward in report.forwards] == [1, 8]
    assert report.remarks == ("fp32 with 32 pictures a pass does not fit cpu.",)


def test_a_precision_that_there_is_none_of(known_peak: None) -> None:
    def load(precision: str, batch_size: int | None) -> Embedder:
        if precision == "int8":
            raise InvalidArgument("No int8 here. Use another.")
        return Fake(precision, batch_size)

    report = bench(load, UNHURRIED)
    assert {forward.precision for forward in report.forwards} == {"fp32", "bf16"}
    assert report.remarks == ("int8 was left out. No int8 here. Use another.",)


def test_pictures_of_ones_own(known_peak: None, pictures: Path, passing: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (pictures / "notes.txt").write_text("no picture")
    before = sorted((path, path.stat().st_mtime_ns) for path in pictures.rglob("*"))
    report = bench(Fake, replace(QUICK, images=pictures))
    check(report)
    assert report.built == 6
    assert report.pictures == str(pictures)
    assert {agreed.pictures for agreed in report.agreements} == {6}
    assert sorted((path, path.stat().st_mtime_ns) for path in pictures.rglob("*")) == before
    assert bench(Fake, replace(QUICK, images=pictures, pictures=2)).built == 2
    assert not list(passing.iterdir())


def test_a_single_picture(known_peak: None, tmp_path: Path) -> None:
    save_picture(tmp_path / "one" / "a.png")
    report = bench(Fake, replace(QUICK, images=tmp_path / "one"))
    check(report)
    assert report.built == 1
    assert report.agreements == ()  # which has no neighbour


def test_nothing_is_left_of_one_that_fails(known_peak: None, passing: Path) -> None:
    class Broken(Fake):
        passes = 0

        def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
            if any(passing.glob("*/catalog")):
                raise ZeroDivisionError
            return super().forward(batch, k)

    with pytest.raises(ZeroDivisionError):
        bench(Broken, QUICK)
    assert not list(passing.iterdir())


def broken(folder: Path) -> Path:
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder


def test_what_cannot_be_measured(known_peak: None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options, says in (
        (replace(QUICK, images=tmp_path / "nowhere"), "There is no folder .*nowhere"),
        (replace(QUICK, images=tmp_path / "empty"), "holds no picture"),
        (replace(QUICK, images=broken(tmp_path / "broken")), "None of the pictures could be decoded .damaged"),
        (replace(QUICK, pictures=1), "--pictures 2 or more"),
        (replace(QUICK, seconds=0), "--seconds above 0"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            bench(Fake, options)


@needs_int8
def test_a_real_model() -> None:
    report = bench(functools.partial(load_embedder, str(EVA_TINY), device="cpu"), BenchOptions(PHOTOS, 8, 0.05, "int8"))
    check(report)
    assert report.precision == "int8"
    assert {forward.precision for forward in report.forwards} == {"int8"}
    assert report.operations == peak.operations(str(EVA_TINY))
    (agreed,) = report.agreements
    assert (agreed.precision, agreed.pictures, report.built) == ("int8", 8, 8)
    assert 0.99 < agreed.lowest_cosine <= agreed.mean_cosine < 0.999999
    assert np.isfinite([forward.share for forward in report.forwards]).all()
