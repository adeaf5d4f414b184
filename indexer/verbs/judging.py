"""Whether candidates are copies: by their signatures, and where those cannot decide by the pictures themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..pictures.copies import Verdict, compare
from ..pictures.signature import Likenesses, likenesses
from ..pictures.single import shrunk
from ..records import Tier
from .candidates import Candidates, Nodes

# pairs that are compared at once
BLOCK = 4096
# what the closer look needs of a picture
THOROUGH_SIDE = 512
TURNS = (
    "upright", "turned by 90°", "turned by 180°", "turned by 270°",
    "mirrored", "mirrored, turned by 90°", "mirrored, turned by 180°", "mirrored, turned by 270°",
)  # fmt: skip


class Judged(NamedTuple):
    """A verdict on a pair: 'copy', 'probable', or None for two different pictures (as far as one can tell)."""

    tier: Tier | None
    why: str


DIFFERENT = Judged(None, "")


class Judge:
    """Compares pairs. unread: pictures that could not be read for a closer look."""

    def __init__(self, *, mirrors: bool = False, thorough: bool = False) -> None:
        """mirrors: also find copies that are mirrored or turned. thorough: read pictures where signatures do not do."""
        self.mirrors = mirrors
        self.thorough = thorough
        self.unread = 0

    def judge(self, left: Nodes, right: Nodes, pairs: Candidates) -> Iterator[tuple[int, int, float, Judged]]:
        """Every pair with its score and verdict, in order."""
        for start in range(0, len(pairs.left), BLOCK):
            part = slice(start, start + BLOCK)
            ours, theirs = pairs.left[part], pairs.right[part]
            found = compare(_signatures(left, ours), _signatures(right, theirs), mirrors=self.mirrors)
            verdicts, changed = found.verdicts.tolist(), found.changed.tolist()
            for row, (i, j) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
                judged = self._judged(verdicts[row], changed[row], int(found.turned[row]))
                if judged is None:
                    judged = self._closer(left, i, right, j)
                yield i, j, float(pairs.scores[start + row]), judged

    def _judged(self, verdict: int, changed: bool, turned: int) -> Judged | None:
        if verdict == Verdict.DIFFERENT:
            return DIFFERENT
        if verdict == Verdict.UNDECIDED:
            return None if self.thorough else DIFFERENT
        words = ["the same picture" + (" with a local change" if changed else "")]
        if turned:
            words.append(TURNS[turned])
        return Judged("copy", ", ".join(words))

    def _closer(self, left: Nodes, i: int, right: Nodes, j: int) -> Judged:
        paths = [nodes.path_of(int(nodes.contents[place])) for nodes, place in ((left, i), (right, j))]
        first, second = shrunk(paths, THOROUGH_SIDE)
        if first is None or second is None:
            self.unread += (first is None) + (second is None)
            return DIFFERENT
        from ..pictures.thorough import same_picture

        return Judged("probable", "probably the same picture") if same_picture(first, second) else DIFFERENT


def _signatures(nodes: Nodes, places: npt.NDArray[np.int64]) -> Likenesses:
    unique, back = np.unique(places, return_inverse=True)
    contents = nodes.contents[unique].tolist()
    known = nodes.store.fingerprints(contents)
    return likenesses([known[content].signature for content in contents])[back]
