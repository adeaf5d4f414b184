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

Ids = npt.NDArray[np.int64]

# pairs that are compared at once
BLOCK = 4096
# pairs whose pictures are in memory together, and what the closer look needs of a picture
AT_ONCE = 32
THOROUGH_SIDE = 512
TURNS = (
    "upright", "turned by 90°", "turned by 180°", "turned by 270°",
    "mirrored", "mirrored, turned by 90°", "mirrored, turned by 180°", "mirrored, turned by 270°",
)  # fmt: skip


class Judged(NamedTuple):
    """A verdict on a pair: 'copy', 'probable', or None for two different pictures (as far as one can tell).

    changed: a copy that differs in some place, by a caption or because something moved between two shots.
    """

    tier: Tier | None
    why: str
    changed: bool = False


DIFFERENT = Judged(None, "")
PROBABLE = Judged("probable", "probably the same picture")


class Judge:
    """Compares pairs. unread: pictures that could not be read for a closer look."""

    def __init__(self, *, mirrors: bool = False, thorough: bool = False) -> None:
        """mirrors: also find copies that are mirrored or turned. thorough: read pictures where signatures do not do.

        Raises InvalidArgument at once, not after hours, where what a closer look needs is not installed.
        """
        if thorough:
            from ..pictures.thorough import require

            require()
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
            judged = [self._judged(*row) for row in zip(verdicts, changed, found.turned.tolist(), strict=True)]
            if self.thorough:
                open_ = [row for row, verdict in enumerate(verdicts) if verdict == Verdict.UNDECIDED]
                looked = self._looked_at(left, ours[open_], right, theirs[open_])
                for row, probable in zip(open_, looked, strict=True):
                    judged[row] = PROBABLE if probable else DIFFERENT
            yield from zip(ours.tolist(), theirs.tolist(), pairs.scores[part].tolist(), judged, strict=True)

    def _judged(self, verdict: int, changed: bool, turned: int) -> Judged:
        if verdict != Verdict.COPY:
            return DIFFERENT
        words = ["the same picture" + (" with a local change" if changed else "")]
        if turned:
            words.append(TURNS[turned])
        return Judged("copy", ", ".join(words), changed)

    def _looked_at(self, left: Nodes, ours: Ids, right: Nodes, theirs: Ids) -> Iterator[bool]:
        """Whether pairs are probably copies, from the pictures themselves."""
        from ..pictures.thorough import look_again

        for start in range(0, len(ours), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            first = [left.path_of(int(left.contents[place])) for place in ours[part]]
            second = [right.path_of(int(right.contents[place])) for place in theirs[part]]
            paths = list(dict.fromkeys([*first, *second]))
            pictures = dict(zip(paths, shrunk(paths, THOROUGH_SIDE), strict=True))
            self.unread += sum(picture is None for picture in pictures.values())
            for one, other in zip(first, second, strict=True):
                a, b = pictures[one], pictures[other]
                yield a is not None and b is not None and look_again(a, b).probable


def _signatures(nodes: Nodes, places: npt.NDArray[np.int64]) -> Likenesses:
    unique, back = np.unique(places, return_inverse=True)
    contents = nodes.contents[unique].tolist()
    known = nodes.store.fingerprints.of(contents)
    return likenesses([known[content].signature for content in contents])[back]
