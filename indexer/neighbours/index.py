"""The neighbour index: one FAISS file that can be thrown away and rebuilt from the store. A door to faiss.

It nominates; scores are always computed from the vectors as they are stored. What is in the file says stamp.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..halves import COMPARED_AT_ONCE, Half, cosines, unit, widened, with_lengths
from ..machine import cores
from . import nominator, plane
from .checksums import of_rows
from .choosing import FLAT
from .nominator import Nominator
from .stamp import Stamp, is_usable
from .threads import threads
from .tuning import Exam, K, tune

if TYPE_CHECKING:
    import faiss

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Block: TypeAlias = tuple[Ids, Ids, Half]
"""Vector ids, ascending, the content of each, and the vectors as they are stored, (N, dim)."""
Parts = TypeVar("Parts", bound="tuple[npt.NDArray[Any], ...]")
# of a row: its two ids and its checksum
_NUMBER_BYTES = 8 + 8 + 8
# rows that are taken from a file at once
ROWS = 8192
# numbers that are compared at once: they stay in a core's cache
_NUMBERS = 1 << 16
# threads that score rows: they share the interpreter
_SCORERS = 4
# so few numbers are read sooner than the best of them are looked for, or than faiss is imported
_FEW_NUMBERS = 40_000_000
# how many numpy compares while faiss is imported, which then compares them in a fifth of the time
_IMPORT_NUMBERS = 200_000_000
# queries that faiss compares with all rows one by one; more of them are a matrix product
_FEW_QUERIES = 16
# queries that are worth a thread of their own
_QUERIES_A_THREAD = 64
# faiss compares rows as they are, of nearly unit length: so many more are named, and compared as unit rows
_ROUNDED = 64
# what passes a filter, or is near to an unusual query, may lie where no query of the index's own exam has looked: so
# many times as many lists are. Where half of 200,000 passed, and the queries were not like these, 8 times found 99.5 %
# of the nearest, once 64 %
_ELSEWHERE = 8
# what is nearest to an unusual query is so by little: so many times as many candidates are re-ranked
_DEEPER = 2
# vectors that are asked for to see what alike neighbours take
_ASKED = 2000


class NeighbourIndex:
    """An open index file."""

    def __init__(self, path: Path, stamp: Stamp, structure: Nominator | None) -> None:
        """Use open_index(). structure: what nominates, None for exact search."""
        self.stamp = stamp
        self.structure = structure
        self._path = path
        self._compared = 0  # numbers, by numpy
        count = stamp.covered
        numbers = _mapped(path, stamp.ids, _NUMBER_BYTES * count)
        self._ids: Ids = numbers[: 8 * count].view(np.int64)
        self._contents: Ids = numbers[8 * count : 16 * count].view(np.int64)
        self._checksums = numbers[16 * count :].view(np.uint64)
        self._plane: faiss.IndexScalarQuantizer | None = None
        if structure is None and count * stamp.dim <= _FEW_NUMBERS:
            self._rows = _mapped(path, stamp.rows, count * 2 * stamp.dim).reshape(count, 2 * stamp.dim)
        else:
            self._open_plane()
        if structure is not None:
            import faiss

            self._refine = faiss.IndexRefine(structure.index, self._plane)

    @property
    def most_effort(self) -> int:
        """See Nominator.most_effort."""
        return self.structure.most_effort if self.structure else 1

    def search(self, queries: Vectors, k: int, allowed: Ids | None = None) -> tuple[Vectors, Ids]:
        """The k best vector ids for each query, best first: scores and ids, both (N, k). See find()."""
        scores, places = self.find(queries, k, allowed)
        return scores, self.ids_at(places)

    def find(self, queries: Vectors, k: int, allowed: Ids | None = None, *, spare: int = 0) -> tuple[Vectors, Ids]:
        """The k best rows for each query and some to spare, best first: scores and places, both (N, k + spare).

        queries: float32, (N, dim), unit rows. allowed: the only contents whose vectors may come.
        Where there are fewer, fewer columns come back. There is a gap, a place of -1, only where rows are damaged.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        places = None if allowed is None else np.flatnonzero(np.isin(self._contents, allowed))
        count = self.stamp.covered if places is None else len(places)
        k = min(k, count)
        depth = min(self.stamp.depth * max(k, 10) // 10, self.stamp.depth + 4 * k)
        k = min(k + spare, count)
        if k < 1:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if self.structure is None or (places is not None and not self._nominates_among(count)):
            return self.exact(queries, k, places)
        effort = self.stamp.effort
        if places is not None:
            effort = _ELSEWHERE * -(-effort * self.stamp.covered // count)
        scores, found = self.nominate(queries, k, effort, depth, places)
        short = found[:, -1] < 0  # too little lay in the lists that were looked into
        if short.any():
            scores[short], found[short] = self.exact(queries[short], k, places)
        return scores, found

    def _nominates_among(self, count: int) -> bool:
        """Whether candidates are nominated where so many rows pass a filter, and all these are not compared instead."""
        assert self.structure is not None
        return self.structure.can_select and count * self.stamp.dim > _FEW_NUMBERS

    def ids_at(self, places: Ids) -> Ids:
        """The ids of the vectors at some places, -1 for a gap."""
        return np.where(places < 0, -1, self._ids[places])

    def scored(self, places: Ids, queries: Vectors) -> tuple[Ids, Vectors, npt.NDArray[np.bool_]]:
        """Of some rows for each query: their contents, their cosines with it, and which of them are sound.

        places, and all that is returned: (N, k); queries: (N, dim), unit rows. Cosines are those of the rows as the
        store held them. Not sound is a gap, and a row that is not what was written.
        """
        most = min(places.size * self.stamp.dim // COMPARED_AT_ONCE, _SCORERS)
        return _shared_out(lambda part: self._scored(places[part], queries[part]), len(places), most)

    def _scored(self, places: Ids, queries: Vectors) -> tuple[Ids, Vectors, npt.NDArray[np.bool_]]:
        contents, sound = self._contents[places], places >= 0
        scores = np.empty(places.shape, np.float32)
        each, dim = places.shape[1], self.stamp.dim
        step = max(1, COMPARED_AT_ONCE // max(each * dim, 1))
        taken = np.empty((min(step, len(places)) * each, 2 * dim), np.uint8)
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            where, shape = places[part].ravel(), places[part].shape
            halves = np.take(self._rows, where, 0, taken[: len(where)], "clip").view(np.float16)
            known = self._checksums[where] == of_rows(self._ids[where], contents[part].ravel(), halves)
            halves[~known] = 0
            sound[part] &= known.reshape(shape)
            scores[part] = cosines(halves.reshape(*shape, dim), queries[part])
        return contents, scores, sound

    def attuned(self, k: int, least: float, advance: Callable[[int, int], None] = lambda *_: None) -> NeighbourIndex:
        """The same for who asks for vectors of the index itself, and for neighbours at least this alike only.

        They are found as cheaply as reaches the recall that it was built for; its stamp's recall is measured for that.
        advance: told how many rows have been compared for that, and of how many.
        """
        if self.structure is None:
            return self
        rng = np.random.default_rng(self.stamp.covered)
        places = rng.choice(self.stamp.covered, min(self.stamp.covered, _ASKED), replace=False)
        other = copy(self)
        other.stamp = replace(self.stamp, usual=None)  # who has nothing alike need not look for it twice
        tuning = tune(other, Exam(self, np.sort(places), k, least, advance), self.stamp.target)
        other.stamp = replace(other.stamp, effort=tuning.effort, depth=tuning.depth, recall=tuning.recall.share)
        return other

    def exact(
        self,
        queries: Vectors,
        k: int,
        places: Ids | None = None,
        *,
        by_cosine: bool = True,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[Vectors, Ids]:
        """The k best of all rows, or of those at some places: scores and places, both (N, k).

        by_cosine: otherwise by the products with rows as they are, which are of nearly unit length, as nominate() does.
        advance: told how many rows have been compared, and of how many, where there are many.
        """
        count = self.stamp.covered if places is None else len(places)
        few = count * self.stamp.dim <= _FEW_NUMBERS
        if few and len(queries) < _FEW_QUERIES and (places is not None or not self._faiss_takes_over()):
            scores, found = _best(self._compare(queries, places, count, by_cosine), k)
            return scores, found if places is None else np.where(found < 0, -1, places[found])
        return self._by_faiss(queries, k, places, by_cosine, advance)

    @threads()
    def _by_faiss(
        self, queries: Vectors, k: int, places: Ids | None, by_cosine: bool, advance: Callable[[int, int], None]
    ) -> tuple[Vectors, Ids]:
        import faiss

        count = self.stamp.covered if places is None else len(places)
        if count * self.stamp.dim <= _FEW_NUMBERS and places is not None:
            scores, found = faiss.knn(queries, self._rows_at(places, by_cosine), k, faiss.METRIC_INNER_PRODUCT)
            return scores, np.where(found < 0, -1, places[found])
        if places is not None or len(queries) < _FEW_QUERIES:
            with _selecting(places, self.stamp.covered) as selector:
                parameters = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
                assert self._plane is not None
                _, found = self._plane.search(queries, min(k + _ROUNDED, count), params=parameters)
            return self._best_of(found, queries, k, by_cosine)
        best = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, self.stamp.covered, ROWS):
            rows = self._rows_at(slice(start, start + ROWS), by_cosine)
            scores, places = faiss.knn(queries, rows, min(k, len(rows)), faiss.METRIC_INNER_PRODUCT)
            both, where = np.hstack([best, scores]), np.hstack([found, places + start])
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best, found = np.take_along_axis(both, order, 1), np.take_along_axis(where, order, 1)
            advance(start + len(rows), self.stamp.covered)
        return best, found

    def nominate(
        self, queries: Vectors, k: int, effort: int, depth: int, places: Ids | None = None
    ) -> tuple[Vectors, Ids]:
        """The k best of `depth` candidates, re-ranked by the rows: scores and places, -1 where too few were found.

        A query that finds less alike than those of the exam mostly did is unlike the collection, or lies where it is
        sparse, and its neighbours lie scattered: it is searched for once more, further.
        """
        most = max(k, K)
        usual = -np.inf if self.stamp.usual is None or places is not None else self.stamp.usual
        self._prepare(queries, effort)
        with _selecting(places, self.stamp.covered) as selector:

            def search(part: slice) -> tuple[Vectors, Ids]:
                with threads(1):
                    scores, found = self._candidates(queries[part], most, effort, depth, selector)
                    unusual = scores[:, K - 1] < usual
                    if unusual.any():
                        asked = queries[part][unusual]
                        further, deeper = _ELSEWHERE * effort, _DEEPER * depth
                        self._prepare(asked, further)
                        scores[unusual], found[unusual] = self._candidates(asked, most, further, deeper, selector)
                return scores[:, :k], found[:, :k]

            return _shared_out(search, len(queries), len(queries) // _QUERIES_A_THREAD)

    def _prepare(self, queries: Vectors, effort: int) -> None:
        assert self.structure is not None
        self.structure.prepare(queries, min(effort, self.most_effort))

    def _candidates(self, queries: Vectors, k: int, effort: int, depth: int, selector: Any) -> tuple[Vectors, Ids]:
        """See nominate(), which does this once or twice."""
        import faiss

        assert self.structure is not None
        inner = self.structure.parameters(min(effort, self.most_effort), selector)
        parameters = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
            k_factor=max(depth, k) / k, base_index_params=inner
        )
        found: tuple[Vectors, Ids] = self._refine.search(queries, k, params=parameters)
        return found

    def _faiss_takes_over(self) -> bool:
        """Whether faiss compares all rows: as soon as numpy has taken as long as importing it takes.

        Where the file has been deleted or damaged since, numpy goes on with what it has mapped.
        """
        if self._plane is None and self._compared <= _IMPORT_NUMBERS:
            self._compared += self.stamp.covered * self.stamp.dim
            if self._compared > _IMPORT_NUMBERS and is_usable(self._path, self.stamp):
                with suppress(RuntimeError):
                    self._open_plane()
        return self._plane is not None

    def _open_plane(self) -> None:
        """Have faiss open the rows, which are mapped once for all then."""
        import faiss

        self._plane = plane.read(self._path, self.stamp.dim, self.stamp.covered)
        rows = faiss.rev_swig_ptr(self._plane.codes.data(), self._plane.codes.size())
        self._rows = rows.reshape(self.stamp.covered, 2 * self.stamp.dim)

    def _best_of(self, found: Ids, queries: Vectors, k: int, by_cosine: bool) -> tuple[Vectors, Ids]:
        """The k best of some rows for each query, places (N, M) with -1 for a gap."""
        products = [self._rows_at(places, by_cosine) @ query for places, query in zip(found, queries, strict=True)]
        scores = np.nan_to_num(np.array(products), copy=False, nan=-np.inf)
        scores[found < 0] = -np.inf
        best, which = _best(scores, k)
        return best, np.where(which < 0, -1, np.take_along_axis(found, which, 1))

    def _compare(self, queries: Vectors, places: Ids | None, count: int, by_cosine: bool) -> Vectors:
        """Scores of all rows, or of those at some places, (N, count); what is no number is the least there is."""
        scores = np.empty((len(queries), count), np.float32)
        step = max(1, _NUMBERS // self.stamp.dim)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, count, step):
                part = slice(start, start + step)
                rows, lengths = with_lengths(self._halves_at(part if places is None else places[part]))
                np.divide(queries @ rows.T, lengths if by_cosine else 1, out=scores[:, part])
        return np.nan_to_num(scores, copy=False, nan=-np.inf)

    def rows_at(self, places: Ids | slice) -> Vectors:
        """Rows as float32, (N, dim)."""
        return widened(self._halves_at(places))

    def _rows_at(self, places: Ids | slice, of_length_1: bool) -> Vectors:
        with np.errstate(invalid="ignore"):  # of a damaged index
            return (unit if of_length_1 else widened)(self._halves_at(places))

    def blocks(self) -> Iterator[Block]:
        """All of it, a stretch at a time."""
        for start in range(0, self.stamp.covered, ROWS):
            part = slice(start, start + ROWS)
            yield self._ids[part], self._contents[part], self._halves_at(part)

    def _halves_at(self, places: Ids | slice) -> Half:
        # faiss's header has an odd length: in the file itself numbers lie across words, and are read slowly
        rows = self._rows[places]
        return (rows.copy() if isinstance(places, slice) else rows).view(np.float16)


def _shared_out(work: Callable[[slice], Parts], count: int, most: int) -> Parts:
    """What some work gives for so many queries, a tuple of arrays; done in parts, by `most` threads at most."""
    most = min(most, count)
    if most < 2 or (most := min(most, cores())) < 2:
        return work(slice(count))
    bounds = [i * count // most for i in range(most + 1)]
    with ThreadPoolExecutor(most, "queries") as pool:
        done = pool.map(work, [slice(start, end) for start, end in pairwise(bounds)])
        return tuple(map(np.concatenate, zip(*done, strict=True)))  # type: ignore[return-value]


def _best(scores: Vectors, k: int) -> tuple[Vectors, Ids]:
    """The k best of some scores (N, count): scores and places, both (N, k); damaged rows, which have none, are -1."""
    found = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else np.argsort(-scores, axis=1)
    order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, 1)
    best = np.take_along_axis(scores, found, 1)
    return best, np.where(best == -np.inf, -1, found)


def _mapped(path: Path, start: int, size: int) -> npt.NDArray[np.uint8]:
    """Bytes of a file that are read when they are used."""
    return np.memmap(path, np.uint8, "r", start, (size,)).view(np.ndarray)  # which is cut faster


@contextmanager
def _selecting(places: Ids | None, count: int) -> Iterator[Any]:
    """faiss's selector for some of so many places, None for all. Its bits, one a row, live as long as the block."""
    import faiss

    if places is None:
        yield None
        return
    chosen = np.zeros(count, bool)
    chosen[places] = True
    bits = np.packbits(chosen, bitorder="little")
    yield faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


def open_index(path: Path, stamp: Stamp, *, checked: bool = False) -> NeighbourIndex | None:
    """Map an index file for searching, or None where it is damaged. checked: see is_usable()."""
    try:
        opened = path.stat()
        if not is_usable(path, stamp, checked=checked):
            return None
        structure = None
        if stamp.kind != FLAT:
            structure = nominator.read(path, stamp.lists, stamp.structure, stamp.covered)
        index = NeighbourIndex(path, stamp, structure)
        return index if os.path.samestat(opened, path.stat()) else None
    except (RuntimeError, OSError, ValueError):  # also where a build has just put another in its place
        return None
