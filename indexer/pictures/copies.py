"""Whether two pictures are copies of one, told by their signatures: many pairs at once, with numpy alone.

A copy may have been encoded again, resized, recoloured, blurred, bordered, written on, or cropped by a fifth; another
shot of the same scene is none. One likeness is laid over the other, and then their details are compared block by block.
benchmarks/copies.py measures how well this tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from ..machine import cores
from .alignment import COARSE, FINE, Floats, box, levelled, reduced, refine, sample, search
from .signature import SIDE, Likenesses

# From 2,640 copies and 11,566 negatives: shots of one scene, seconds apart, reached .85 and .72. On the pictures of
# benchmarks/copies.py distinct photographs stayed below .70 and .50; all but 3 of 10,000 spread over 16 blocks or more.
COPY_TRIMMED, COPY_MEAN = 0.86, 0.73
UNDECIDED_TRIMMED = 0.50
WHOLE_MEAN = 0.80  # a copy below it differs in some place: a caption, or a subject that moved
LEAST_BLOCKS = 10.0  # two pictures of one bare edge can be laid over each other, whatever they show

_REJECTED = 0.45  # correlation of the best window, below which a pair is not looked at any closer
_STARTS = 2  # windows that are tried a direction
_PAIRS = 64  # compared at a time: some 20 MB
_BLOCK, _WORST = 8, 0.3
_NOISE, _MOST_WEIGHT = 0.56, 12  # in levels squared, and levels: rounding is no detail, and one edge not all of it
_OVERLAP = 0.5


Pixel = TypeVar("Pixel", np.uint8, np.float32)


class Verdict(IntEnum):
    """What the signatures of two pictures say of them."""

    DIFFERENT = 0
    UNDECIDED = 1
    COPY = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """How alike the pictures of N pairs are; each field is an array of N.

    htrim, hmean: float32, the agreement of their details, 1 for the same; htrim without the worst 30 %. Pairs that were
    rejected early keep the low score they had where they lay.
    blocks: float32, how many of the 64 blocks carry the score.
    turned: int8, what turn() does to the right picture to bring it onto the left; 0 is nothing.
    """

    htrim: Floats
    hmean: Floats
    blocks: Floats
    turned: npt.NDArray[np.int8]

    @property
    def verdicts(self) -> npt.NDArray[np.int8]:
        """A Verdict a pair."""
        alike = (self.htrim >= COPY_TRIMMED) | (self.hmean >= COPY_MEAN)
        copy = alike & (self.blocks >= LEAST_BLOCKS)
        undecided = alike | (self.htrim >= UNDECIDED_TRIMMED)
        return np.where(copy, Verdict.COPY, np.where(undecided, Verdict.UNDECIDED, Verdict.DIFFERENT)).astype(np.int8)

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """Copies that differ in some place: written on, or a shot in which only the subject moved. Show them."""
        changed: npt.NDArray[np.bool_] = (self.verdicts == Verdict.COPY) & (self.hmean < WHOLE_MEAN)
        return changed


def compare(left: Likenesses, right: Likenesses, *, mirrors: bool = False) -> Comparison:
    """Compare left[i] with right[i], for all i.

    left, right: uint8, (N, 64, 64), from signature.likenesses(). Either order of a pair gives the same scores.
    mirrors: also find copies that were mirrored or turned by quarters.
    Blank pictures have no details to tell them by: they are DIFFERENT. So is a thumbnail of 32 pixels or fewer from its
    original, of which it has lost too much.
    Raises InvalidArgument for other shapes or types.
    """
    for likenesses in (left, right):
        if likenesses.dtype != np.uint8 or likenesses.shape != (len(left), SIDE, SIDE):
            raise InvalidArgument(
                f"Likenesses must be uint8 (N, {SIDE}, {SIDE}), as many left as right, not {likenesses.dtype} "
                f"{likenesses.shape}. Make them with likenesses()."
            )
    parts = [slice(start, start + _PAIRS) for start in range(0, len(left), _PAIRS)]
    with ThreadPoolExecutor(cores()) as pool:
        done = list(pool.map(lambda part: _compare(left[part], right[part], mirrors), parts))
    scores = np.concatenate([scores for scores, _ in done], axis=1) if done else np.zeros((3, 0), np.float32)
    turned = np.concatenate([turned for _, turned in done]) if done else np.zeros(0, np.int8)
    return Comparison(scores[0], scores[1], scores[2], turned)


def turn(pictures: npt.NDArray[Pixel], turned: int) -> npt.NDArray[Pixel]:
    """Pictures (N, S, S) in one of eight orientations: turned % 4 quarters counter-clockwise; from 4, mirrored."""
    return np.rot90(pictures[:, :, ::-1] if turned >= 4 else pictures, turned % 4, axes=(1, 2))


def _compare(left: Likenesses, right: Likenesses, mirrors: bool) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Scores (htrim, hmean, blocks), (3, K), and orientations (K,) of a block of pairs."""
    swapped = _greater(left, right)
    first = np.where(swapped[:, None, None], right, left).astype(np.float32)
    second = np.where(swapped[:, None, None], left, right).astype(np.float32)
    scores = _upright(first, second)
    turned = np.zeros(len(first), np.int8)
    rest = np.flatnonzero(~_passes(scores))
    if mirrors and len(rest):
        guesses = _likely_turn(first[rest], second[rest])
        upright = np.stack([turn(second[i : i + 1], one)[0] for i, one in zip(rest, guesses, strict=True)])
        better = _improve(scores, rest, _upright(first[rest], upright))
        turned[rest[better]] = guesses[better]
    quarters = (turned > 0) & (turned < 4)  # the others undo themselves
    return scores, np.where(swapped & quarters, 4 - turned, turned).astype(np.int8)


def _greater(left: Likenesses, right: Likenesses) -> npt.NDArray[np.bool_]:
    """Which pairs come in the other order: each is compared in one order only, so that both have the same result."""
    flat, other = left.reshape(len(left), -1), right.reshape(len(right), -1)
    place = (flat != other).argmax(axis=1)[:, None]
    greater: npt.NDArray[np.bool_] = (np.take_along_axis(flat, place, 1) > np.take_along_axis(other, place, 1))[:, 0]
    return greater


def _upright(first: Floats, second: Floats) -> Floats:
    """Scores of pairs (K, 64, 64) as they are oriented: as they lie, then from ever more starts until one passes."""
    scores = _score(first, second)
    rest = np.flatnonzero(~_passes(scores))
    if not len(rest):
        return scores
    for pairs, templates, sources, maps in _starts(first, second, rest):
        open_ = ~_passes(scores[:, pairs])
        if open_.any():
            pairs, maps = pairs[open_], maps[open_]
            _improve(scores, pairs, _aligned(templates[pairs], sources[pairs], maps))
    return scores


def _starts(
    first: Floats, second: Floats, rest: npt.NDArray[np.intp]
) -> Iterator[tuple[npt.NDArray[np.intp], Floats, Floats, Floats]]:
    """Where to begin to align the pairs of `rest`: (pairs, templates, sources, maps), the likeliest first."""
    coarse = levelled(reduced(first[rest], COARSE)), levelled(reduced(second[rest], COARSE))
    in_first, from_first = search(coarse[1], coarse[0], _STARTS)
    in_second, from_second = search(coarse[0], coarse[1], _STARTS)
    found = np.maximum(in_first[:, 0], in_second[:, 0]) >= _REJECTED
    pairs = rest[found]
    yield pairs, second, first, np.tile(np.eye(2, 3, dtype=np.float32), (len(pairs), 1, 1))
    for i in range(_STARTS):
        yield pairs, second, first, from_first[found, i]
        yield pairs, first, second, from_second[found, i]


def _aligned(templates: Floats, sources: Floats, maps: Floats) -> Floats:
    """Scores after the sources were laid over the templates, beginning at the maps."""
    maps = refine(levelled(reduced(templates, FINE)), levelled(reduced(sources, FINE)), maps)
    seen, inside = sample(sources, maps)
    return _score(templates, seen.reshape(templates.shape), inside.reshape(templates.shape))


def _score(one: Floats, other: Floats, inside: npt.NDArray[np.bool_] | None = None) -> Floats:
    """The agreement of the details of two pictures (K, 64, 64) that lie on one another: htrim, hmean, blocks; (3, K).

    inside: the pixels that both have. Scores are 0 where these are too few.
    """
    mask = np.ones((1, SIDE, SIDE), np.float32) if inside is None else inside.astype(np.float32)
    share = _blocks(mask)
    a, b = (one - box(one, 3)) * mask, (other - box(other, 3)) * mask
    counted = np.maximum(share, 1 / SIDE)
    mean_a, mean_b = _blocks(a) / counted, _blocks(b) / counted
    var_a = np.maximum(_blocks(a * a) / counted - mean_a**2, 0)
    var_b = np.maximum(_blocks(b * b) / counted - mean_b**2, 0)
    contrast: Floats = np.sqrt(var_a * var_b)
    agreement = (_blocks(a * b) / counted - mean_a * mean_b) / (contrast + _NOISE)
    weight = np.minimum(np.sqrt(contrast), _MOST_WEIGHT) * share * (share.mean(axis=1, keepdims=True) >= _OVERLAP)
    return _summed(agreement, weight)


def _summed(agreement: Floats, weight: Floats) -> Floats:
    """Weighted means over the blocks (K, 64) without and with the worst, and how many blocks carry them; (3, K)."""
    order = agreement.argsort(axis=1, kind="stable")
    agreement, weight = (np.take_along_axis(values, order, axis=1) for values in (agreement, weight))
    total = weight.sum(axis=1)
    kept = np.clip(weight.cumsum(axis=1) - _WORST * total[:, None], 0, weight)
    least = np.float32(1e-6)
    htrim = (agreement * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), least)
    hmean = (agreement * weight).sum(axis=1) / np.maximum(total, least)
    return np.stack([htrim, hmean, total**2 / np.maximum((weight**2).sum(axis=1), least)])


def _blocks(pixels: Floats) -> Floats:
    """Means of blocks of 8 x 8: (K, 64, 64) to (K, 64)."""
    return reduced(pixels, SIDE // _BLOCK).reshape(len(pixels), -1)


def _passes(scores: Floats) -> npt.NDArray[np.bool_]:
    """Which pairs are alike enough to stop looking."""
    passes: npt.NDArray[np.bool_] = (scores[0] >= COPY_TRIMMED) | (scores[1] >= COPY_MEAN)
    return passes


def _improve(scores: Floats, pairs: npt.NDArray[np.intp], found: Floats) -> npt.NDArray[np.bool_]:
    """Put the scores found for some pairs in the place of lower ones, and say where."""
    better: npt.NDArray[np.bool_] = _rank(found) > _rank(scores[:, pairs])
    scores[:, pairs[better]] = found[:, better]
    return better


def _rank(scores: Floats) -> Floats:
    """htrim, but those that pass before all others."""
    rank: Floats = scores[0] + _passes(scores).astype(np.float32)
    return rank


def _likely_turn(first: Floats, second: Floats) -> npt.NDArray[np.int8]:
    """The orientation, upright left out, in which the coarse pictures agree best."""
    coarse = [levelled(reduced(pictures, COARSE)) for pictures in (first, second)]
    a, b = (box(pictures, 3) for pictures in coarse)
    agreement = np.stack([(a * turn(b, one)).sum(axis=(1, 2)) for one in range(1, 8)])
    likely: npt.NDArray[np.int8] = (agreement.argmax(axis=0) + 1).astype(np.int8)
    return likely
