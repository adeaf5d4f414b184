"""All pairs above a score: exactly those of the whole matrix, within bounds."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest

from indexer.neighbours import pairs
from indexer.neighbours.pairs import Blas, Cuda, Hits, Pairs, fastest, pairs_above, similarity

Half = npt.NDArray[np.float16]


def rows(count: int, dim: int = 24, seed: int = 0) -> Half:
    """Unit rows, some of them close to others."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, dim))
    made[1::4] = made[::4][: len(made[1::4])] + 0.3 * made[1::4]
    return unit(made)


def unit(made: npt.NDArray[np.float64]) -> Half:
    rounded: Half = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)
    return rounded


def matrix(left: Half, right: Half) -> npt.NDArray[np.float64]:
    a, b = (side.astype(np.float64) for side in (left, right))
    whole: npt.NDArray[np.float64] = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    return whole


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


class SmallTiles(Blas):
    step = 7


@pytest.mark.parametrize("multiplier", [Blas(), SmallTiles()], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.3, -0.2])
def test_they_are_those_of_the_matrix(threshold: float, multiplier: Blas) -> None:
    some = rows(40)
    whole = np.triu(matrix(some, some), 1) + np.tril(np.full((40, 40), -2.0))
    found = pairs_above(some, threshold, 40, multiplier=multiplier)
    left, right = np.nonzero(whole >= threshold)
    assert len(left) > 5
    assert (found.left.tolist(), found.right.tolist()) == (left.tolist(), right.tolist())
    assert np.allclose(found.scores, whole[left, right], atol=1e-6)


@pytest.mark.parametrize("multiplier", [Blas(), SmallTiles()], ids=["one tile", "many tiles"])
def test_across_two_sets(multiplier: Blas) -> None:
    ours, theirs = rows(30), rows(17, seed=0)
    found = pairs_above(ours, 0.5, 40, others=theirs, multiplier=multiplier)
    left, right = np.nonzero(matrix(ours, theirs) >= 0.5)
    assert (found.left.tolist(), found.right.tolist()) == (left.tolist(), right.tolist())
    assert len(left) >= 17  # the first rows are the same


@pytest.mark.parametrize("multiplier", [Blas(), SmallTiles()], ids=["one tile", "many tiles"])
def test_a_row_keeps_its_best_partners(multiplier: Blas) -> None:
    rng = np.random.default_rng(1)
    close = unit(np.ones(24) + 0.1 * rng.standard_normal((60, 24)))
    top = 3
    found = pairs_above(close, 0.9, top, multiplier=multiplier)
    whole = matrix(close, close) - 3 * np.eye(60)
    best = np.argsort(-whole, axis=1)[:, :top]
    wanted = {(min(i, int(j)), max(i, int(j))) for i in range(60) for j in best[i]}
    assert as_set(found) == wanted
    assert len(found.left) <= 60 * top


@pytest.mark.gpu
@pytest.mark.parametrize("threshold", [0.8, 0.3])
def test_a_gpu_finds_the_same(threshold: float) -> None:
    some, others = rows(5000, 256), rows(700, 256, seed=3)
    others[:500:2] = some[1000:1250]
    for across in (None, others):
        ours = pairs_above(some, threshold, 8, others=across, multiplier=Cuda())
        theirs = pairs_above(some, threshold, 8, others=across, multiplier=Blas())
        assert len(ours.left) > 100
        assert as_set(ours) == as_set(theirs)
        assert np.array_equal(ours.scores, theirs.scores)


def test_many_almost_equal_rows_stay_within_bounds() -> None:
    rng = np.random.default_rng(2)
    close = unit(np.ones(8) + 1e-2 * rng.standard_normal((900, 8)))
    found = pairs_above(close, 0.5, 4, multiplier=SmallTiles())
    assert 900 * 2 <= len(found.left) <= 900 * 4


def test_a_row_that_has_its_best_takes_no_more() -> None:
    taken: list[int] = []

    class Counted(SmallTiles):
        def hits(self, left: np.ndarray, right: np.ndarray, floors: tuple[np.ndarray, np.ndarray], top: int) -> Hits:
            found = super().hits(left, right, floors, top)
            taken.append(len(found.rows))
            return found

    same = np.repeat(rows(1), 300, axis=0)
    found = pairs_above(same, 0.5, 4, multiplier=Counted())
    assert sum(taken[-100:]) == 0
    assert np.bincount(np.concatenate([found.left, found.right])).min() >= 4


def test_without_a_driver_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_has_driver", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert isinstance(fastest(10**6), Blas)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int) -> None:
    assert len(pairs_above(rows(count), 0.0, 5).left) == 0


def test_lengths_do_not_count() -> None:
    some = rows(9)
    stretched = (some.astype(np.float32) * np.float32(1.0005)).astype(np.float16)
    assert similarity(some, stretched, np.arange(9), np.arange(9)) == pytest.approx(1, abs=1e-5)
    assert similarity(some, some, np.arange(9), np.arange(9)).max() <= 1


def test_progress_counts_tiles() -> None:
    seen: list[tuple[int, int]] = []
    pairs_above(rows(20), 0.9, 5, multiplier=SmallTiles(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]  # three blocks of rows
