"""Float16 as float32: what NumPy would make of it, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer import halves
from indexer.halves import cosines, unit, widened

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype == np.float32 and np.array_equal(one.view(np.int32), other.view(np.int32))


@pytest.mark.parametrize("shape", [(1, -1), (-1, 1), (256, -1), (-1, 256)])
def test_every_number_there_is_becomes_what_numpy_makes_of_it(shape: tuple[int, int]) -> None:
    rows = EVERY.reshape(shape)
    assert same_bits(widened(rows), rows.astype(np.float32))


def test_numbers_below_the_least_normal_one_are_kept_among_others() -> None:
    assert same_bits(widened(FINITE[:, None]), FINITE[:, None].astype(np.float32))
    assert widened(np.array([[2.0**-24, -(2.0**-24)]], np.float16)).tolist() == [[2.0**-24, -(2.0**-24)]]


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (1, 200_000), (1000, 1024)])
def test_rows_of_any_number_and_length(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    assert same_bits(widened(rows), rows.astype(np.float32))


def test_rows_that_lie_apart_or_at_an_odd_place_of_a_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float16)
    assert same_bits(widened(rows[::3, ::2]), rows[::3, ::2].astype(np.float32))
    path = tmp_path / "rows"
    path.write_bytes(b"x" + rows.tobytes())
    mapped = np.memmap(path, np.uint8, "r", 1, (64, 64)).view(np.float16)
    assert same_bits(widened(mapped), rows.astype(np.float32))


def test_unit_rows_point_where_they_did() -> None:
    rows = (np.random.default_rng(0).standard_normal((1000, 96)) / 7).astype(np.float16)
    rows[7] = 0
    there = rows.astype(np.float64)
    lengths = np.linalg.norm(there, axis=1, keepdims=True)
    found = unit(rows)
    assert found.dtype == np.float32
    assert np.abs(found - there / np.where(lengths > 0, lengths, 1)).max() < 2e-7
    assert not found[7].any()


def test_a_row_is_the_same_in_any_company() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 1024)).astype(np.float16)
    together = unit(rows)
    assert all(same_bits(unit(rows[i : i + 1]), together[i : i + 1]) for i in range(0, 500, 7))


@pytest.mark.parametrize("at_once", [1, 5000, 1 << 30])
def test_cosines_are_those_of_the_rows_and_the_same_in_any_company(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((90, 7, 96)) / 7).astype(np.float16)
    queries = unit(rng.standard_normal((90, 96)).astype(np.float16))
    rows[3, 2] = 0
    rows[4, 5] = queries[4]
    there = rows.astype(np.float64)
    lengths = np.linalg.norm(there, axis=2)
    expected = np.einsum("nkd,nd->nk", there, queries, dtype=np.float64) / np.where(lengths > 0, lengths, 1)
    together = cosines(rows, queries)
    monkeypatch.setattr(halves, "COMPARED_AT_ONCE", at_once)
    found = cosines(rows, queries)
    assert np.abs(found - expected).max() < 3e-7
    assert found[3, 2] == 0
    assert 1 - 1e-6 < found[4, 5] <= 1
    assert same_bits(found, together)
    assert all(
        same_bits(cosines(rows[i : i + 1, j : j + 1], queries[i : i + 1])[0], found[i, j : j + 1])
        for i in range(0, 90, 9)
        for j in range(7)
    )


@pytest.mark.parametrize("shape", [(0, 3, 8), (3, 0, 8)])
def test_cosines_of_nothing(shape: tuple[int, int, int]) -> None:
    rows, queries = np.zeros(shape, np.float16), np.zeros((shape[0], shape[2]), np.float32)
    assert np.array_equal(cosines(rows, queries), np.zeros(shape[:2], np.float32))
