"""Which contents to compare closely: those with alike vectors, and those that look alike in grey.

A node is one picture as it is seen: all contents of a catalog that decode to the same pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CatalogError
from ..halves import Half, unit, widened
from ..neighbours.choosing import DEFAULT_RECALL, FLAT, Wish, structures
from ..neighbours.index import NeighbourIndex, open_index
from ..neighbours.making import write_index
from ..neighbours.pairs import SLACK, Pairs, estimate, pairs_above, scored, similarity
from ..neighbours.stamp import Stamp, path_of
from ..pictures.looks import DIM, looks
from ..records import Progress
from ..store.rows import StoredModel
from ..store.store import Store
from .nearest import IndexFiles

Ids = npt.NDArray[np.int64]

# partners that one picture may nominate, by its vector and by its look
TOP = 16
TOP_LOOKS = 8
# seconds; where looking at every pair takes longer, an index names the nearest
PATIENCE = 300.0
# rows whose nearest are named at once
BLOCK = 4096
# looks less alike than this are no copies that only a look could find
LOOK = 0.6


@dataclass(frozen=True)
class Nodes:
    """The pictures of one catalog. contents: the content that stands for each, by digest. rows: vectors, (N, dim).

    twins: content -> all contents that show the same picture, where there are several.
    """

    store: Store
    model: StoredModel
    contents: Ids
    rows: Half
    twins: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, store: Store, model: StoredModel, *, by_pixels: bool = True) -> Nodes:
        """Reads every vector; memory is that of the vectors. by_pixels: otherwise every content is a node."""
        twins = {same[0]: same for same in store.fingerprints.same_pixels(model)} if by_pixels else {}
        others = frozenset(content for same in twins.values() for content in same[1:])
        contents, rows = store.vectors.by_digest(model, without=others)
        return cls(store, model, np.array(contents, np.int64), rows, twins)

    def subset(self, contents: Sequence[int]) -> Nodes:
        """Some of the nodes."""
        places = [self._place[content] for content in contents]
        return Nodes(self.store, self.model, self.contents[places], self.rows[places], {})

    def pairs_with(self, content: int, others: Sequence[int]) -> Candidates:
        """One node and each of some others."""
        right = np.array([self._place[other] for other in others], np.int64)
        left = np.full(len(right), self._place[content], np.int64)
        return Candidates(left, right, similarity(self.rows, self.rows, left, right))

    @cached_property
    def _place(self) -> dict[int, int]:
        return {int(content): i for i, content in enumerate(self.contents)}

    def vectors(self) -> tuple[Ids, Ids]:
        """Ids of the catalog's vectors, ascending, and where each is among the nodes, or the one that stands for it."""
        ids, contents = self.store.vectors.every(self.model)
        places = (self._place[self.stands_for(content)] for content in contents.tolist())
        return ids, np.fromiter(places, np.int64, len(ids))

    def stands_for(self, content: int) -> int:
        """The content that stands for another one's picture."""
        return self._first.get(content, content)

    @cached_property
    def _first(self) -> dict[int, int]:
        return {content: first for first, same in self.twins.items() for content in same}

    def path_of(self, content: int) -> str:
        """Where a picture with this content is; the first by path where there are several."""
        images = self.store.images.by_id(self.store.images.of([content])[content])
        return min(image.path for image in images.values())

    def signature_of(self, content: int) -> bytes:
        """The signature of one content."""
        return self.store.fingerprints.of([content])[content].signature

    def index(self) -> NeighbourIndex | None:
        """What nominates in the catalog; None where every search is exact. Ask within a snapshot."""
        index = IndexFiles(self.store.path.parent).fitting(self.store, self.model)
        return None if index is None or index.stamp.kind == FLAT else index

    def looks(self) -> Half:
        """A row for every node, (N, 256)."""
        rows = np.zeros((len(self.contents), DIM), np.float16)
        for contents, signatures in self.store.fingerprints.signatures():
            here = [i for i, content in enumerate(contents) if content in self._place]
            rows[[self._place[contents[i]] for i in here]] = looks(signatures[here])
        return rows


class Candidates(NamedTuple):
    """Pairs of places in two Nodes (or twice in one), (M,) each, ordered; scores: cosine similarity of the vectors.

    recall: the expected share of them that was found; None where every pair was looked at.
    """

    left: Ids
    right: Ids
    scores: npt.NDArray[np.float32]
    recall: float | None = None

    @classmethod
    def none(cls) -> Candidates:
        """No pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def candidates(
    nodes: Nodes,
    others: Nodes | None,
    threshold: float,
    progress: Callable[[Progress], None],
    *,
    with_looks: bool,
    all_pairs: bool,
) -> Candidates:
    """Pairs to compare: vectors at least this alike, and with looks also what only looks alike.

    others: the other side of every pair; otherwise pairs are within nodes, left < right. all_pairs: look at every pair,
    also where that takes longer than PATIENCE and a neighbour index could name the nearest instead.
    """

    def step(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(Progress(name, done, total))

    across = None if others is None else others.rows
    there = nodes if others is None else others
    index = None if all_pairs or not _is_long(nodes.rows, across, threshold, TOP) else there.index()
    if index is None:
        found, recall = pairs_above(nodes.rows, threshold, TOP, others=across, progress=step("pairs")), None
    else:
        found, recall = _named(nodes, others, index, threshold, step)
    if not with_looks:
        return Candidates(*found, recall)
    ours, theirs = nodes.looks(), None if others is None else others.looks()
    if all_pairs or not _is_long(ours, theirs, LOOK, TOP_LOOKS):
        seen, looked = pairs_above(ours, LOOK, TOP_LOOKS, others=theirs, progress=step("looks")), None
    else:
        seen, looked = _named_by_look(ours, theirs, progress)
    expected = min((one for one in (recall, looked) if one is not None), default=None)
    return _joined(found, seen, nodes.rows, there.rows)._replace(recall=expected)


def _is_long(rows: Half, others: Half | None, threshold: float, top: int) -> bool:
    return estimate(rows, threshold, top, others=others) > PATIENCE


def _named(
    nodes: Nodes,
    others: Nodes | None,
    index: NeighbourIndex,
    threshold: float,
    step: Callable[[str], Callable[[int, int], None]],
) -> tuple[Pairs, float]:
    """Every node with the nearest that the catalog's index names, and with what it does not cover yet; its recall.

    The rows are in memory here: nothing is read from the store again.
    """
    there = nodes if others is None else others
    ids, places = there.vectors()
    index = index.attuned(TOP, threshold, step("measure"))

    def nearest(rows: Half) -> Ids:
        scores, named = index.search(unit(rows), TOP + (others is None))
        at = np.minimum(np.searchsorted(ids, named), len(ids) - 1)
        # a damaged index may name anything, and one of another kind may know what is gone
        found: Ids = np.where((ids[at] == named) & (scores >= threshold - SLACK), places[at], -1)
        return found

    left, right = _pairs_of(nodes.rows, nearest, len(there.rows), others is not None, step("pairs"))
    fresh = np.unique(places[ids > index.stamp.last])
    late = pairs_above(nodes.rows, threshold, TOP, others=there.rows[fresh])
    left, right = np.concatenate([left, late.left]), np.concatenate([right, fresh[late.right]])
    left, right = _each_once(left, right, len(there.rows), others is not None)
    return scored(nodes.rows, there.rows, left, right, threshold), index.stamp.recall


def _named_by_look(ours: Half, theirs: Half | None, progress: Callable[[Progress], None]) -> tuple[Pairs, float]:
    """Every look with the nearest that an index names, which is made for this and thrown away; and its recall."""

    def advance(stage: str, done: int, total: int) -> None:
        progress(Progress(stage, done, total))

    there = ours if theirs is None else theirs
    parts = [np.arange(start, min(start + BLOCK, len(there))) for start in range(0, len(there), BLOCK)]
    blocks = ((part, part, there[part]) for part in parts)
    wanted = Stamp("looks", "", FLAT, DIM, len(there), len(there), 1.0, target=DEFAULT_RECALL)
    with tempfile.TemporaryDirectory(prefix="indexer-looks-") as name:
        stamp = write_index(Path(name), blocks, wanted, structures(len(there), DIM, Wish("ivf")), advance)
        index = open_index(path_of(Path(name), stamp.name), stamp)
        if index is None:
            raise CatalogError("The neighbour index of looks cannot be read back. Check the disk of temporary files.")
        index = index.attuned(TOP_LOOKS, LOOK, partial(advance, "measure"))
        search = index.search

        def nearest(rows: Half) -> Ids:
            scores, places = search(widened(rows), TOP_LOOKS + (theirs is None))
            return np.where(scores < LOOK - SLACK, -1, places)

        step = partial(advance, "looks")
        left, right = _pairs_of(ours, nearest, len(there), theirs is not None, step)
    return scored(ours, there, left, right, LOOK), index.stamp.recall


def _pairs_of(
    rows: Half, nearest: Callable[[Half], Ids], width: int, across: bool, step: Callable[[int, int], None]
) -> tuple[Ids, Ids]:
    """Pairs of a row and each of its nearest, places (N, k) of which -1 is none; each pair once, ordered."""
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(rows), BLOCK):
        named = nearest(rows[start : start + BLOCK])
        own = np.broadcast_to(np.arange(start, start + len(named))[:, None], named.shape)
        left, right = _each_once(own[named >= 0], named[named >= 0], width, across)
        lefts.append(left)
        rights.append(right)
        step(min(start + BLOCK, len(rows)), len(rows))
    return _each_once(np.concatenate(lefts), np.concatenate(rights), width, across)


def _each_once(left: Ids, right: Ids, width: int, across: bool) -> tuple[Ids, Ids]:
    """Pairs ordered, each once; within one set of rows the lower place is the left one, and none is its own partner."""
    if not across:
        left, right = np.minimum(left, right), np.maximum(left, right)
        left, right = left[left != right], right[left != right]
    keys = np.unique(left * width + right)
    return keys // width, keys % width


def _joined(found: Pairs, seen: Pairs, rows: Half, others: Half) -> Candidates:
    """Both, each pair once, with the vectors' scores."""
    keys = np.concatenate([found.left, seen.left]) * len(others) + np.concatenate([found.right, seen.right])
    unique, first = np.unique(keys, return_index=True)
    left, right = unique // len(others), unique % len(others)
    scores = np.empty(len(unique), np.float32)
    known = first < len(found.left)
    scores[known] = found.scores[first[known]]
    new = ~known
    scores[new] = similarity(rows, others, left[new], right[new])
    return Candidates(left, right, scores)
