"""indexer bench on the command line: the object, the table, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.cli import common
from indexer.embed import peak

from ..conftest import EVA_TINY, PHOTOS
from .conftest import Run

real_loader = common.loader
QUICK = ("--seconds", "0.02", "--pictures", "16", "--precision", "fp32")
FIELDS = {
    *("processor", "cores", "device", "device_name", "model", "dim", "operations", "pictures", "precision", "batch"),
    *("decoding", "forwards", "agreements", "store", "built", "end_to_end", "searches", "seconds", "remarks"),
    *("stages", "bottleneck", "share_of_bottleneck", "searched_within_10_ms", "searched_within_100_ms"),
}


@pytest.fixture
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "operations", lambda source: 1e6)
    monkeypatch.setattr(peak, "product_rate", lambda device, precision, seconds: 1e10)


@pytest.fixture
def real(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same with real models."""
    monkeypatch.setattr(common, "loader", real_loader)
    return run


def test_as_json(run: Run, known_peak: None) -> None:
    done = run("bench", "--json", *QUICK)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert set(report) == FIELDS
    assert report["stages"][report["bottleneck"]] == min(report["stages"].values())
    assert set(report["decoding"]) == {"decode", "prepare", "together", "processes"}
    assert {name for forward in report["forwards"] for name in forward} == {
        *("precision", "batch", "rate", "peak", "share"),
    }
    assert [set(search) for search in report["searches"]] == [{"vectors", "seconds", "vectors_per_second"}] * 2
    assert not list(Path().iterdir())


def test_as_a_table(run: Run, known_peak: None) -> None:
    done = run("bench", *QUICK)
    assert (done.code, done.err) == (0, "")
    for words in (
        *(
            "decode, one core",
            "prepare, one core",
            "forward, fp32, batch 8",
            "end to end, 16 pictures",
            "From 1,600,000 vectors on build makes an index.",
            "share of peak",
        ),
        *("10 GFLOP/s", "20,000 vectors", "Bottleneck: ", "no data sheet's"),
    ):
        assert words in done.out


def test_a_real_model(real: Run) -> None:
    done = real("bench", "--model", EVA_TINY, "--images", PHOTOS, "--json", *QUICK, "--device", "cpu")
    report = json.loads(done.out)
    assert report["model"].startswith("eva02_tiny")
    assert (report["device"], report["dim"], report["built"]) == ("cpu", 192, 16)
    assert report["operations"] == pytest.approx(0.369e9, rel=0.01)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--images", "nowhere"), 1, "Error: There is no folder nowhere. Check the spelling."),
        (("--images", "."), 1, "Error: The folder . holds no picture that indexer opens. Give one that does."),
        (("--model", "./nothing"), 1, "Error: There is no folder ./nothing."),
        (("--device", "abacus", "--model", str(EVA_TINY)), 1, "Error: There is no device 'abacus'."),
        (("--seconds", "0"), 2, "Error: Invalid value for '--seconds'"),
        (("--pictures", "1"), 2, "Error: Invalid value for '--pictures'"),
    ],
)
def test_one_line_for_what_cannot_be(real: Run, words: tuple[str, ...], code: int, says: str) -> None:
    done = real("bench", *words)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert code == 2 or done.err.count("\n") == 1
