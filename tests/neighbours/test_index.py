"""The index file: written whole, known by its stamp, never trusted blindly."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexer import CatalogError, InvalidArgument
from indexer.halves import unit
from indexer.neighbours import tuning
from indexer.neighbours.choosing import FLAT
from indexer.neighbours.index import Block, NeighbourIndex, open_index
from indexer.neighbours.making import extend_index, write_index
from indexer.neighbours.nominator import Nominator, make
from indexer.neighbours.stamp import MAGIC, Stamp, find_index, is_usable, path_of, read_stamp, remove_others
from indexer.neighbours.tuning import Exam

DIM = 32


@pytest.fixture
def rows() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((500, DIM)).astype(np.float32)
    of_length_1: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return of_length_1


def write(folder: Path, rows: np.ndarray, *kinds: str, **changes: object) -> Stamp:
    ids = np.arange(10, 10 + len(rows), dtype=np.int64)
    values: dict[str, object] = {
        "name": "c",
        "model": "m",
        "kind": "k",
        "dim": DIM,
        "covered": len(rows),
        "last": int(ids[-1]),
        "recall": 1.0,
    }
    blocks = (block(ids[i : i + 100], rows[i : i + 100]) for i in range(0, len(rows), 100))
    return write_index(folder, blocks, Stamp(**{**values, **changes}), kinds or (FLAT,))  # type: ignore[arg-type]


def block(ids: np.ndarray, rows: np.ndarray) -> Block:
    """Vectors whose contents have the same numbers."""
    return ids, ids, rows.astype(np.float16)


def opened(folder: Path) -> NeighbourIndex:
    found = find_index(folder, "c", "m")
    assert found is not None
    index = open_index(*found)
    assert index is not None
    return index


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


@pytest.mark.parametrize("few", [1 << 30, 0])
@pytest.mark.parametrize("count", [1, 15, 16, 40])
def test_however_many_rows_are_asked_for_at_once_the_same_are_found(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, count: int, few: int
) -> None:
    monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", few)
    write(tmp_path, rows)
    index = opened(tmp_path)
    stored = unit(index.rows_at(slice(None)).astype(np.float16))
    products = rows[:count] @ stored.T
    for allowed in (None, np.arange(10, 510, 3)):
        among = np.arange(500) if allowed is None else allowed - 10
        expected = among[np.argsort(-products[:, among], axis=1)[:, :10]]
        scores, ids = index.search(rows[:count], 10, allowed)
        assert np.array_equal(ids, expected + 10)
        assert np.allclose(scores, np.take_along_axis(products, expected, axis=1), atol=1e-5)
    assert sorted(index.search(rows[:count], 1000)[1][0].tolist()) == list(range(10, 510))


@pytest.mark.parametrize("few", [1 << 30, 0])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("kind", [FLAT, "HNSW16,SQ8"])
def test_of_a_burst_the_nearest_by_cosine_are_found(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, count: int, few: int, kind: str
) -> None:
    """Float16 leaves rows of nearly unit length, which tell these apart less than their angles do."""
    monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", few)
    rows[100:200] = rows[100] + rows[100:200] * 0.05
    rows[100:200] /= np.linalg.norm(rows[100:200], axis=1, keepdims=True)
    write(tmp_path, rows, kind)
    index = opened(tmp_path)
    among = np.arange(500) if kind == FLAT else np.arange(0, 500, 2)
    cosines = rows[100 : 100 + count] @ unit(rows[among].astype(np.float16)).T
    _, ids = index.search(rows[100 : 100 + count], 10, None if kind == FLAT else among + 10)
    found = np.take_along_axis(cosines, np.searchsorted(among, ids - 10), axis=1)
    assert (found[:, -1] >= -np.sort(-cosines, axis=1)[:, 9] - 3e-7).all()


@pytest.mark.parametrize("dim", [32, 7])
def test_rows_have_the_checksums_that_the_readme_says(tmp_path: Path, dim: int) -> None:
    rows = np.random.default_rng(0).standard_normal((5, dim)).astype(np.float16)
    ids, contents = np.array([3, 4, 8, 9, 1 << 40]), np.array([7, 1, 2, 1 << 33, 5])
    stamp = write_index(tmp_path, [(ids, contents, rows)], Stamp("c", "m", FLAT, dim, 5, 1 << 40, 1.0))
    (path,) = tmp_path.iterdir()
    checksums = np.frombuffer(path.read_bytes(), "<u8", 5, stamp.ids + 16 * 5).tolist()
    weights, state = [], 0
    for _ in range(3 + -(-dim // 4)):  # SplitMix64
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        weights.append((mixed ^ mixed >> 31) | 1)
    for i in range(5):
        data = rows[i].tobytes() + bytes(-2 * dim % 8)
        words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, len(data), 8)]
        numbers = [1, int(ids[i]), int(contents[i]), *words]
        assert checksums[i] == sum(x * w for x, w in zip(numbers, weights, strict=True)) % 2**64


@pytest.mark.parametrize("file", ["as it was", "deleted", "another"])
def test_who_asks_often_is_answered_by_faiss_where_the_file_is_still_there(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    write(tmp_path, rows)
    index = opened(tmp_path)
    by_numpy: list[int] = []
    compare = NeighbourIndex._compare

    def noted(self: NeighbourIndex, queries: np.ndarray, *rest: Any) -> np.ndarray:
        by_numpy.append(len(queries))
        return compare(self, queries, *rest)

    monkeypatch.setattr(NeighbourIndex, "_compare", noted)
    monkeypatch.setattr("indexer.neighbours.index._IMPORT_NUMBERS", 3 * rows.size)
    (path,) = tmp_path.iterdir()
    if file != "as it was":
        path.unlink()
    if file == "another":
        path.write_bytes(bytes(100_000))
    expected = np.argsort(-(rows[:20] @ index.rows_at(slice(None)).T), axis=1)[:, :10] + 10
    for i in range(20):
        places = index.find(rows[i : i + 1], 10)[1]
        ids = index.ids_at(places)
        assert np.array_equal(ids[0], expected[i])
        contents, scores, sound = index.scored(places, rows[i : i + 1])
        assert sound.all()
        assert np.array_equal(contents, ids)
        assert np.allclose(scores, rows[i] @ unit(rows[ids[0] - 10].astype(np.float16)).T, atol=1e-6)
    assert len(by_numpy) == (3 if file == "as it was" else 20)


@pytest.mark.parametrize("few", [1 << 30, 0])
def test_a_damaged_row_is_no_neighbour(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", few)
    stamp = write(tmp_path, rows)
    monkeypatch.setattr("indexer.neighbours.stamp._CHECKED_BYTES", 0)  # as where checking takes too long
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    begin = stamp.rows
    data[begin : begin + 2 * DIM] = np.full(DIM, np.nan, np.float16).tobytes()
    path.write_bytes(data)
    scores, ids = opened(tmp_path).search(rows[:3], 500)
    assert [set(range(10, 510)) - set(row) for row in ids.tolist()] == [{10}] * 3
    assert ids[:, -1].tolist() == [-1] * 3
    assert np.isfinite(scores[:, :-1]).all()


def test_only_allowed_ids_come_and_never_a_gap(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    found = find_index(tmp_path, "c", "m")
    assert found
    index = open_index(*found)
    assert index
    scores, ids = index.search(rows[:1], 10, np.array([12, 400, 77], np.int64))
    assert set(ids[0].tolist()) == {12, 400, 77}
    assert scores.shape == (1, 3)
    assert index.search(rows[:2], 10, np.array([9, 510, 10**9], np.int64))[1].shape == (2, 0)
    assert index.search(rows[:1], 10_000)[1].shape == (1, 500)


def test_another_catalog_or_model_is_not_found(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows)
    assert find_index(tmp_path, "other", "m") is None
    assert find_index(tmp_path, "c", "other") is None


def test_a_new_file_takes_the_old_ones_place(tmp_path: Path, rows: np.ndarray) -> None:
    write(tmp_path, rows[:100], name="before")
    (tmp_path / "neighbours-left-over.tmp").write_bytes(b"x")
    (tmp_path / ".indexer-left-over.faiss.tmp").write_bytes(b"x")
    write(tmp_path, rows)
    remove_others(path_of(tmp_path, "c"))
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


LISTS = "IVF64,PQ16x4fs"


@pytest.fixture
def clustered() -> np.ndarray:
    return made_clustered(0, 6000)


def made_clustered(seed: int, count: int, centres: int = 0) -> np.ndarray:
    """Unit rows around forty centres; other centres are other kinds of things."""
    middle = np.random.default_rng(centres).standard_normal((40, DIM))
    rng = np.random.default_rng(1000 + seed)
    made = (middle[rng.integers(0, 40, count)] + rng.standard_normal((count, DIM)) * 0.5).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def recall(index: NeighbourIndex, rows: np.ndarray, queries: np.ndarray) -> float:
    best = -np.sort(-(queries @ rows.T), axis=1)[:, :10]
    scores, _ = index.search(queries, 10)
    return float((scores >= best[:, -1:] - 1e-3).mean())


@pytest.mark.parametrize("kind", [LISTS, "IVF64,SQ8", "IVF64,RaBitQ", "HNSW16,SQ8", "PCAR16,IVF64,PQ16x4fsr"])
def test_a_structure_reaches_the_recall_that_it_says(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    stamp = write(tmp_path, clustered, kind, target=0.97)
    assert stamp.kind == kind
    assert stamp.recall >= 0.97
    queries = made_clustered(1, 300)
    index = opened(tmp_path)
    assert recall(index, clustered, queries) >= 0.95  # these 300 have luck of their own
    one_by_one = [index.search(query[None], 10)[1][0].tolist() for query in queries[:20]]
    assert one_by_one == index.search(queries, 10)[1][:20].tolist()


def test_faiss_takes_the_threads_that_may_be_used_and_none_in_a_search(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are more, as in a container of a large machine, they keep each other from working."""
    counts: dict[str, set[int]] = {"train": set(), "knn": set(), "search": set()}

    def noting(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            counts[name].add(faiss.omp_get_max_threads())
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, noted)

    noting(Nominator, "train")
    noting(faiss, "knn")
    noting(faiss.IndexRefine, "search")
    monkeypatch.setattr("indexer.neighbours.threads.cores", lambda: 3)
    monkeypatch.setattr("indexer.neighbours.index.cores", lambda: 3)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(7)
    try:
        write(tmp_path, clustered, LISTS, target=0.9)
        opened(tmp_path).search(clustered[:200], 10)
        opened(tmp_path).exact(clustered[:200], 10)
        assert faiss.omp_get_max_threads() == 7
    finally:
        faiss.omp_set_num_threads(before)
    assert counts == {"train": {3}, "knn": {3}, "search": {1}}


def test_an_exam_measures_a_share_and_a_standard_error(tmp_path: Path, clustered: np.ndarray) -> None:
    write(tmp_path, clustered[:300])
    index = opened(tmp_path)
    exam = Exam(index, np.arange(50))
    scores, found = index.exact(exam.queries, 11, by_cosine=False)
    assert exam.recall(scores, found) == (1.0, 1.0)
    scores[::2, -1] = -1.0  # half of them find 9 of 10
    assert exam.recall(scores, found) == pytest.approx((0.95, 0.95 - 0.05 / 50**0.5), abs=1e-6)
    assert exam.recall(scores[:, :1], found[:, :1]) == (0.0, 0.0)


@pytest.mark.parametrize("count", [1, 63, 200])
def test_queries_that_are_shared_out_find_the_same(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    write(tmp_path, clustered, LISTS, target=0.9)
    index, queries = opened(tmp_path), made_clustered(1, count)
    answers = []
    for cores in (1, 3, 16):
        monkeypatch.setattr("indexer.neighbours.index.cores", lambda cores=cores: cores)
        answers.append(index.search(queries, 10))
    for scores, ids in answers:
        assert np.array_equal(ids, answers[0][1])
        assert np.array_equal(scores, answers[0][0])


def test_a_query_reads_only_the_lists_that_it_touches(tmp_path: Path, clustered: np.ndarray) -> None:
    stamp = write(tmp_path, clustered, LISTS, target=0.9)
    index = opened(tmp_path)
    assert index.structure is not None
    lists = index.structure._lists
    assert lists is not None
    before = len(lists._missing)
    index.nominate(clustered[:1], 10, 2, 50)
    assert before - len(lists._missing) == 2
    index.search(clustered[:100], 10)
    assert lists.complete
    assert stamp.effort < 64


@pytest.mark.parametrize("kind", [LISTS, "HNSW16,SQ8"])
def test_what_passes_a_filter_is_found_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Here far from what asks: as cats that look for dogs."""
    monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", 0)
    rng = np.random.default_rng(0)
    middle = rng.standard_normal((40, DIM))
    near = rng.integers(0, 40, 6300)
    rows = (middle[near] + rng.standard_normal((6300, DIM)) * 0.5).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows, others = rows[:6000], rows[6000:][near[6000:] % 2 == 1]
    write(tmp_path, rows, kind, target=0.97)
    dogs = np.flatnonzero(near[:6000] % 2 == 0)
    best = -np.sort(-(others @ rows[dogs].T), axis=1)[:, :10]
    scores, ids = opened(tmp_path).search(others, 10, dogs + 10)
    assert np.isin(ids - 10, dogs).all()
    assert (scores >= best[:, -1:] - 1e-3).mean() > 0.97


@pytest.mark.parametrize(("kind", "least", "most"), [("IVF64,SQ8", 0.97, 0.9), ("HNSW16,SQ8", 0.85, 0.6)])
def test_unusual_queries_find_their_nearest_too(
    tmp_path: Path, clustered: np.ndarray, kind: str, least: float, most: float
) -> None:
    """Here of kinds that the collection has not. least: what is found of their nearest; most: what one look finds."""
    write(tmp_path, clustered, kind, target=0.97)
    index, unusual = opened(tmp_path), made_clustered(1, 300, centres=1)
    assert recall(index, clustered, unusual) >= least
    index.stamp = replace(index.stamp, usual=None)
    assert recall(index, clustered, unusual) < most


def test_what_is_usual_is_searched_for_once(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, clustered, LISTS, target=0.9)
    index, asked = opened(tmp_path), []
    once = NeighbourIndex._candidates

    def counted(self: NeighbourIndex, queries: np.ndarray, *how: Any) -> Any:
        asked.append((len(queries), *how[1:3]))
        return once(self, queries, *how)

    monkeypatch.setattr(NeighbourIndex, "_candidates", counted)
    index.nominate(made_clustered(1, 100), 10, 2, 30)
    assert asked[0] == (100, 2, 30)
    assert asked[1:] == [(asked[1][0], 16, 60)]
    assert 1 <= asked[1][0] <= 12  # one in twenty, give or take
    del asked[:]
    index.nominate(made_clustered(1, 100), 1, 2, 30)
    assert len(asked) == 2  # how many are asked for says nothing of a query
    every = np.arange(len(clustered))
    for other, places in ((index, every), (index.attuned(10, 0.97), None)):
        del asked[:]
        other.nominate(made_clustered(1, 100, centres=1), 10, 2, 30, places)
        assert asked == [(100, 2, 30)]  # where little is alike, or only what is much alike counts
    write(tmp_path, clustered, "IVF600,Flat", target=0.9)
    told: list[tuple[int, int]] = []
    attuned = opened(tmp_path).attuned(10, 0.97, lambda *far: told.append(far))
    assert told == [(6000, 6000)]
    del asked[:]
    assert (attuned.nominate(clustered[:100], 10, 1, 30)[1][:, -1] < 0).any()
    assert asked == [(100, 1, 30)]  # nor where too little lies in the lists


def test_the_same_vectors_give_the_same_file(tmp_path: Path, clustered: np.ndarray) -> None:
    assert write(tmp_path, clustered, LISTS, target=0.95) == write(tmp_path, clustered, LISTS, target=0.95)


@pytest.mark.parametrize("kind", [LISTS, "PCAR16,IVF64,PQ16x4fsr"])
@pytest.mark.parametrize("right", [True, False])
def test_gpus_find_the_lists_of_rows(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str, right: bool
) -> None:
    """With what stands for a GPU: the file is the same, unless it names other lists than it should."""
    made: list[int] = []

    def on_gpus(index: faiss.Index) -> faiss.Index:
        made.append(index.ntotal)
        copy = faiss.IndexFlatIP(index.d)
        centres = index.reconstruct_n(0, index.ntotal)
        copy.add(centres if right else centres[::-1])
        return copy

    def grown(folder: Path) -> bytes:
        folder.mkdir()
        write(folder, clustered[:3000], kind, target=0.05)
        assert extended(folder, clustered[3000:3100], 7000)
        return next(folder.iterdir()).read_bytes()

    cpu = grown(tmp_path / "cpu")
    assert not made
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", on_gpus)
    assert (grown(tmp_path / "gpu") == cpu) == right
    assert made == [0, 64, 64]  # to train, to add, to add more


def test_where_a_gpu_has_no_room_the_cpu_does_it(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = write(tmp_path, clustered, LISTS, target=0.95)

    def full(index: faiss.Index) -> faiss.Index:
        raise RuntimeError("StandardGpuResources: alloc fail")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", full)
    assert write(tmp_path, clustered, LISTS, target=0.95) == alone


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [LISTS, "PCAR16,IVF64,PQ16x4fsr", "HNSW16,SQ8"])
def test_a_structure_made_on_a_gpu_reaches_its_recall(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    assert faiss.get_num_gpus(), "faiss sees no GPU: it is faiss-cpu, or lacks the driver"
    stamp = write(tmp_path, clustered, kind, target=0.97)
    assert stamp.recall >= 0.97
    assert recall(opened(tmp_path), clustered, made_clustered(1, 300)) >= 0.95


def test_what_is_much_alike_is_found_with_less(tmp_path: Path, clustered: np.ndarray) -> None:
    copies = clustered[:600] + np.random.default_rng(3).normal(0, 0.02, (600, DIM)).astype(np.float32)
    rows = np.concatenate([clustered, copies / np.linalg.norm(copies, axis=1, keepdims=True)])
    stamp = write(tmp_path, rows, "IVF64,SQ8", target=0.99)
    index = opened(tmp_path)
    attuned = index.attuned(16, 0.97)
    assert attuned.stamp.effort < index.stamp.effort == stamp.effort
    assert attuned.stamp.recall >= 0.99
    exact = rows[:600] @ rows.T >= 0.97
    exact[np.arange(600), np.arange(600)] = False
    scores, found = attuned.search(rows[:600], 17)
    named = np.zeros_like(exact)
    np.put_along_axis(named, found - 10, scores >= 0.97, axis=1)
    named[np.arange(600), np.arange(600)] = False
    assert exact.sum() >= 600
    assert (exact & named).sum() >= 0.98 * exact.sum()


def test_what_is_exact_has_nothing_to_tune(tmp_path: Path, clustered: np.ndarray) -> None:
    write(tmp_path, clustered, FLAT)
    index = opened(tmp_path)
    assert index.attuned(10, 0.9).stamp == index.stamp
    assert index.attuned(10, 0.9).search(clustered[:5], 1)[1].ravel().tolist() == [10, 11, 12, 13, 14]


def test_where_nothing_is_much_alike_all_neighbours_count(tmp_path: Path, clustered: np.ndarray) -> None:
    write(tmp_path, clustered, "IVF64,SQ8", target=0.99)
    index = opened(tmp_path)
    assert index.attuned(10, 1.1).stamp.effort >= index.stamp.effort // 2


def test_where_the_recall_is_out_of_reach_the_next_structure_is_taken(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "DEPTHS", (11,))
    stamp = write(tmp_path, clustered, "IVF64,PQ4x4fs", "IVF64,SQ8", FLAT, target=0.95)
    assert stamp.kind == "IVF64,SQ8"
    assert write(tmp_path, clustered, "IVF64,PQ4x4fs", FLAT, target=0.95).kind == FLAT
    last = write(tmp_path, clustered, "IVF64,PQ4x4fs", target=0.95)
    assert last.kind == "IVF64,PQ4x4fs"
    assert last.recall < 0.95


def test_what_may_have_passed_by_luck_gives_way_where_something_better_follows(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exam, "recall", lambda *_: tuning.Recall(0.995, 0.985))
    assert write(tmp_path, clustered[:3000], "IVF64,SQ8", FLAT, target=0.99).kind == FLAT
    assert write(tmp_path, clustered[:3000], "IVF64,SQ8", target=0.98).recall == 0.995
    stamp = write(tmp_path, clustered[:3000], "IVF64,SQ8", target=0.99)
    assert (stamp.kind, stamp.recall) == ("IVF64,SQ8", 0.995)
    assert extended(tmp_path, clustered[3000:], 5000) is None


def test_a_projection_that_keeps_too_little_is_passed_over(tmp_path: Path, rows: np.ndarray) -> None:
    assert write(tmp_path, rows, "PCAR8,IVF4,PQ8x4fsr", "IVF4,SQ8", FLAT, target=0.9).kind == "IVF4,SQ8"
    rows[:, 8:] *= 0.01
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert write(tmp_path, rows, "PCAR8,IVF4,PQ8x4fsr", FLAT, target=0.9).kind == "PCAR8,IVF4,PQ8x4fsr"


def test_a_projection_keeps_inner_products_of_vectors_that_are_all_alike(tmp_path: Path) -> None:
    """What they have in common counts: moved to their mean, other ones would be the nearest."""
    rng = np.random.default_rng(0)
    rows = np.zeros((3000, DIM), np.float32)
    rows[:, 0] = rng.uniform(1, 4, 3000)  # in one direction far more than in any other
    rows[:, 1:8] = rng.standard_normal((3000, 7))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    nominator_only = make("PCAR8,IVF1,PQ8x4fsr", DIM)
    assert nominator_only.project(rows) > 0.999
    projected = nominator_only._transformed(rows[:50])
    assert np.allclose(projected @ projected.T, rows[:50] @ rows[:50].T, atol=1e-4)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.001])
def test_a_filter_takes_nothing_from_the_recall(
    tmp_path: Path, clustered: np.ndarray, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, clustered, LISTS, target=0.98)
    index = opened(tmp_path)
    allowed = np.flatnonzero(np.random.default_rng(2).random(6000) < share)
    queries = made_clustered(1, 200)
    k = min(10, len(allowed))
    best = -np.sort(-(queries @ clustered[allowed].T), axis=1)[:, :k]
    for few in (10_000_000, 0):  # exactly, and through the lists
        monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", few)
        scores, ids = index.search(queries, 10, allowed + 10)
        assert ids.shape == (200, k)
        assert np.isin(ids, allowed + 10).all()
        assert (scores >= best[:, -1:] - 1e-3).mean() > 0.96


def test_more_than_the_lists_hold_are_found_exactly(tmp_path: Path, clustered: np.ndarray) -> None:
    write(tmp_path, clustered, LISTS, target=0.9)
    _, ids = opened(tmp_path).search(clustered[:3], 10_000)
    assert ids.shape == (3, 6000)
    assert [sorted(row) for row in ids.tolist()] == [list(range(10, 6010))] * 3


def extended(folder: Path, rows: np.ndarray, start: int) -> Stamp | None:
    old = opened(folder)
    ids = np.arange(start, start + len(rows), dtype=np.int64)
    stamp = Stamp("c", "m", FLAT, DIM, old.stamp.covered + len(rows), int(ids[-1]), 1.0, target=old.stamp.target)
    return extend_index(folder, old, [block(ids, rows)], stamp)


@pytest.mark.parametrize("kind", [FLAT, LISTS])
def test_new_vectors_are_added_without_training_again(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    before = write(tmp_path, clustered, kind, target=0.95)
    more = made_clustered(3, 1000)
    stamp = extended(tmp_path, more, 7000)
    assert stamp is not None
    assert (stamp.kind, stamp.covered, stamp.trained, stamp.fit) == (kind, 7000, before.trained, before.fit)
    index = opened(tmp_path)
    assert recall(index, np.vstack([clustered, more]), more[:200]) >= 0.94
    assert (index.search(more[:100], 1)[1][:, 0] == np.arange(7000, 7100)).mean() > 0.95
    assert len(list(tmp_path.iterdir())) == 1


def test_vectors_of_another_kind_ask_for_a_new_training(tmp_path: Path, clustered: np.ndarray) -> None:
    before = write(tmp_path, clustered, LISTS, target=0.95)
    assert extended(tmp_path, made_clustered(3, 1000, centres=9), 7000) is None
    assert opened(tmp_path).stamp == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["IVF64,Nonsense", "", "PQ7", "IVF64,PQ5x4fs"])
def test_a_structure_that_faiss_refuses(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    with pytest.raises(InvalidArgument, match="faiss"):
        write_index(
            tmp_path, [block(np.arange(500), clustered[:500])], Stamp("c", "m", "", DIM, 500, 499, 1.0), (kind,)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("hsnw", "could not parse index string hsnw"),
        ("PQ7", "The dimension of the vector (d) should be a multiple of the number of subquantizers (M)"),
    ],
)
def test_why_faiss_refuses_a_structure_is_said_without_where_in_faiss(kind: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        make(kind, DIM)
    assert f"faiss makes no index '{kind}' for vectors of {DIM} ({why}). Give flat, ivf, hnsw" in str(refusal.value)


@pytest.mark.parametrize("kind", ["IVF0,Flat", "HNSW0", "HNSW1"])
def test_a_structure_that_would_find_nothing_or_end_the_process(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="finds nothing"):
        make(kind, DIM)


@pytest.mark.parametrize("kind", ["PQ16", "PCAR32,PQ16", "PQ16x4fs", "NSG16", "RQ2x8", "IVF64,SQ8,RFlat", "IDMap,Flat"])
def test_a_structure_that_faiss_cannot_search_as_it_is_asked_to(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="begins with lists"):
        make(kind, DIM)


@pytest.mark.parametrize(
    "kind", ["Flat", "SQ8", "PCAR32,SQ8", "HNSW16,SQ8", "PCAR32,HNSW16,SQ8", "IVF64,PQ16x4", "RaBitQ"]
)
def test_a_structure_that_it_can_search(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    write(tmp_path, clustered, kind, target=0.3)
    index = opened(tmp_path)
    _, found = index.nominate(clustered[:5], 1, index.most_effort, 30, np.arange(0, len(clustered), 2))
    assert found[::2, 0].tolist() == [0, 2, 4]
    assert not (found % 2).any()


def test_more_lists_than_vectors_are_refused(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises((InvalidArgument, CatalogError)):
        write(tmp_path, rows, "IVF1024,Flat")


def test_damage_anywhere_in_a_structure_is_found(tmp_path: Path, clustered: np.ndarray) -> None:
    stamp = write(tmp_path, clustered, LISTS, target=0.9)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for start in np.linspace(0, stamp.bytes - 64, 40).astype(int):
        harmed = data[:start] + bytes(value ^ 0xFF for value in data[start : start + 64]) + data[start + 64 :]
        path.write_bytes(harmed)
        assert open_index(path, stamp) is None


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index files count as too large to be read at every opening."""
    monkeypatch.setattr("indexer.neighbours.stamp._CHECKED_BYTES", 0)


def harmed(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    """The same bytes but for a bit, a few random bytes, a number of ones, or a stretch of zeros between two places."""
    place = int(rng.integers(start, end))
    most = end - place
    choices = (
        bytes([data[place] ^ 1 << int(rng.integers(8))]),
        rng.bytes(min(16, most)),
        b"\xff" * min(8, most),
        bytes(min(4096, most)),
    )
    chosen = choices[int(rng.integers(4))]
    return data[:place] + chosen + data[place + len(chosen) :]


def use(path: Path, queries: np.ndarray, rows: np.ndarray) -> None:
    """Search an index in every way, or find that it is damaged: what it names may be wrong, but no score is."""
    found = find_index(path.parent, "c", "m")
    index = open_index(*found) if found else None
    if index is None:
        return
    for many in (queries[:1], queries[:20], queries):  # few read the lists that they touch, many read all
        for allowed in (None, np.arange(10, 2000, 2), np.arange(10, 30)):
            _, places = index.find(many, 10, allowed)
            ids = index.ids_at(places)
            assert len(ids) == len(many)
            assert allowed is not None or ids.shape[1] == 10
            contents, scores, sound = index.scored(places, many)
            assert np.array_equal(contents[sound], ids[sound])
            true = np.einsum("nd,nd->n", many[np.nonzero(sound)[0]], rows[contents[sound] - 10])
            assert np.allclose(scores[sound], true, atol=1e-3)


KINDS = (FLAT, LISTS, "IVF64,SQ8", "HNSW16,SQ8", "IVF64,RaBitQ", "PCAR16,IVF64,PQ16x4fsr")


@pytest.mark.slow
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_damages_end_no_process(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    """Each in a process of its own, since it is faiss that could bring it down."""
    damaged_everywhere(tmp_path, clustered, kind, 1000)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", [FLAT, LISTS])
def test_damages_end_no_process(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    damaged_everywhere(tmp_path, clustered, kind, 40)


def damaged_everywhere(folder: Path, rows: np.ndarray, kind: str, count: int) -> None:
    stamp = write(folder, rows, kind, target=0.9)
    (path,) = folder.iterdir()
    data, queries, rng = path.read_bytes(), made_clustered(1, 70), np.random.default_rng(count)
    header = stamp.rows
    ends = [0, header, stamp.ids, *sorted({stamp.lists, stamp.structure} - {0}), stamp.bytes, len(data)]
    parts = [(start, end) for start, end in pairwise(ends) if start < end]
    for number in range(count):
        damaged = harmed(data, *parts[number % len(parts)], rng)
        path.write_bytes(damaged)
        if fork(lambda: use(path, queries, rows)):
            (folder / "harmful").write_bytes(damaged)
            pytest.fail(f"{folder / 'harmful'}, part {parts[number % len(parts)]}")


def fork(work: Callable[[], None]) -> int:
    """How a process ends that does some work: 0, or a signal or a code. It may take no more than 4 GB."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for what hangs
            signal.alarm(60)
            faiss.omp_set_num_threads(1)  # the threads of the parent are not here, and would be waited for
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", [LISTS, "HNSW16,SQ8", FLAT])
def test_what_a_search_follows_blindly_is_always_checked(tmp_path: Path, clustered: np.ndarray, kind: str) -> None:
    """The header, the sizes of the lists, the structure."""
    stamp = write(tmp_path, clustered, kind, target=0.9)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    places = [0, 8, stamp.rows - 1]
    if kind != FLAT:
        places += [stamp.structure, *np.linspace(stamp.structure, stamp.bytes - 1, 20).astype(int).tolist()]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert not is_usable(path, stamp), place
        assert open_index(path, stamp) is None, place
    path.write_bytes(data)
    assert is_usable(path, stamp)
    assert open_index(path, stamp) is not None


@pytest.mark.usefixtures("large")
def test_the_rest_of_a_large_file_is_checked_where_that_is_asked_for(tmp_path: Path, clustered: np.ndarray) -> None:
    stamp = write(tmp_path, clustered, LISTS, target=0.9)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for place in (stamp.ids - 1, stamp.ids, stamp.lists, stamp.structure - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert open_index(path, stamp) is not None
        assert open_index(path, stamp, checked=True) is None


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("place", [-1, 6000, 1 << 40])
def test_a_list_that_names_what_is_no_row_is_left_out(tmp_path: Path, clustered: np.ndarray, place: int) -> None:
    stamp = write(tmp_path, clustered, LISTS, target=0.9)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[: stamp.lists + 8] + place.to_bytes(8, "little", signed=True) + data[stamp.lists + 16 :])
    _, ids = opened(tmp_path).search(clustered, 10)
    assert ids.min() >= 10
    assert ids.max() < 6010
    assert (ids[:, 0] == np.arange(10, 6010)).mean() > 0.8


def test_a_file_that_another_one_replaces_meanwhile_is_not_used(
    tmp_path: Path, clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = write(tmp_path, clustered)
    (path,) = tmp_path.iterdir()

    def usable(*_: object, **__: object) -> bool:
        write(tmp_path, clustered, LISTS, target=0.9)
        return True

    monkeypatch.setattr("indexer.neighbours.index.is_usable", usable)
    assert open_index(path, stamp) is None


def stamped(path: Path, stamp: Stamp, values: dict[str, object]) -> None:
    """Have an index file end with a stamp of other values."""
    text = json.dumps(values).encode() + b"\n"
    ends = zlib.crc32(text).to_bytes(4, "little"), len(text).to_bytes(4, "little"), MAGIC
    path.write_bytes(path.read_bytes()[: stamp.bytes] + text + b"".join(ends))


def test_an_index_that_says_nothing_of_what_is_usual_serves_on(tmp_path: Path, clustered: np.ndarray) -> None:
    stamp = write(tmp_path, clustered, LISTS, target=0.9)
    before = {name: value for name, value in asdict(stamp).items() if name != "usual"}
    stamped(path_of(tmp_path, "c"), stamp, before)
    assert opened(tmp_path).stamp == replace(stamp, usual=None)
    assert recall(opened(tmp_path), clustered, made_clustered(1, 300)) >= 0.88


def test_an_index_of_another_indexer_is_known_and_not_used(tmp_path: Path, rows: np.ndarray) -> None:
    stamp = write(tmp_path, rows)
    (path,) = tmp_path.iterdir()
    stamped(path, stamp, {**asdict(stamp), "new": 1})
    assert find_index(tmp_path, "c", "m") is None
    write(tmp_path, rows)
    assert find_index(tmp_path, "c", "m")
