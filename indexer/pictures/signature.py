"""A small grey likeness of a picture, by which a copy is told from another shot of the same scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 64
SIGNATURE_BYTES = SIDE * SIDE

Likenesses = npt.NDArray[np.uint8]
"""uint8 luminance, (N, 64, 64)."""

# edges are looked for in a picture that was brought to some 256 to 511 pixels a side: enough to see them, and cheap
_LOOKED_AT = 256
# a line belongs to a border where nearly all of it is as light as the outermost one; JPEG leaves some levels of noise
_TOLERANCE, _UNIFORM, _TRIMMED_AT_MOST = 10, 0.98, 0.3
# pixels a side that are looked at for colour, by how many levels channels differ there (those of a JPEG in grey by a
# few), and in which share of them
_SAMPLED, _COLOURED, _STRAY = 128, 16, 0.0005


def signature(picture: Image) -> bytes:
    """The likeness of one upright RGB picture of any size: luminance without uniform borders, squashed to 64 x 64.

    Returns SIGNATURE_BYTES bytes, uint8, row by row. indexer.pictures.copies compares them.
    """
    return seen(picture).signature


class Seen(NamedTuple):
    """What is seen of a picture. share: of its area within its uniform borders. coloured: it is not grey all over."""

    signature: bytes
    share: float
    coloured: bool


def seen(picture: Image) -> Seen:
    """The signature of an upright RGB picture, and what else is seen on the way."""
    from PIL.Image import Resampling

    width, height = picture.size
    factors = max(width // _LOOKED_AT, 1), max(height // _LOOKED_AT, 1)
    small = picture.reduce(factors) if factors != (1, 1) else picture
    grey = small.convert("L")
    left, top, right, bottom = box = _without_borders(np.asarray(grey))
    share = (right - left) * (bottom - top) / (grey.width * grey.height)
    signature = grey.resize((SIDE, SIDE), Resampling.BILINEAR, box=box).tobytes()
    return Seen(signature, share, _is_coloured(small))


def _is_coloured(picture: Image) -> bool:
    """Whether channels differ in more than a stray pixel of those that are looked at."""
    from PIL import ImageChops
    from PIL.Image import Resampling

    some = picture.resize((min(picture.width, _SAMPLED), min(picture.height, _SAMPLED)), Resampling.NEAREST)
    red, green, blue = some.split()
    apart = [ImageChops.difference(*pair).histogram() for pair in ((red, green), (green, blue), (blue, red))]
    return max(sum(levels[_COLOURED:]) for levels in apart) > _STRAY * some.width * some.height


def likenesses(signatures: Sequence[bytes]) -> Likenesses:
    """Signatures as they are compared, (N, 64, 64).

    Raises InvalidArgument where one has another length.
    """
    if any(len(one) != SIGNATURE_BYTES for one in signatures):
        raise InvalidArgument(f"A signature has {SIGNATURE_BYTES} bytes. Make it anew with signature().")
    return np.frombuffer(b"".join(signatures), np.uint8).reshape(-1, SIDE, SIDE)


def _without_borders(grey: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """What is left of a grey picture (H, W) without uniform edges, as (left, top, right, bottom)."""
    top, bottom = _trimmed(grey), len(grey) - _trimmed(grey[::-1])
    columns = grey[top:bottom].T
    return _trimmed(columns), top, len(columns) - _trimmed(columns[::-1]), bottom


def _trimmed(lines: npt.NDArray[Any]) -> int:
    """How many lines at the beginning are uniform, and as light as the first."""
    at_most = int(len(lines) * _TRIMMED_AT_MOST)
    if not at_most or not _is_uniform(lines[:1], median := _median(lines[0]))[0]:
        return 0  # as of most pictures
    uniform = _is_uniform(lines[:at_most], median)
    return at_most if uniform.all() else int(uniform.argmin())


def _median(line: npt.NDArray[Any]) -> float:
    """That of np.median, which takes ten times as long for one line."""
    ordered = np.sort(line)
    return (int(ordered[(len(line) - 1) // 2]) + int(ordered[len(line) // 2])) / 2


def _is_uniform(lines: npt.NDArray[Any], lightness: float) -> npt.NDArray[np.bool_]:
    """Which lines are of one lightness."""
    within = np.abs(lines - lightness) <= _TOLERANCE
    uniform: npt.NDArray[np.bool_] = np.count_nonzero(within, axis=1) / lines.shape[1] >= _UNIFORM
    return uniform
