"""Laying one likeness over another: where on the source each point of the template lies, as an affine map.

Points are measured from the middle of a likeness, which is 1 wide and 1 high. A map is float32, (2, 3): the x and y on
the source are map @ (x, y, 1) of the template. Functions take many pairs at once: K of them, with S pixels a side.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# what may have been cut from either side of an axis: a crop of a fifth of the area, wherever it was made
_STEPS, _CUT_AT_MOST = (0.0, 0.05, 0.1, 0.15, 0.2), 0.25
_SYMMETRIC = (0.125, 0.167)
COARSE, FINE = 16, 32
_ROUNDS = 8
_SOFTNESS = 1.2  # residuals of this many mean residuals count half
_LONGEST_STEP = 0.2  # so that no step can turn a picture inside out
_MOST_CONTRAST = 2.5


def reduced(pictures: Floats, side: int) -> Floats:
    """Means of squares of pixels: (K, S, S) to (K, side, side)."""
    count, size = len(pictures), pictures.shape[-1] // side
    squares = pictures.reshape(count, side, size, side, size)
    means: Floats = squares.mean(axis=(2, 4))
    return means


@cache
def _means(side: int, size: int) -> Floats:
    """The matrix that takes means over `size` neighbours on a line; the outermost pixel goes on beyond the edge."""
    lines = np.arange(side)[:, None]
    near = np.clip(lines + np.arange(size) - size // 2, 0, side - 1)
    matrix: Floats = np.zeros((side, side), np.float32)
    np.add.at(matrix, (lines, near), np.float32(1 / size))
    return matrix


def box(pictures: Floats, size: int) -> Floats:
    """The mean around each pixel, over size x size of them: (K, S, S) to the same."""
    means = _means(pictures.shape[-1], size)
    around: Floats = np.matmul(means @ pictures, means.T)
    return around


def levelled(pictures: Floats) -> Floats:
    """Light and contrast made even everywhere, so that only what is drawn is left. (K, S, S) to the same."""
    means = box(pictures, 5)
    spread = np.sqrt(np.maximum(box(pictures * pictures, 5) - means * means, 0))
    even: Floats = np.clip((pictures - means) / (spread + 3), -_MOST_CONTRAST, _MOST_CONTRAST)
    return even


@cache
def _windows() -> tuple[Floats, Floats]:
    """What can be left of an axis: (scale, offset) of W windows, (W, 2), and matrices to stretch them, (W, 16, 16)."""
    cuts = [(a, b) for a, b in product(_STEPS, _STEPS) if a + b <= _CUT_AT_MOST + 1e-6]
    cuts += [(cut, cut) for cut in _SYMMETRIC]
    axes = np.array([(1 - a - b, (a - b) / 2) for a, b in cuts], np.float32)
    middles = (np.arange(COARSE, dtype=np.float32) + 0.5) / COARSE - 0.5
    places = (axes[:, :1] * middles + axes[:, 1:] + 0.5) * COARSE - 0.5
    distances = np.abs(places[:, :, None] - np.arange(COARSE))
    stretch = np.maximum(1 - distances, 0)
    return axes, (stretch / stretch.sum(axis=2, keepdims=True)).astype(np.float32)


def search(whole: Floats, cut: Floats, best: int) -> tuple[Floats, Floats]:
    """Look for each `whole` among the windows of its `cut`: the correlations of the best ones, and their maps.

    whole, cut: levelled, (K, 16, 16). Returns (K, best) and (K, best, 2, 3), best first.
    """
    axes, stretch = _windows()
    count, kinds = len(whole), len(axes)
    flat = stretch.reshape(kinds * COARSE, COARSE)
    rows = (flat @ cut).reshape(count, kinds, COARSE, COARSE)  # rows cut and stretched, columns not yet
    columns = (
        (whole @ stretch.transpose(1, 0, 2).reshape(COARSE, -1))
        .reshape(count, COARSE, kinds, COARSE)
        .transpose(0, 2, 1, 3)
    )
    products = rows.reshape(count, kinds, -1) @ columns.reshape(count, kinds, -1).transpose(0, 2, 1)
    # the norms of all windows, without ever making one of them
    squares = (rows.transpose(0, 1, 3, 2) @ rows).reshape(count, kinds, -1)
    norms = squares @ (stretch.transpose(0, 2, 1) @ stretch).reshape(kinds, -1).T
    size = np.float32(COARSE * COARSE)
    sums = rows.sum(axis=2) @ stretch.sum(axis=1).T
    spread = np.sqrt(np.maximum(norms - sums * sums / size, 1e-6))
    centred = whole - whole.mean(axis=(1, 2), keepdims=True)
    total = np.sqrt((centred * centred).sum(axis=(1, 2)))[:, None, None]
    scores = (products - sums * whole.mean(axis=(1, 2))[:, None, None]) / (spread * np.maximum(total, 1e-3))
    scores = scores.reshape(count, -1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    return np.take_along_axis(scores, order, axis=1), _maps(axes[order % kinds], axes[order // kinds])


def _maps(across: Floats, down: Floats) -> Floats:
    """Maps of windows given as (scale, offset): (..., 2) each to (..., 2, 3)."""
    maps = np.zeros((*across.shape[:-1], 2, 3), np.float32)
    maps[..., 0, 0], maps[..., 0, 2] = across[..., 0], across[..., 1]
    maps[..., 1, 1], maps[..., 1, 2] = down[..., 0], down[..., 1]
    return maps


@cache
def _grid(side: int) -> Floats:
    """(x, y, 1) of every pixel's middle, row by row: (3, side * side)."""
    middles = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.ones(side * side, np.float32)])


def sample(sources: Floats, maps: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The sources as seen through the maps, bilinear: (K, S * S), and which of the points lie on the source."""
    count, side = sources.shape[:2]
    places = (maps @ _grid(side) + np.float32(0.5)) * side - np.float32(0.5)
    inside: npt.NDArray[np.bool_] = ((places > -0.5) & (places < side - 0.5)).all(axis=1)
    np.clip(places, 0, side - 1, out=places)
    corners = np.minimum(places.astype(np.int32), side - 2)
    places -= corners
    x, y = places[:, 0], places[:, 1]
    first = corners[:, 1] * side + corners[:, 0] + np.arange(count, dtype=np.int32)[:, None] * (side * side)
    flat = sources.ravel()
    top = flat[first]
    top += (flat[first + 1] - top) * x
    first += side
    low = flat[first]
    low += (flat[first + 1] - low) * x
    top += (low - top) * y
    return top, inside


def refine(templates: Floats, sources: Floats, maps: Floats) -> Floats:
    """Improve maps until the source lies on the template, letting pass what was changed in places.

    templates, sources: levelled, (K, 32, 32). maps: (K, 2, 3), within some pixels of the truth.
    Source: Baker and Matthews, Lucas-Kanade 20 Years On, 2004: inverse compositional Gauss-Newton, robustly weighted.
    """
    count, side = templates.shape[:2]
    down, across = np.gradient(templates, 1 / side, axis=(1, 2))
    grid = _grid(side)
    design = np.empty((count, 8, side * side), np.float32)
    design[:, :3] = across.reshape(count, 1, -1) * grid
    design[:, 3:6] = down.reshape(count, 1, -1) * grid
    design[:, 7] = 1
    wanted = templates.reshape(count, -1)
    ridge = np.eye(8, dtype=np.float32) * np.float32(1e-3)
    seen, inside = sample(sources, maps)
    residual = wanted - seen
    for _ in range(_ROUNDS):
        scale = np.abs(residual).mean(axis=1, keepdims=True) * _SOFTNESS + 1e-6
        weights = inside / (1 + np.square(residual / scale))
        design[:, 6] = seen
        weighted = design * weights[:, None]
        step = np.linalg.solve(weighted @ design.transpose(0, 2, 1) + ridge, weighted @ wanted[:, :, None])
        moved = np.zeros((count, 3, 3), np.float32)
        moved[:, :2] = -np.clip(step[:, :6, 0], -_LONGEST_STEP, _LONGEST_STEP).reshape(count, 2, 3)
        moved += np.eye(3, dtype=np.float32)
        maps = maps @ np.linalg.inv(moved)
        seen, inside = sample(sources, maps)
        residual = wanted - step[:, 6] * seen - step[:, 7]
    return maps
