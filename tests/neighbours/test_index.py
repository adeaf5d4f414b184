"""The index file: written whole, known by its stamp, never trusted blindly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.neighbours.index import Stamp, find_index, open_index, read_stamp, write_index

DIM = 32


@pytest.fixture
def rows() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((500, DIM)).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def write(folder: Path, rows: np.ndarray, **changes: object) -> Stamp:
    ids = np.arange(10, 10 + len(rows), dtype=np.int64)
    values: dict[str, object] = {
        "catalog": "c",
        "model": "m",
        "kind": "k",
        "dim": DIM,
        "covered": len(rows),
        "last": int(ids[-1]),
        "recall": 1.0,
    }
    blocks = ((ids[i : i + 100], rows[i : i + 100]) for i in range(0, len(rows), 100))
    return write_index(folder, blocks, Stamp(**{**values, **changes}))  # type: ignore[arg-type]


def test_search_equals_exact_search(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    found = find_index(tmp_path, "c", "m")
    assert found is not None
    index = open_index(*found)
    assert index is not None
    scores, ids = index.search(rows[:20], 10)
    expected = np.argsort(-(rows[:20] @ rows.T), axis=1)[:, :10] + 10
    assert (ids == expected).mean() > 0.99  # fp16 may swap two that are almost equal
    assert np.allclose(scores, np.take_along_axis(rows[:20] @ rows.T, ids - 10, axis=1), atol=2e-3)


def test_only_allowed_ids_come_and_what_is_missing_is_marked(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    found = find_index(tmp_path, "c", "m")
    assert found
    index = open_index(*found)
    assert index
    scores, ids = index.search(rows[:1], 10, np.array([12, 400, 77], np.int64))
    assert set(ids[0][:3].tolist()) == {12, 400, 77}
    assert set(ids[0][3:].tolist()) == {-1}
    assert np.isneginf(scores[0][3:]).all()
    assert index.search(rows[:1], 10_000)[1].shape == (1, 500)


def test_another_catalog_or_model_is_not_found(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    assert find_index(tmp_path, "other", "m") is None
    assert find_index(tmp_path, "c", "other") is None


def test_a_new_file_takes_the_old_ones_place(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows[:100])
    (tmp_path / "neighbours-left-over.tmp").write_bytes(b"x")
    write(tmp_path, rows)
    assert len(list(tmp_path.iterdir())) == 1
    found = find_index(tmp_path, "c", "m")
    assert found
    assert found[1].covered == 500


def test_every_truncation_and_every_zeroed_stretch_is_found(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for cut in rng.integers(0, len(data), 50):
        path.write_bytes(data[:cut])
        assert read_stamp(path) is None
    for start in rng.integers(0, len(data) - 64, 50):
        harmed = data[:start] + bytes(64) + data[start + 64 :]
        if harmed == data:
            continue
        path.write_bytes(harmed)
        stamp = read_stamp(path)
        assert stamp is None or open_index(path, stamp) is None
