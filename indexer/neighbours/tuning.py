"""How good an index is, measured: recall@10 against exact search, for vectors of the very collection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .index import NeighbourIndex

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

K = 10
QUERIES = 500
DEPTHS = (20, 30, 50, 75, 100, 150, 200, 400)
# neighbours that are as near as the tenth are as good; float16 rows and another order of adding differ by less
_SAME = 2e-5
# from so many lists on, twice as many have to find this share more: else it is the codes that tell too little apart
_ENOUGH, _GAIN = 1024, 0.001
# the share of queries whose tenth neighbour is too little alike for them to count as usual
_UNUSUAL = 0.05
# so many neighbours say what share of them is found
_FEWEST = 100
# one candidate that is re-ranked takes the time of so many codes that are scanned
_RERANK_COST = 64


class Recall(NamedTuple):
    """A share that was measured, and the same less a standard error.

    Of many ways to search the cheapest that is good enough is taken, which may be one that the queries flatter.
    """

    share: float
    surely: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to search. effort: lists to look into, or HNSW's efSearch. depth: candidates to re-rank."""

    effort: int
    depth: int
    recall: Recall


class Exam:
    """Vectors of the collection, and what exact search finds for them."""

    def __init__(
        self,
        index: NeighbourIndex,
        places: Places,
        k: int = K,
        least: float = -1.0,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Searches every row for the k nearest of the rows at some places.

        least: only neighbours at least this alike count; all do where too few are for an answer. advance: see
        NeighbourIndex.exact().
        """
        self.places = places
        self.queries = index.rows_at(places)
        self.k = min(k, index.stamp.covered - 1)
        best = self._others(*index.exact(self.queries, self.k + 1, by_cosine=False, advance=advance))
        self.usual = float(np.quantile(best[:, -1], _UNUSUAL))  # see Stamp
        self._counts = (best >= least).sum(axis=1)  # (N,)
        if self._counts.sum() < _FEWEST:
            self._counts[:] = self.k
        last = np.take_along_axis(best, np.maximum(self._counts - 1, 0)[:, None], axis=1)
        self._needed = np.where(self._counts[:, None] > 0, last - _SAME, np.inf)  # (N, 1)

    def recall(self, scores: Vectors, found: Places) -> Recall:
        """The share of what counts that a search for queries with k + 1 has found. A query does not count."""
        hits = np.minimum((self._others(scores, found) >= self._needed).sum(axis=1), self._counts)
        share = hits.sum() / self._counts.sum()
        error = np.sqrt(np.square(hits - share * self._counts).sum()) / self._counts.sum()
        return Recall(float(share), float(share - error))

    def _others(self, scores: Vectors, found: Places) -> Vectors:
        """Scores (N, k) of what was found besides the query itself."""
        others = np.where(found == self.places[:, None], -np.inf, scores)
        best: Vectors = -np.sort(-others, axis=1)[:, : self.k]
        return best


def tune(index: NeighbourIndex, exam: Exam, target: float) -> Tuning:
    """The cheapest way to search that surely reaches the target; else that reaches it, else the best there is.

    Looking into more lists or re-ranking more never finds less: so what is too little at the greatest depth need not be
    tried at others. Cost is counted, not clocked, so that the same collection is always searched in the same way.
    """
    tries: list[Tuning] = []
    for effort in _efforts(index.most_effort):
        before = max((tried.recall.share for tried in tries), default=0.0)
        tries.append(_measured(index, exam, effort, DEPTHS[-1]))
        found = tries[-1].recall
        if found.surely >= target or (effort > _ENOUGH and found.share - before < _GAIN):
            break
    for reaches in (lambda tried: tried.recall.surely >= target, lambda tried: tried.recall.share >= target):
        for tried in filter(reaches, tries):
            return _cheaper(index, exam, reaches, _fewer(index, exam, reaches, tried))
    return max(tries, key=lambda tried: tried.recall.share)


def _efforts(most: int) -> list[int]:
    """What is tried, up to the effort at which a search is as good as it can be."""
    return sorted({*(1 << bit for bit in range(most.bit_length())), most})


def _between(effort: int, parts: tuple[int, ...] = (5, 6, 7)) -> list[int]:
    """Between half an effort and all of it, in eighths."""
    return sorted({effort * part // 8 for part in parts} - {effort // 2, effort})


def _fewer(index: NeighbourIndex, exam: Exam, reaches: Callable[[Tuning], bool], enough: Tuning) -> Tuning:
    """The same with the least effort between it and the next smaller one that is enough too."""
    between = _between(enough.effort)
    while between:
        middle = len(between) // 2
        tried = _measured(index, exam, between[middle], enough.depth)
        if reaches(tried):
            enough, between = tried, between[:middle]
        else:
            between = between[middle + 1 :]
    return enough


def _cheaper(index: NeighbourIndex, exam: Exam, reaches: Callable[[Tuning], bool], best: Tuning) -> Tuning:
    """The same or what costs less, where that is enough too: with more effort, less depth may be."""
    more = {effort for whole in _efforts(index.most_effort) for effort in (*_between(whole, (6,)), whole)}
    for effort in [best.effort, *sorted(effort for effort in more if effort > best.effort)]:
        while depth := _cheaper_depth(index, effort, best):
            tried = _measured(index, exam, effort, depth)
            if not reaches(tried):
                break
            best = tried
    return best


def _cheaper_depth(index: NeighbourIndex, effort: int, best: Tuning) -> int:
    """The greatest depth at which an effort costs less than the best so far, 0 where none does."""
    limit = _cost(index, best.effort, best.depth)
    return max((depth for depth in DEPTHS if _cost(index, effort, depth) < limit), default=0)


def _measured(index: NeighbourIndex, exam: Exam, effort: int, depth: int) -> Tuning:
    scores, found = index.nominate(exam.queries, exam.k + 1, effort, depth)
    return Tuning(effort, depth, exam.recall(scores, found))


def _cost(index: NeighbourIndex, effort: int, depth: int) -> float:
    """In codes that are scanned. What unusual queries take more is about the same share of every way, and left out."""
    return effort * index.stamp.covered / index.most_effort + depth * _RERANK_COST
