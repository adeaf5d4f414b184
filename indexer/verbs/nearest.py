"""Nearest neighbours of vectors: the index nominates, the store decides. Keeps the index in step with the store.

What the index covers is scored by its own copy of what the store holds, each row of it proven by a checksum, so that of
the store only what is still there is looked up, in an index of SQLite's, or counted where that is less.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..halves import COMPARED_AT_ONCE, Half, cosines, unit
from ..neighbours.choosing import FLAT, Wish, structures
from ..neighbours.index import Block, NeighbourIndex, open_index
from ..neighbours.making import extend_index, write_index
from ..neighbours.nominator import make
from ..neighbours.stamp import Stamp, find_index, is_usable, path_of, remove_others
from ..records import NeighboursInfo, Progress
from ..store.lock import vouched
from ..store.rows import StoredModel
from ..store.store import Store

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# vectors that the index does not cover are searched exactly; beyond this many it is brought up to date
MAX_TAIL = 1000
MAX_TAIL_SHARE = 0.05
# a structure is trained anew when there are so many times as many vectors as it was trained on
OUTGROWN = 2
# so few candidates are compared straight from the store
FEW = 2000
# queries that the index is asked at once, and candidates that it names for them
QUERIES = 1024
NAMED = 4_000_000
# vectors that the store counts while it looks one up
COUNTED = 8
# the index ranks rows as they are stored, scores are of unit rows: so many more candidates make up for the difference
SPARE = 2


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest contents of some vectors, best first: ids (N, k) int64, and cosine similarities (N, k) float32.

    k is smaller than was asked for where there are fewer contents; there is never a gap.
    """

    ids: Ids
    scores: Vectors


@dataclass(frozen=True, slots=True)
class Graph:
    """The nearest neighbours of every content: ids (N,), neighbours (N, k) and scores (N, k), itself left out."""

    ids: Ids
    neighbours: Ids
    scores: Vectors


def info(store: Store, folder: Path) -> NeighboursInfo:
    """What the catalog's index is and covers."""
    model = store.model()
    found = find_index(folder, store.neighbours, model.id.key) if model else None
    if found is None:
        return NeighboursInfo("none (searched exactly)", 0, 1.0)
    stamp = found[1]
    how = "flat fp16" if stamp.kind == FLAT else f"{stamp.kind} (effort {stamp.effort}, re-ranks {stamp.depth}), fp16"
    return NeighboursInfo(how, stamp.covered, stamp.recall)


# -- keeping the index in step -----------------------------------------------------------------------------------------


def require_possible(wish: Wish, dim: int) -> None:
    """Raises InvalidArgument where faiss makes no such structure for vectors of this length."""
    if wish.kind not in (None, FLAT, "ivf", "hnsw"):
        make(wish.kind, dim)


def refresh(
    store: Store,
    folder: Path,
    progress: Callable[[Progress], None],
    wish: Wish | None = None,
    *,
    optimize: bool = False,
) -> list[str]:
    """Bring the index up to date where it is missing, damaged, far behind, or not what is wished for; returns warnings.

    What has come since is added to it; it is made anew when too much has been deleted or added, or what has come is of
    another kind. wish None: what it is now may stay. optimize: however little is new; what is gone is taken out.
    """
    model = store.model()
    count, last = store.vectors.span(model) if model else (0, 0)
    if model is None or count == 0:
        return []
    found = find_index(folder, store.neighbours, model.id.key)
    if found is not None and not is_usable(*found):
        found = None
    if found is not None and _may_stay(store, model, found[1], wish, count, optimize):
        remove_others(found[0])  # a process that was killed may have left one
        return []
    asked = wish or Wish()
    advance = lambda stage, done, total: progress(Progress(stage, done, total))  # noqa: E731
    fresh = Stamp(secrets.token_hex(8), model.id.key, FLAT, model.id.dim, count, last, 1.0, target=asked.recall)
    if found is not None and wish is None and _can_grow(store, model, found[1], count, optimize):
        old = open_index(*found, checked=True)
        tail = _blocks(store, model, progress, found[1].last, found[1].covered, count)
        covered = found[1].covered + store.vectors.count_after(model, found[1].last)
        grown = replace(fresh, covered=covered, target=found[1].target)
        if old and extend_index(folder, old, tail, grown, advance):
            _publish(store, folder, grown)
            return []
    kinds = structures(count, model.id.dim, asked)
    written = write_index(folder, _blocks(store, model, progress, 0, 0, count), fresh, kinds, advance)
    _publish(store, folder, written)
    if written.recall < asked.recall:
        return [
            f"The neighbour index {written.kind} reaches a recall@10 of {written.recall:.3f}, not {asked.recall:g}. "
            "For more: indexer build --neighbours flat, or ivf."
        ]
    return []


def _publish(store: Store, folder: Path, stamp: Stamp) -> None:
    """In one transaction, from the index that went with the store to another."""
    store.use_neighbours(stamp.name)
    remove_others(path_of(folder, stamp.name))


def check_left_over(store: Store, folder: Path) -> None:
    """Remove the index that a build which was cut off has left, if it is not what was written."""
    model = store.model()
    found = find_index(folder, store.neighbours, model.id.key) if model else None
    if found is not None and not is_usable(*found, checked=True):
        found[0].unlink(missing_ok=True)


def _may_stay(store: Store, model: StoredModel, stamp: Stamp, wish: Wish | None, count: int, optimize: bool) -> bool:
    tail, deleted = _drift(store, model, stamp, count)
    if optimize and (tail or deleted):
        return False
    if wish is not None and not _is_wished(stamp, wish, count):
        return False
    most = max(MAX_TAIL, MAX_TAIL_SHARE * count)
    return tail <= most and deleted <= most


def _is_wished(stamp: Stamp, wish: Wish, count: int) -> bool:
    if wish.kind == "ivf" and stamp.kind == FLAT:  # lists may not have been tried yet
        return False
    return stamp.target == wish.recall and stamp.kind in structures(count, stamp.dim, wish)


def _can_grow(store: Store, model: StoredModel, stamp: Stamp, count: int, optimize: bool) -> bool:
    _, deleted = _drift(store, model, stamp, count)
    kinds = structures(count, stamp.dim, Wish())
    outgrown = stamp.kind == FLAT and kinds != (FLAT,)
    few = deleted <= (0 if optimize else max(MAX_TAIL, MAX_TAIL_SHARE * count))
    return few and not outgrown and count < OUTGROWN * stamp.trained


def _drift(store: Store, model: StoredModel, stamp: Stamp, count: int) -> tuple[int, int]:
    """Vectors that the index does not cover, and vectors in it that are gone."""
    tail = store.vectors.count_after(model, stamp.last)
    return tail, stamp.covered - (count - tail)


def _blocks(
    store: Store, model: StoredModel, progress: Callable[[Progress], None], after: int, done: int, count: int
) -> Iterator[Block]:
    for block in store.vectors.blocks(model, after):
        yield block
        done += len(block[0])
        progress(Progress("index", min(done, count), count))


# -- searching ---------------------------------------------------------------------------------------------------------


class IndexFiles:
    """The index files of a catalog's folder. The one that was used last stays open for the next search."""

    def __init__(self, folder: Path) -> None:
        """Opens nothing yet."""
        self.folder = folder
        self._open: NeighbourIndex | None = None
        self._opened: tuple[object, ...] = ()
        self._counting = _Counting(-1)

    def fitting(self, store: Store, model: StoredModel) -> NeighbourIndex | None:
        """The one that goes with the store, if it is sound; open it within Store.snapshot()."""
        found = find_index(self.folder, store.neighbours, model.id.key)
        if found is None:
            return None
        path, stamp = found
        checked = not store.is_sealed and not vouched(self.folder)
        try:
            status = path.stat()
        except FileNotFoundError:  # a build has just put another in its place
            return None
        which = (path, stamp, status.st_ino, status.st_mtime_ns, checked)
        if which != self._opened:
            self._open = open_index(path, stamp, checked=checked)
            self._opened = which if self._open else ()  # the next time there may be memory, or a file to spare
        return self._open

    def is_whole(self, store: Store, model: StoredModel, asked: int) -> bool:
        """Whether the store is known to have all that the open index covers.

        asked: vectors that are looked up if it is not. All are counted once a generation, as soon as that takes no
        longer than looking up what was asked for so far.
        """
        assert self._open is not None
        counting, stamp = self._counting, self._open.stamp
        if counting.generation != store.generation:
            counting = self._counting = _Counting(store.generation)
        counting.asked += asked
        if counting.whole is None and counting.asked * COUNTED >= stamp.covered:
            counting.whole = _drift(store, model, stamp, store.vectors.span(model)[0])[1] == 0
        return counting.whole is True


@dataclass(slots=True)
class _Counting:
    """What was asked of a generation, and whether it has all that the index covers, once that was counted."""

    generation: int
    asked: int = 0
    whole: bool | None = None


class Nearest:
    """A search over one generation of a catalog, for use within Store.snapshot()."""

    def __init__(self, store: Store, files: IndexFiles, model: StoredModel) -> None:
        """Where there is no sound index file, every search is exact."""
        self.store = store
        self.files = files
        self.model = model
        self.index = files.fitting(store, model)
        self._covered = 0 if self.index is None else self.index.stamp.last

    def search(self, queries: Vectors, k: int, contents: Ids | None = None) -> Neighbours:
        """The k contents nearest to each unit vector, (N, dim).

        contents: the only ones that may come, ascending. Fewer than k come only where there are fewer.
        """
        parts = _parts(queries, k)
        if contents is not None and len(contents) <= FEW:
            found = [_nothing(part) for part in parts]
            rest = iter([self.store.vectors.of(contents.tolist(), self.model)])
        else:
            found = self._covered_ones(parts, k, k, contents)
            rest = self.store.vectors.blocks(self.model, after=self._covered)
        for _, candidates, halves in rest:
            if contents is not None:
                kept = np.isin(candidates, contents)
                candidates, halves = candidates[kept], halves[kept]
            rows = unit(halves)
            found = [
                _merged(best, _best(candidates, halves, rows, part, k), k)
                for best, part in zip(found, parts, strict=True)
            ]
        return _joined(found)

    def _covered_ones(self, parts: Sequence[Vectors], k: int, wanted: int, contents: Ids | None) -> list[Neighbours]:
        """For each part of the queries the k nearest of what the index covers, which is asked for as many as `wanted`.

        It may still name what is gone: who lacks some then asks again, for more.
        """
        if self.index is None:
            return [_nothing(part) for part in parts]
        found = []
        with closing(_named(self.index, parts, wanted, contents)) as named:
            for queries, places in zip(parts, named, strict=True):
                best, there = self._scored(queries, places, k)
                short = there < best.ids.shape[1]
                if short.any() and places.shape[1] == wanted + SPARE:
                    more = _parts(queries[short], 4 * wanted)
                    best = _replaced(best, short, _joined(self._covered_ones(more, k, 4 * wanted, contents)))
                elif short.any():
                    best = _cut(best, int(there.min()))
                found.append(best)
        return found

    def _scored(self, queries: Vectors, places: Ids, k: int) -> tuple[Neighbours, Ids]:
        """The k best of nominated rows for each query, and how many of them there are, (N,).

        A damaged index may name anything: damaged, gone or double does not count, and comes last.
        """
        assert self.index is not None
        contents, scores, there = self.index.scored(places, queries)
        there &= _first_of_each(places)
        if not self.files.is_whole(self.store, self.model, places.size):
            ids = self.index.ids_at(places[there])
            there[there] = np.isin(ids, self.store.vectors.living(contents[there], self.model))
        return _sorted(contents, np.where(there, scores, -np.inf), k), there.sum(axis=1)


def _parts(queries: Vectors, k: int) -> list[Vectors]:
    """Queries that the index is asked at once for k rows each."""
    step = max(1, min(QUERIES, NAMED // (k + SPARE)))
    return [queries[start : start + step] for start in range(0, len(queries), step)]


def _named(index: NeighbourIndex, parts: Sequence[Vectors], k: int, allowed: Ids | None) -> Generator[Ids, None, None]:
    """Places of the k, and some to spare, for each part: while one is scored, the index works on the next."""
    if len(parts) == 1:
        yield index.find(parts[0], k, allowed, spare=SPARE)[1]
        return
    with ThreadPoolExecutor(1, "index") as thread:
        yield from thread.map(lambda queries: index.find(queries, k, allowed, spare=SPARE)[1], parts)


def graph(store: Store, files: IndexFiles, model: StoredModel, k: int, progress: Callable[[Progress], None]) -> Graph:
    """The k nearest neighbours of every content, in the order of the contents' vectors."""
    search = Nearest(store, files, model)
    every, parts = [np.empty(0, np.int64)], []
    done, count = 0, store.vectors.span(model)[0]
    for _, own, halves in store.vectors.blocks(model):
        every.append(own)
        parts.append(_without(search.search(unit(halves), k + 1), own))
        done += len(own)
        progress(Progress("query", done, count))
    others = _joined(parts)
    return Graph(np.concatenate(every), others.ids, others.scores)


def _without(found: Neighbours, own: Ids) -> Neighbours:
    """One neighbour fewer: itself, or the last where many are as near."""
    keep = found.ids != own[:, None]
    keep[keep.all(axis=1), -1:] = False
    shape = (len(own), max(found.ids.shape[1] - 1, 0))
    return Neighbours(found.ids[keep].reshape(shape), found.scores[keep].reshape(shape))


def _best(contents: Ids, halves: Half, rows: Vectors, queries: Vectors, k: int) -> Neighbours:
    """The k best of some rows for each query. rows: the same, of length 1."""
    places = np.broadcast_to(np.arange(len(rows)), (len(queries), len(rows)))
    if len(rows) > k:
        places = np.argpartition(-(queries @ rows.T), k, axis=1)[:, :k]
    scores = np.empty(places.shape, np.float32)
    step = max(1, COMPARED_AT_ONCE // max(places.shape[1] * rows.shape[1], 1))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores[part] = cosines(halves[places[part]], queries[part])
    return _sorted(contents[places], scores, k)


def _first_of_each(places: Ids) -> npt.NDArray[np.bool_]:
    """Marks what comes for the first time in its row."""
    order = np.argsort(places, axis=1, kind="stable")
    ascending = np.take_along_axis(places, order, 1)
    first = np.ones(places.shape, np.bool_)
    np.put_along_axis(first, order[:, 1:], ascending[:, 1:] != ascending[:, :-1], 1)
    return first


def _nothing(queries: Vectors) -> Neighbours:
    return Neighbours(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))


def _joined(parts: list[Neighbours]) -> Neighbours:
    """What was found for some queries and for others, as wide as the narrowest: in a damaged index they may differ."""
    if not parts:
        return _nothing(np.empty((0, 0), np.float32))
    width = min(part.ids.shape[1] for part in parts)
    cut = [_cut(part, width) for part in parts]
    return Neighbours(np.concatenate([part.ids for part in cut]), np.concatenate([part.scores for part in cut]))


def _cut(found: Neighbours, width: int) -> Neighbours:
    return Neighbours(found.ids[:, :width], found.scores[:, :width])


def _replaced(found: Neighbours, which: npt.NDArray[np.bool_], by: Neighbours) -> Neighbours:
    """The same with other rows in the place of some, as wide as the narrower."""
    width = min(found.ids.shape[1], by.ids.shape[1])
    found, by = _cut(found, width), _cut(by, width)
    found.ids[which], found.scores[which] = by.ids, by.scores
    return found


def _merged(one: Neighbours, other: Neighbours, k: int) -> Neighbours:
    return _sorted(np.hstack([one.ids, other.ids]), np.hstack([one.scores, other.scores]), k)


def _sorted(ids: Ids, scores: Vectors, k: int) -> Neighbours:
    """The k best, equals by id."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))
