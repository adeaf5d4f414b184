"""Float16 rows as float32: exactly, in steps over many numbers; without AVX-512 NumPy does it one number at a time.

And how unit rows are compared. What is stored and indexed is float16, so every exact search and every pair goes
through here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

# numbers that are done at once, so that every step over them finds them in the cache
_AT_ONCE = 1 << 16
# numbers that are compared at once: so many that the steps over them, and not Python, take the time
COMPARED_AT_ONCE = 1 << 19
# a float16 has 10 bits of fraction after 5 of exponent, a float32 has 23 after 8, and 112 more is its zero of them
_SHIFT, _SIGN_AND_NUMBER, _BIAS = 23 - 10, np.int32(-0x7000_2000), np.float32(2.0**112)
# the square of what the exponent of infinity, and of what is no number, comes to
_NOT_FINITE = 2.0**32


def widened(rows: Half) -> Floats:
    """Rows (N, dim) as float32, to the bit what astype() gives."""
    return _in_parts(rows, _widen)


def unit(rows: Half) -> Floats:
    """Rows (N, dim) as float32 of length 1, which float16 keeps only nearly; a zero row stays zero."""
    return _in_parts(rows, _widen_to_unit)


def with_lengths(rows: Half) -> tuple[Floats, Floats]:
    """A few rows (N, dim) as float32, and by what each is divided to be of length 1, (N,)."""
    filled = np.empty(rows.shape, np.float32)
    return filled, _lengths(_widen(rows, filled))


def cosines(rows: Half, queries: Floats) -> Floats:
    """Of rows (N, k, dim) with a unit query each, (N, dim): (N, k); 0 for a zero row.

    Unlike a matrix product, this gives two rows the same score in any company.
    """
    count, each, dim = rows.shape
    scores = np.empty((count, each), np.float32)
    step = max(1, COMPARED_AT_ONCE // max(each * dim, 1))
    filled = np.empty((min(step, count), each, dim), np.float32)
    for start in range(0, count, step):
        part, asked = rows[start : start + step], queries[start : start + step]
        wide = filled[: len(part)]
        lengths = _lengths(_widen(part.reshape(-1, dim), wide.reshape(-1, dim)))
        dots = np.matmul(wide[:, :, None, :], asked[:, None, :, None])[:, :, 0, 0]
        np.divide(dots, lengths.reshape(dots.shape), out=scores[start : start + step])
    return np.clip(scores, -1.0, 1.0, out=scores)


def have_direction(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of some rows, (N, dim), can be compared at all: not one that is zero or not finite."""
    found: npt.NDArray[np.bool_] = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    return found


def _in_parts(rows: Half, fill: Callable[[Half, Floats], object]) -> Floats:
    filled = np.empty(rows.shape, np.float32)
    step = max(1, _AT_ONCE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        fill(rows[start : start + step], filled[start : start + step])
    return filled


def _widen(rows: Half, filled: Floats) -> Floats:
    """Returns the squared lengths, (N,)."""
    bits = filled.view(np.int32)
    bits[...] = rows.view(np.int16)  # the sign goes into all of the upper bits
    bits <<= _SHIFT
    bits &= _SIGN_AND_NUMBER
    filled *= _BIAS  # exact, for what is below the least normal float16 too
    squares: Floats = np.matmul(filled[:, None, :], filled[:, :, None])[:, 0, 0]
    if squares.max(initial=0) >= _NOT_FINITE:  # in a damaged index
        filled[...] = rows
    return squares


def _widen_to_unit(rows: Half, filled: Floats) -> None:
    filled *= (1 / _lengths(_widen(rows, filled)))[:, None]


def _lengths(squares: Floats) -> Floats:
    """By which rows are divided: 1 for a zero row."""
    lengths: Floats = np.sqrt(squares)
    lengths[lengths == 0] = 1
    return lengths
