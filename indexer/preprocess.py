"""From an upright RGB picture to the uint8 array that a model sees, before normalisation.

This is timm's evaluation transform up to ToTensor, without torch: decoding processes must start fast and stay small.
Source: timm.data.transforms_factory.transforms_imagenet_eval, and torchvision's Resize and CenterCrop that it uses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgument
from .records import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
"""uint8 RGB, (H, W, 3); a batch is (N, H, W, 3)."""

# Pillow's numbers (PIL.Image.Resampling), by the names that timm's configs use
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# a picture of 12 times the size that is wanted or more is averaged down before it is resized, to no less than 6 times:
# with the 3 that Pillow recommends, vectors moved by more than bf16 moves them
_REDUCING_GAP = 6.0
# what depends on where exactly a pixel begins is always done exactly
_ABRUPT = ("nearest", "box")
# beyond this ratio of the sides only the middle of a picture is resized: the rest would be cropped away anyway,
# and 65,000 x 1 pixels resized to a short side of 196 would need 7 GB
LONGEST_ASPECT = 32


def fit(picture: Image, spec: Preprocess, exact: bool = True) -> Pixels:
    """The model's input for one upright RGB picture.

    exact: the very bytes that timm gives. Otherwise some are a level or two off, and a large picture takes half the
    time; benchmarks.decoding measures what becomes of vectors.
    Returns uint8 RGB, (height, width, 3) of spec.size.
    """
    picture = _bounded(picture, spec)
    scale = tuple(math.floor(side / spec.crop_pct) for side in spec.size)
    to, resample = _resized(picture.size, (scale[0], scale[1]), spec), RESAMPLING[spec.interpolation]
    exact = exact or spec.interpolation in _ABRUPT
    if not exact and to[0] >= spec.size[1] and to[1] >= spec.size[0]:
        kept = _kept(picture.size, to, spec.size)
        return np.asarray(picture.resize(spec.size[::-1], resample, kept, _REDUCING_GAP))
    fill = tuple(round(255 * value) for value in spec.mean) if spec.crop_mode == "border" else (0, 0, 0)
    resized = picture.resize(to, resample, None, None if exact else _REDUCING_GAP)
    return _center_crop(np.asarray(resized, dtype=np.uint8), spec.size, fill)


def fit_array(array: npt.NDArray[Any], spec: Preprocess) -> Pixels:
    """The same for a uint8 RGB array of any size, (H, W, 3).

    Raises InvalidArgument for any other shape or type.
    """
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InvalidArgument(
            f"A picture must be a uint8 RGB array (H, W, 3), not {array.dtype} {array.shape}. "
            "Convert it, or pass a path."
        )
    return fit(Image.fromarray(array), spec)


def _bounded(picture: Image, spec: Preprocess) -> Image:
    """The middle of a picture that is very much longer than wide, any other as it is."""
    width, height = picture.size
    limit = LONGEST_ASPECT * min(width, height)
    if spec.crop_mode != "center" or max(width, height) <= limit:
        return picture
    limit += (max(width, height) - limit) % 2  # as much from either end, or the middle would move
    left, top = max(width - limit, 0) // 2, max(height - limit, 0) // 2
    return picture.crop((left, top, left + min(width, limit), top + min(height, limit)))


def _resized(size: tuple[int, int], scale: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """The (width, height) to resize to; scale is (height, width)."""
    width, height = size
    if spec.crop_mode == "squash":
        return scale[1], scale[0]
    if spec.crop_mode == "border" or scale[0] != scale[1]:
        ratios = height / scale[0], width / scale[1]
        ratio = max(ratios) if spec.crop_mode == "border" else min(ratios)
        return max(round(width / ratio), 1), max(round(height / ratio), 1)
    short = scale[0]
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _kept(have: tuple[int, int], to: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a picture whose pixels are in the middle once it is resized: (left, top, right, bottom).

    have, to: its (width, height) before and after. size: (height, width) of the middle.
    """
    top, left = _middle(to[::-1], size)
    across, down = have[0] / to[0], have[1] / to[1]
    right, bottom = (left + size[1]) * across, (top + size[0]) * down
    return left * across, top * down, min(right, have[0]), min(bottom, have[1])


def _center_crop(pixels: Pixels, size: tuple[int, int], fill: tuple[int, ...]) -> Pixels:
    """Cut the middle out, after padding what is too small."""
    pads = [max(want - have, 0) for want, have in zip(size, pixels.shape, strict=False)]
    if any(pads):
        padded: Pixels = np.empty(
            (pixels.shape[0] + pads[0], pixels.shape[1] + pads[1], 3),
            np.uint8,
        )
        padded[:] = np.array(fill, np.uint8)
        top, left = pads[0] // 2, pads[1] // 2
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = padded
    top, left = _middle(pixels.shape[:2], size)
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])


def _middle(have: tuple[int, ...], want: tuple[int, int]) -> tuple[int, int]:
    """Where the middle of what there is begins: (top, left). Both are (height, width)."""
    return round((have[0] - want[0]) / 2), round((have[1] - want[1]) / 2)
