"""Nearest neighbours of vectors: the index nominates, the store decides. Keeps the index in step with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..neighbours.index import NeighbourIndex, Stamp, find_index, open_index, remove_others, write_index
from ..records import NeighboursInfo, Progress
from ..store.store import Store, StoredModel

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

KIND = "flat fp16"
# vectors that the index does not cover are searched exactly; beyond this many it is written anew
MAX_TAIL = 1000
MAX_TAIL_SHARE = 0.05
# so few candidates are compared straight from the store
FEW = 2000


def info(store: Store, folder: Path) -> NeighboursInfo:
    """What the catalog's index is and covers."""
    model = store.model()
    found = find_index(folder, store.uuid, model.id.key) if model else None
    if found is None:
        return NeighboursInfo("none (searched exactly)", 0, 1.0)
    return NeighboursInfo(found[1].kind, found[1].covered, found[1].recall)


def refresh(store: Store, folder: Path, progress: Callable[[Progress], None]) -> None:
    """Write the index anew where it is missing, foreign or far behind; it is then the only one."""
    model = store.model()
    if model is None:
        return
    count, last = store.vector_span(model)
    found = find_index(folder, store.uuid, model.id.key)
    if count == 0:
        return
    if found is not None and not _is_behind(store, model, found[1], count, last):
        remove_others(found[0])  # a process that was killed may have left one
        return
    stamp = Stamp(store.uuid, model.id.key, KIND, model.id.dim, covered=count, last=last, recall=1.0)
    write_index(folder, _blocks(store, model, count, progress), stamp)


def _is_behind(store: Store, model: StoredModel, stamp: Stamp, count: int, last: int) -> bool:
    still_there = store.count_up_to(model, stamp.last)
    tail = count - still_there
    deleted = stamp.covered - still_there
    return stamp.last > last or deleted != 0 or tail > max(MAX_TAIL, MAX_TAIL_SHARE * count)


def _blocks(
    store: Store, model: StoredModel, count: int, progress: Callable[[Progress], None]
) -> Iterator[tuple[Ids, Vectors]]:
    done = 0
    for ids, _, rows in store.vectors(model):
        yield ids, rows
        done += len(ids)
        progress(Progress("index", done, count))


class Nearest:
    """A search over one generation of a catalog; open it within Store.snapshot()."""

    def __init__(self, store: Store, folder: Path, model: StoredModel) -> None:
        """Opens the index file, if there is a sound one; without one, every search is exact."""
        self.store = store
        self.model = model
        self._covered = 0
        self._deleted = 0
        self._index: NeighbourIndex | None = None
        found = find_index(folder, store.uuid, model.id.key)
        if found is None:
            return
        stamp = found[1]
        deleted = stamp.covered - store.count_up_to(model, stamp.last)
        # an index of a later generation may lack what this one still holds
        if stamp.last <= store.vector_span(model)[1] and deleted >= 0:
            self._index = open_index(*found, checked=not store.is_sealed)
        if self._index is not None:
            self._covered, self._deleted = stamp.last, deleted

    def search(self, query: Vectors, k: int, contents: set[int] | None = None) -> list[tuple[int, float]]:
        """The k contents nearest to a unit vector, (dim,), best first, as (content id, cosine similarity).

        contents: the only ones that may come. Fewer than k come only where there are fewer.
        """
        if contents is not None and len(contents) <= FEW:
            _, candidates, rows = self.store.vectors_of(sorted(contents), self.model)
            return _best(candidates, rows, query, k)
        allowed = None if contents is None else self._vector_ids(contents)
        _, candidates, rows = self.store.vectors_by_id(self._nominated(query, k, allowed), self.model)
        best = _best(candidates, rows, query, k)
        for _, candidates, rows in self.store.vectors(self.model, after=self._covered):
            if contents is not None:
                kept = [i for i, content in enumerate(candidates) if content in contents]
                candidates, rows = [candidates[i] for i in kept], rows[kept]
            best = sorted([*best, *_best(candidates, rows, query, k)], key=_order)[:k]
        return best

    def _nominated(self, query: Vectors, k: int, allowed: Ids | None) -> list[int]:
        if self._index is None:
            return []
        # the index may still name deleted vectors: ask for as many more
        _, ids = self._index.search(query[None], k + self._deleted, allowed)
        return [int(i) for i in ids[0] if i >= 0]

    def _vector_ids(self, contents: Iterable[int]) -> Ids:
        return self.store.vector_ids_of(contents, self.model)


def _best(contents: list[int], rows: Vectors, query: Vectors, k: int) -> list[tuple[int, float]]:
    if not contents:
        return []
    scores = np.clip(rows @ query, -1.0, 1.0)
    top = np.argpartition(-scores, k)[:k] if len(scores) > k else np.arange(len(scores))
    return sorted(((contents[i], float(scores[i])) for i in top), key=_order)


def _order(scored: tuple[int, float]) -> tuple[float, int]:
    return -scored[1], scored[0]
