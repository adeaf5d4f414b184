"""One rule picks the structure."""

from __future__ import annotations

import pytest

from indexer import CatalogError, InvalidArgument
from indexer.neighbours.choosing import FLAT, SAMPLE, Wish, lists_for, structures

PLENTY = 64_000_000_000


@pytest.mark.parametrize(
    ("count", "dim", "first"),
    [
        (1, 1024, FLAT),
        (73_000, 1024, FLAT),
        (74_000, 1024, "PCAR128,IVF1024,PQ128x4fsr"),
        (150_000, 1024, "PCAR128,IVF2048,PQ128x4fsr"),
        (1_000_000, 1024, "PCAR128,IVF4096,PQ128x4fsr"),
        (390_000, 192, FLAT),
        (1_000_000, 192, "PCAR48,IVF4096,PQ48x4fsr"),
        (2_000_000, 100, "IVF4096,PQ25x4fsr"),
        (100_000_000, 1024, "PCAR128,IVF32768,PQ128x4fsr"),
        (1_000_000, 1023, "IVF4096,SQ8"),
    ],
)
def test_by_number_and_length(count: int, dim: int, first: str) -> None:
    kinds = structures(count, dim, Wish(memory=PLENTY))
    assert kinds[0] == first
    assert kinds[-1] == FLAT


def test_what_does_not_fit_the_memory_is_left_out() -> None:
    assert structures(1_000_000, 1024, Wish(memory=1_500_000_000))[-2] == "IVF4096,PQ256x4fsr"
    assert structures(1_000_000, 1024, Wish(memory=100_000_000)) == (FLAT,)
    with pytest.raises(CatalogError, match="--memory"):
        structures(1_000_000, 1024, Wish("ivf", memory=100_000_000))


def test_a_quarter_of_the_memory_is_enough_unless_more_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.neighbours.choosing.memory", lambda: 4 * 1_500_000_000)
    assert structures(1_000_000, 1024, Wish()) == structures(1_000_000, 1024, Wish(memory=1_500_000_000))
    monkeypatch.setattr("indexer.neighbours.choosing.memory", lambda: 4 * 100_000_000)
    assert structures(1_000_000, 1024, Wish()) == (FLAT,)


def test_what_is_asked_for_is_taken() -> None:
    assert structures(10_000_000, 1024, Wish(FLAT)) == (FLAT,)
    assert structures(10_000, 1024, Wish("ivf", memory=PLENTY))[0] == "PCAR128,IVF128,PQ128x4fsr"
    assert structures(10_000, 1024, Wish("hnsw")) == ("HNSW32,SQ8",)
    assert structures(10_000, 1024, Wish("IVF64,Flat")) == ("IVF64,Flat",)


@pytest.mark.parametrize("wish", [Wish(recall=0), Wish(recall=1.01), Wish(recall=float("nan")), Wish(memory=1000)])
def test_wishes_that_cannot_be_meant(wish: Wish) -> None:
    with pytest.raises(InvalidArgument):
        wish.check()


def test_lists_have_enough_to_be_trained_with() -> None:
    for count in (1, 39, 40, 1000, 10_000, 10_000_000, 10**10):
        assert 1 <= lists_for(count) <= max(count / SAMPLE, 1)
