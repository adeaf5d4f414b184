"""By which a row of the index is known to be what was written, together with its ids."""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..halves import Half

Ids = npt.NDArray[np.int64]
Checksums: TypeAlias = npt.NDArray[np.uint64]


def of_rows(ids: Ids, contents: Ids, rows: Half) -> Checksums:
    """Of each row, (N,): its ids and its bytes, eight at a time, each times a weight of its own, added up modulo 2^64.

    Weights are odd, so that damage to one of them always shows; any other goes unseen once in 2^64. A CRC takes six
    times as long, and keeps other threads waiting.
    """
    dim = rows.shape[1]
    words = (np.pad(rows, ((0, 0), (0, -dim % 4))) if dim % 4 else rows).view(np.uint64)
    weights = _weights(3 + words.shape[1])
    numbers = weights[0] + ids.view(np.uint64) * weights[1] + contents.view(np.uint64) * weights[2]
    sums: Checksums = numbers + np.einsum("nw,w->n", words, weights[3:])
    return sums


@functools.cache
def _weights(count: int) -> Checksums:
    """Odd numbers that look random: what SplitMix64 (Steele, Lea and Flood, 2014) gives from seed 0 on."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    weights: Checksums = mixed ^ (mixed >> np.uint64(31)) | np.uint64(1)
    return weights
