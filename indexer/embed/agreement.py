"""How far vectors of one precision stand for those of another: what `bench` reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .embedder import Vectors

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cosines of each vector to its counterpart; same_first: share that has the same nearest neighbour (0 to 1)."""

    mean_cosine: float
    lowest_cosine: float
    same_first: float


def agreement(vectors: Vectors, reference: Vectors) -> Agreement:
    """Compare vectors with those of the same pictures in the same order, both (N, dim) of unit rows, N at least 2."""
    cosines = np.einsum("nd,nd->n", vectors, reference, dtype=np.float64)
    same = _nearest(vectors) == _nearest(reference)
    return Agreement(float(cosines.mean()), float(cosines.min()), float(same.mean()))


def _nearest(vectors: Vectors) -> npt.NDArray[np.intp]:
    """Row of the nearest other vector of each, (N,)."""
    found = np.empty(len(vectors), np.intp)
    for start in range(0, len(vectors), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        found[start : start + _BLOCK] = scores.argmax(1)
    return found
