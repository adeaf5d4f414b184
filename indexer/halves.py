"""Float16 rows as float32: exactly, in steps over many numbers; without AVX-512 NumPy does it one number at a time.

And how unit rows are compared. What is stored and indexed is float16, so every exact search and every pair goes
through here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

# numbers that are done at once, so that every step over them finds them in the cache
_AT_ONCE = 1 << 16
# a float16 has 10 bits of fraction after 5 of exponent, a float32 has 23 after 8, and 112 more is its zero of them
_SHIFT, _SIGN_AND_NUMBER, _BIAS = 23 - 10, np.int32(-0x7000_2000), np.float32(2.0**112)
# the square of what the exponent of infinity, and of what is no number, comes to
_NOT_FINITE = 2.0**32


def widened(rows: Half) -> Floats:
    """Rows (N, dim) as float32, to the bit what astype() gives."""
    return _in_parts(rows, _widen)


def unit(rows: Half, out: Floats | None = None) -> Floats:
    """Rows (N, dim) as float32 of length 1, which float16 keeps only nearly; a zero row stays zero.

    out: where they go, which is half the work where it is used again and again.
    """
    return _in_parts(rows, _widen_to_unit, out)


def cosines(rows: Floats, queries: Floats) -> Floats:
    """Of unit rows (N, k, dim) with a unit query each, (N, dim): (N, k).

    Unlike a matrix product, this gives two rows the same score in any company.
    """
    scores: Floats = np.einsum("nkd,nd->nk", rows, queries)
    return np.clip(scores, -1.0, 1.0)


def _in_parts(rows: Half, fill: Callable[[Half, Floats], object], out: Floats | None = None) -> Floats:
    filled = np.empty(rows.shape, np.float32) if out is None else out
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
    lengths = np.sqrt(_widen(rows, filled))
    lengths[lengths == 0] = 1
    filled *= (1 / lengths)[:, None]
