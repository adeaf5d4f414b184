"""All pairs of vectors above a score, in bounded memory: a tile of the symmetric product at a time.

An N x N matrix is never made, and no vector gives more than its best few partners, so that a collection of 50,000
almost equal pictures costs no more than another.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..halves import Half, unit

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

# rows of a tile: a product large enough for BLAS, and 64 MiB of scores
STEP = 4096
CUDA_STEP = 16384
# a product of rows that float16 has rounded, half of it in half precision, may fall so much short of the exact score
SLACK = 2e-3
# so many rows take the CPU longer than importing torch does
WORTH_CUDA = 50_000
# rows of a tile whose best are looked for at once
_STRIP = 512
# so few tiles are done before it is known how long they take
_FEW_TILES = 50


class Pairs(NamedTuple):
    """Pairs of rows, (M,) each, ordered by left and right. scores: cosine similarity."""

    left: Ids
    right: Ids
    scores: Scores


class Hits(NamedTuple):
    """What one tile holds that may count: places in its rows and columns, and scores; (M,) each."""

    rows: Ids
    columns: Ids
    scores: Scores


class Multiplier(Protocol):
    """Where tiles are computed. step: rows of a tile."""

    step: int

    def load(self, rows: Half) -> Any:
        """Some rows, where they can be multiplied."""

    def hits(self, left: Any, right: Any, floors: tuple[Scores, Scores], top: int) -> Hits:
        """The scores of a tile above the floor of their row or column, and no more than the best `top` of each.

        floors: (rows,) and (columns,).
        """


def pairs_above(
    rows: Half,
    threshold: float,
    top: int,
    *,
    others: Half | None = None,
    multiplier: Multiplier | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pairs:
    """All pairs of rows, (N, dim), with a cosine similarity of at least the threshold, exactly; left < right.

    rows: unit rows, as float16 has rounded them. top: of a row that has more partners, only so many of the best are
    kept (a pair stays if either keeps it). others: (M, dim); then all pairs of a row and one of these, left and right.
    progress: called with tiles done and their number.
    """
    work = multiplier or fastest(len(rows))
    across = rows if others is None else others
    offset = 0 if others is None else len(rows)  # one numbering for both, so that left < right there too
    best = _Best(len(across) + offset, top, threshold - SLACK)
    tiles = _tiles(len(rows), None if others is None else len(others), work.step)
    loaded = -1
    left: Any = None
    for done, (start, other) in enumerate(tiles, 1):
        if start != loaded:
            loaded, left = start, work.load(rows[start : start + work.step])
        right = work.load(across[other : other + work.step])
        floors = best.floors[start : start + len(left)], best.floors[offset + other :][: len(right)]
        # one more, since on the diagonal a row is its own best partner
        best.add(work.hits(left, right, floors, top + 1), start, offset + other)
        progress(done, len(tiles))
    first, second = best.pairs()
    return scored(rows, across, first, second - offset, threshold)


def estimate(
    rows: Half, threshold: float, top: int, *, others: Half | None = None, multiplier: Multiplier | None = None
) -> float:
    """Seconds that pairs_above would take on this machine, by the time of one tile; 0 where there are only a few."""
    work = multiplier or fastest(len(rows))
    tiles = _tiles(len(rows), None if others is None else len(others), work.step)
    if len(tiles) <= _FEW_TILES:
        return 0.0
    across = rows if others is None else others
    left, seconds = work.load(rows[: work.step]), []
    floors = np.full(work.step, threshold - SLACK, np.float32)
    for other in (0, work.step):  # the first is slower: threads and devices wake up
        started = time.perf_counter()
        work.hits(left, work.load(across[other : other + work.step]), (floors, floors), top + 1)
        seconds.append(time.perf_counter() - started)
    return min(seconds) * len(tiles)


def _tiles(rows: int, others: int | None, step: int) -> list[tuple[int, int]]:
    """The first row and column of every tile; without others those at and above the diagonal."""
    columns = rows if others is None else others
    return [(i, j) for i in range(0, rows, step) for j in range(i if others is None else 0, columns, step)]


class Blas:
    """NumPy's BLAS."""

    step = STEP

    def load(self, rows: Half) -> Scores:
        """See Multiplier."""
        return unit(rows)

    def hits(self, left: Scores, right: Scores, floors: tuple[Scores, Scores], top: int) -> Hits:
        """See Multiplier."""
        scores = left @ right.T
        of_rows, of_columns = floors[0][: len(left), None], floors[1][: len(right)]
        above = scores > min(of_rows.min(), of_columns.min())
        few = top * max(scores.shape)
        if np.count_nonzero(above) > few:
            above = (scores > of_rows) | (scores > of_columns)
            if np.count_nonzero(above) > few:
                above &= _best_of_rows(scores, top) | _best_of_rows(scores.T, top).T
        rows, columns = np.nonzero(above)
        return Hits(rows, columns, scores[rows, columns])


class Cuda:
    """A CUDA device, in half precision."""

    step = CUDA_STEP

    def __init__(self, device: str = "cuda") -> None:
        """Imports torch."""
        import torch

        self._torch = torch
        self._device = device

    def load(self, rows: Half) -> Any:
        """See Multiplier."""
        return self._torch.from_numpy(rows).to(self._device)

    def hits(self, left: Any, right: Any, floors: tuple[Scores, Scores], top: int) -> Hits:
        """See Multiplier."""
        scores = left @ right.T
        of_rows, of_columns = (self._torch.from_numpy(floor).to(scores) for floor in floors)
        above = (scores > of_rows[: len(left), None]) | (scores > of_columns[: len(right)])
        if int(above.sum()) > top * max(scores.shape):
            keep = self._torch.zeros_like(above)
            for dim in (0, 1):
                keep.scatter_(dim, scores.topk(min(top, scores.shape[dim]), dim).indices, True)
            above &= keep
        rows, columns = self._torch.nonzero(above, as_tuple=True)
        found = scores[rows, columns].float()
        return Hits(rows.cpu().numpy(), columns.cpu().numpy(), found.cpu().numpy())


def fastest(rows: int) -> Multiplier:
    """A CUDA device where there is one and enough to do for it, else the CPU."""
    if rows < WORTH_CUDA or not _has_driver():
        return Blas()
    import torch

    return Cuda() if torch.cuda.is_available() else Blas()


def _has_driver() -> bool:
    """Whether torch may find a device: where there is no driver for one, asking torch costs seconds and 700 MB."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")  # AMD's, which torch calls CUDA too
    return True


class _Best:
    """The best partners of every row so far: at most `top` each after a tidying, twice as many in between.

    floors: what a score has to exceed to count for a row, (count,).
    """

    def __init__(self, count: int, top: int, threshold: float) -> None:
        self.top = top
        self.floors = np.full(count, np.nextafter(np.float32(threshold), np.float32(-np.inf)))
        self.most = 2 * top * max(count, 1)
        self.held = 0
        self.parts: list[tuple[Ids, Ids, Scores]] = []

    def add(self, hits: Hits, row: int, column: int) -> None:
        """The hits of the tile whose first row and column these are."""
        rows, columns = hits.rows + row, hits.columns + column
        once = rows < columns  # a tile on the diagonal has every pair twice, and every row with itself
        rows, columns, scores = rows[once], columns[once], hits.scores[once]
        self.parts.append((np.concatenate([rows, columns]), np.concatenate([columns, rows]), np.tile(scores, 2)))
        self.held += 2 * len(rows)
        if self.held > self.most:
            self._tidy()

    def _tidy(self) -> None:
        rows, partners, scores = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        order = np.lexsort((partners, -scores, rows))
        rows, partners, scores = rows[order], partners[order], scores[order]
        first = np.searchsorted(rows, rows)  # where the run of each row begins
        kept = np.arange(len(rows)) - first < self.top
        self.parts = [(rows[kept], partners[kept], scores[kept])]
        self.held = int(kept.sum())
        # a row that has all it may keep only takes what is better; of equals the earlier stay, as in the order above
        last = np.flatnonzero(np.arange(len(rows)) - first == self.top - 1)
        self.floors[rows[last]] = scores[last]

    def pairs(self) -> tuple[Ids, Ids]:
        """What is left, each pair once, ordered."""
        if not self.parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        self._tidy()
        rows, partners, _ = self.parts[0]
        both = np.unique(np.stack([np.minimum(rows, partners), np.maximum(rows, partners)]), axis=1)
        return both[0], both[1]


def _best_of_rows(scores: Scores, top: int) -> npt.NDArray[np.bool_]:
    """Marks the `top` largest of each row."""
    marks = np.zeros(scores.shape, np.bool_)
    top = min(top, scores.shape[1])
    for start in range(0, len(scores), _STRIP):
        strip = slice(start, start + _STRIP)
        np.put_along_axis(marks[strip], np.argpartition(scores[strip], -top, axis=1)[:, -top:], True, axis=1)
    return marks


def similarity(rows: Half, others: Half, left: Ids, right: Ids) -> Scores:
    """Cosine similarity of rows[left] and others[right], (M,)."""
    return np.concatenate([np.empty(0, np.float32), *_scores(rows, others, left, right)])


def scored(rows: Half, others: Half, left: Ids, right: Ids, threshold: float) -> Pairs:
    """Those of some pairs that reach the threshold, with scores that do not depend on how the pairs were found."""
    scores = similarity(rows, others, left, right)
    above = scores >= threshold
    return Pairs(left[above], right[above], scores[above])


def _scores(rows: Half, others: Half, left: Ids, right: Ids) -> Iterator[Scores]:
    for start in range(0, len(left), STEP):
        part = slice(start, start + STEP)
        scores = np.einsum("nd,nd->n", unit(rows[left[part]]), unit(others[right[part]]))
        yield np.clip(scores, -1.0, 1.0)
