"""Vectors as blobs: what is read is what was written, or it is found out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from indexer.halves import unit
from indexer.store import vectors

DIM = 96
DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(50)]


@pytest.fixture
def rows() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((50, DIM)).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def test_round_trip(rows: np.ndarray) -> None:
    blobs = vectors.pack(list(rows), DIGESTS)
    assert {len(blob) for blob in blobs} == {2 * DIM + 4}
    halves, damaged = vectors.unpack(blobs, DIGESTS, DIM)
    assert damaged == []
    assert np.array_equal(halves, rows.astype(np.float16))
    back = unit(halves)
    assert back.dtype == np.float32
    assert np.linalg.norm(back, axis=1) == pytest.approx(1, abs=1e-6)
    assert (back * rows).sum(axis=1).min() > 0.999999
    assert np.array_equal(back, vectors.as_stored(rows))


def test_every_flipped_bit_is_found(rows: np.ndarray) -> None:
    (blob,) = vectors.pack([rows[0]], DIGESTS[:1])
    for bit in range(8 * len(blob)):
        harmed = bytearray(blob)
        harmed[bit // 8] ^= 1 << bit % 8
        assert vectors.unpack([bytes(harmed)], DIGESTS[:1], DIM)[1] == [0]


def test_harm_is_found_where_it_is(rows: np.ndarray) -> None:
    blobs = vectors.pack(list(rows), DIGESTS)
    blobs[3] = bytes(len(blobs[3]))
    blobs[7] = blobs[7][:-1]
    blobs[9] = blobs[10]  # a sound vector in another's row
    halves, damaged = vectors.unpack(blobs, DIGESTS, DIM)
    assert damaged == [3, 7, 9]
    back = unit(halves)
    assert (back[[0, 49]] * rows[[0, 49]]).sum(axis=1).min() > 0.999999


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_stored(rows: np.ndarray, bad: float) -> None:
    rows[0, 5] = bad
    with pytest.raises(ValueError, match="zero or not finite"):
        vectors.pack([rows[0]], DIGESTS[:1])


def test_what_has_no_direction_is_never_stored(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        vectors.pack([rows[0], 0 * rows[1]], DIGESTS[:2])
