"""Which contents to compare closely: those with alike vectors, and those that look alike in grey.

A node is one picture as it is seen: all contents of a catalog that decode to the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..neighbours.pairs import Pairs, pairs_above, similarity
from ..pictures.looks import DIM, looks
from ..records import Progress
from ..store.store import Store, StoredModel

Ids = npt.NDArray[np.int64]
Half = npt.NDArray[np.float16]

# partners that one picture may nominate, by its vector and by its look
TOP = 16
TOP_LOOKS = 8
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
        twins = {same[0]: same for same in store.same_pixels()} if by_pixels else {}
        others = {content for same in twins.values() for content in same[1:]}
        contents, rows = store.half_vectors(model)
        stands = np.fromiter((content not in others for content in contents), np.bool_, len(contents))
        ids = np.array(contents, np.int64)
        return (
            cls(store, model, ids, rows, twins) if stands.all() else cls(store, model, ids[stands], rows[stands], twins)
        )

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

    def stands_for(self, content: int) -> int:
        """The content that stands for another one's picture."""
        return self._first.get(content, content)

    @cached_property
    def _first(self) -> dict[int, int]:
        return {content: first for first, same in self.twins.items() for content in same}

    def path_of(self, content: int) -> str:
        """Where a picture with this content is; the first by path where there are several."""
        images = self.store.images_by_id(self.store.images_of([content])[content])
        return min(image.path for image in images.values())

    def signature_of(self, content: int) -> bytes:
        """The signature of one content."""
        return self.store.fingerprints([content])[content].signature

    def looks(self) -> Half:
        """A row for every node, (N, 256)."""
        rows = np.zeros((len(self.contents), DIM), np.float16)
        for contents, signatures in self.store.signatures():
            here = [i for i, content in enumerate(contents) if content in self._place]
            rows[[self._place[contents[i]] for i in here]] = looks(signatures[here])
        return rows


class Candidates(NamedTuple):
    """Pairs of places in two Nodes (or twice in one), (M,) each, ordered; scores: cosine similarity of the vectors."""

    left: Ids
    right: Ids
    scores: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> Candidates:
        """No pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def candidates(
    nodes: Nodes, others: Nodes | None, threshold: float, with_looks: bool, progress: Callable[[Progress], None]
) -> Candidates:
    """Pairs to compare: vectors at least this alike, and with looks also what only looks alike.

    others: the other side of every pair; otherwise pairs are within nodes, left < right.
    """

    def step(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(Progress(name, done, total))

    across = None if others is None else others.rows
    found = pairs_above(nodes.rows, threshold, TOP, others=across, progress=step("pairs"))
    if not with_looks:
        return Candidates(*found)
    there = None if others is None else others.looks()
    seen = pairs_above(nodes.looks(), LOOK, TOP_LOOKS, others=there, progress=step("looks"))
    return _joined(found, seen, nodes.rows, nodes.rows if across is None else across)


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
