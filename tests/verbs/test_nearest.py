"""The index and the store together: in step, never a gap, never what is gone, whatever the structure."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import Catalog, CatalogDamaged, CatalogError, InvalidArgument, Progress
from indexer.files import remove_left_over
from indexer.neighbours import tuning
from indexer.neighbours.choosing import Wish
from indexer.neighbours.index import NeighbourIndex
from indexer.neighbours.stamp import Stamp as IndexStamp
from indexer.neighbours.stamp import find_index, is_sound, read_stamp
from indexer.records import PictureInfo, Source, Stamp
from indexer.store.lock import building, vouch
from indexer.store.rows import Entry
from indexer.store.store import Store
from indexer.store.survey import Survey
from indexer.store.vector_rows import VectorRows
from indexer.verbs import nearest
from indexer.verbs.nearest import IndexFiles

from ..fakes import FakeEmbedder

DIM = 48
LISTS = "IVF32,PQ12x4fs"
INFO = PictureInfo(40, 30, "PNG")


def made(seed: int, count: int, centres: int = 0) -> np.ndarray:
    """Unit rows around thirty centres, as the store keeps them."""
    middle = np.random.default_rng(centres).standard_normal((30, DIM))
    rng = np.random.default_rng(100 + seed)
    rows = (middle[rng.integers(0, 30, count)] + rng.standard_normal((count, DIM)) * 0.5).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def add(store: Store, rows: np.ndarray, first: int) -> None:
    """A vector an image, without any picture: /p/NUMBER.png."""
    root = store.roots().get(b"/p") or store.add_root(b"/p")
    entries = [
        Entry(
            Source(root, b"/p", b"%07d.png" % number, Stamp(1, 2, 3)),
            hashlib.sha256(b"%d" % number).digest(),
            number,
            INFO,
            None,
            row,
        )
        for number, row in enumerate(rows, first)
    ]
    store.commit(entries, [], store.model())


def forget(store: Store, numbers: list[int]) -> None:
    survey = Survey(store)
    for number in numbers:
        place = store.images.place_of(b"/p/%07d.png" % number)
        assert place
        survey.add_gone(1, b"%07d.png" % number, place[0])
    survey.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "catalog"


@pytest.fixture
def rows() -> np.ndarray:
    return made(0, 3000)


@pytest.fixture
def store(folder: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Three thousand vectors, and an index of inverted lists."""
    monkeypatch.setattr(nearest, "MAX_TAIL", 0)
    folder.mkdir()
    store = Store.create(folder)
    fake = FakeEmbedder()
    store.use_model(fake.id, fake.source, fake.classes)
    add(store, rows, 0)
    refresh(store, Wish(LISTS, recall=0.97))
    yield store
    store.close()


def refresh(store: Store, wish: Wish | None = None, optimize: bool = False) -> list[str]:
    return nearest.refresh(store, store.path.parent, lambda _: None, wish, optimize=optimize)


def stamp_of(store: Store) -> IndexStamp:
    model = store.model()
    assert model
    found = find_index(store.path.parent, store.neighbours, model.id.key)
    assert found
    return found[1]


def search(store: Store, queries: np.ndarray, k: int, contents: set[int] | None = None) -> nearest.Neighbours:
    model = store.model()
    assert model
    with store.snapshot():
        allowed = None if contents is None else np.array(sorted(contents), np.int64)
        return nearest.Nearest(store, nearest.IndexFiles(store.path.parent), model).search(queries, k, allowed)


def assert_near_exact(
    found: nearest.Neighbours, rows: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int, share: float = 0.95
) -> None:
    scores = queries @ rows.T
    best = -np.sort(-scores, axis=1)[:, :k]
    assert found.ids.shape == found.scores.shape == (len(queries), min(k, len(rows)))
    assert np.isin(found.ids, ids).all()
    assert all(len(set(row)) == len(row) for row in found.ids.tolist())
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert (found.scores >= best[:, -1:] - 1e-3).mean() > share
    places = {number: place for place, number in enumerate(ids.tolist())}
    told = np.vectorize(places.__getitem__)(found.ids)
    assert np.allclose(found.scores, np.take_along_axis(scores, told, 1), atol=1e-3)


@pytest.mark.parametrize("at_once", [256, 7])
@pytest.mark.parametrize("numbers", [1, 12 * DIM * 7, 10**9])
def test_many_queries_at_once(
    store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, numbers: int, at_once: int
) -> None:
    """However many the index is asked at once, and however many candidates are scored at once, in threads or not."""
    monkeypatch.setattr(nearest, "QUERIES", at_once)
    monkeypatch.setattr("indexer.neighbours.index.cores", lambda: 3)
    monkeypatch.setattr("indexer.neighbours.index.COMPARED_AT_ONCE", numbers)
    assert stamp_of(store).kind == LISTS
    queries = made(1, 600)
    found = search(store, queries, 10)
    assert_near_exact(found, rows, np.arange(1, 3001), queries, 10)
    one = search(store, queries[7:8], 10)
    assert (one.ids[0].tolist(), one.scores[0].tolist()) == (found.ids[7].tolist(), found.scores[7].tolist())


@pytest.mark.parametrize("k", [5000, 10**12])
def test_all_of_them(store: Store, rows: np.ndarray, k: int) -> None:
    found = search(store, rows[:3], k)
    assert_near_exact(found, rows, np.arange(1, 3001), rows[:3], k, 0.999)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.05, 0.001])
def test_k_stays_k_at_any_selectivity(
    store: Store, rows: np.ndarray, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = np.flatnonzero(np.random.default_rng(3).random(3000) < share)
    queries = made(1, 50)
    for few in (2000, 0):
        monkeypatch.setattr(nearest, "FEW", few)
        found = search(store, queries, 10, set((allowed + 1).tolist()))
        assert_near_exact(found, rows[allowed], allowed + 1, queries, 10)


def test_the_tail_is_searched_exactly(store: Store, rows: np.ndarray) -> None:
    more = made(2, 500)
    add(store, more, 3000)
    assert stamp_of(store).covered == 3000
    found = search(store, more, 1)
    assert found.ids[:, 0].tolist() == list(range(3001, 3501))
    assert_near_exact(search(store, more[:50], 10), np.vstack([rows, more]), np.arange(1, 3501), more[:50], 10)


def test_what_the_index_does_not_cover_is_read_once_for_all_queries(
    store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 7)
    more = made(2, 100)
    add(store, more, 3000)
    reads: list[str] = []
    count_calls(monkeypatch, "blocks", reads)
    count_calls(monkeypatch, "of", reads)
    queries = made(1, 100)
    assert_near_exact(search(store, queries, 10), np.vstack([rows, more]), np.arange(1, 3101), queries, 10)
    assert reads == ["blocks"]
    found = search(store, queries, 10, set(range(2000, 3101)))
    assert_near_exact(found, np.vstack([rows[1999:], more]), np.arange(2000, 3101), queries, 10, 0.999)
    assert reads == ["blocks", "of"]


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[str]) -> None:
    """Note each call of a method that reads vectors."""
    real = getattr(VectorRows, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(VectorRows, name, noting)


def test_many_neighbours_of_what_is_not_covered_take_little_memory(store: Store) -> None:
    add(store, made(2, 500), 3000)
    queries = made(1, 1000)
    search(store, queries[:1], 400)
    tracemalloc.start()
    try:
        search(store, queries, 400, set(range(3001, 3501)))
        assert tracemalloc.get_traced_memory()[1] < 30_000_000  # all that was compared would be 38 MB
    finally:
        tracemalloc.stop()


def test_vectors_of_another_model_are_not_gone_through(store: Store, rows: np.ndarray) -> None:
    """Whoever goes back to a model has later vectors of the other one behind those of the index."""
    first, other = store.model(), FakeEmbedder("1" * 64)
    assert first
    store.use_model(other.id, other.source, other.classes)
    add(store, made(2, 300), 0)
    refresh(store)
    store.use_model(first.id, first.source, [])
    refresh(store)
    assert stamp_of(store).last == 3300
    add(store, made(3, 10), 5000)
    assert store.vectors.count_after(first, stamp_of(store).last) == 10
    assert_near_exact(
        search(store, rows[:50], 10),
        np.vstack([rows, made(3, 10)]),
        np.array([*range(1, 3001), *range(3001, 3011)]),
        rows[:50],
        10,
    )


def test_a_damaged_vector_that_only_the_store_has_ends_a_search(store: Store) -> None:
    more = made(2, 20)
    add(store, more, 3000)
    store.sqlite.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 3005")
    with pytest.raises(CatalogDamaged, match="verify --repair"):
        search(store, more, 10)


def test_what_the_index_has_a_sound_copy_of_is_found_whatever_befalls_the_stored_vector(
    store: Store, rows: np.ndarray
) -> None:
    before = search(store, rows[499:999], 10)
    store.sqlite.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 500")
    after = search(store, rows[499:999], 10)
    assert np.array_equal(after.ids, before.ids)
    assert np.array_equal(after.scores, before.scores)
    assert after.ids[0, 0] == 500


def test_a_search_that_fails_ends_its_thread(store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 7)
    store.sqlite.execute("DROP TABLE vectors")
    with pytest.raises(CatalogError, match="vectors"):
        search(store, rows[499:999], 10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("index")]


def test_scores_are_those_of_the_stored_vectors_to_the_bit(store: Store, rows: np.ndarray) -> None:
    """Whether what was found is in the index or not, and a filter or none has been given."""
    queries = made(1, 40)
    found = search(store, queries, 10)
    index_path(store).unlink()
    exact = search(store, queries, 3000)
    for row in range(40):
        scores = dict(zip(exact.ids[row].tolist(), exact.scores[row].tolist(), strict=True))
        assert [scores[number] for number in found.ids[row].tolist()] == found.scores[row].tolist()


def test_the_index_of_another_past_of_a_catalog_is_not_used(store: Store, folder: Path, tmp_path: Path) -> None:
    """A copy of catalog.sqlite that was put back, and has grown on, gives the same ids to other pictures."""
    with closing(sqlite3.connect(tmp_path / "backup.sqlite")) as backup:
        store.sqlite.backup(backup)
    add(store, made(2, 300), 3000)
    refresh(store)
    assert stamp_of(store).covered == 3300
    later = index_path(store)
    store.close()
    for extra in ("-wal", "-shm"):
        (folder / f"catalog.sqlite{extra}").unlink(missing_ok=True)
    (tmp_path / "backup.sqlite").replace(folder / "catalog.sqlite")
    with closing(Store.open(folder)) as restored:
        others = made(3, 400)
        for start in range(0, 400, 4):  # so that it is at least as many generations old
            add(restored, others[start : start + 4], 5000 + start)
        assert later.exists()
        found = search(restored, others, 1)
        assert found.ids[:, 0].tolist() == list(range(3001, 3401))
        assert (found.scores > 0.9999).all()
        refresh(restored)
        assert not later.exists()
        assert stamp_of(restored).covered == 3400


@pytest.mark.parametrize("at_once", [256, 7])
@pytest.mark.parametrize("count", [1, 100, 2990])
def test_what_is_gone_never_comes_and_k_stays_k(
    store: Store, rows: np.ndarray, count: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "QUERIES", at_once)
    gone = np.random.default_rng(4).choice(3000, count, replace=False)
    forget(store, gone.tolist())
    kept = np.setdiff1d(np.arange(3000), gone)
    assert stamp_of(store).covered == 3000
    queries = rows[gone[:20]]
    assert_near_exact(search(store, queries, 10), rows[kept], kept + 1, queries, 10)
    assert_near_exact(search(store, queries, 4000), rows[kept], kept + 1, queries, 4000, 0.999)


def test_only_who_lacks_neighbours_asks_again(store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many queries one whose nearest are gone costs no more than itself, whatever it takes."""
    gone = np.argsort(-(rows @ rows[7]))[:300]
    forget(store, gone.tolist())
    kept = np.setdiff1d(np.arange(3000), gone)
    far = np.argsort(rows @ rows[7])[:99]
    queries = np.vstack([rows[7:8], rows[far]])
    monkeypatch.setattr(nearest, "NAMED", 2000)
    asked: list[tuple[int, ...]] = []
    real = NeighbourIndex.scored

    def noting(self: NeighbourIndex, places: np.ndarray, queries: np.ndarray) -> Any:
        asked.append(places.shape)
        return real(self, places, queries)

    monkeypatch.setattr(NeighbourIndex, "scored", noting)
    assert_near_exact(search(store, queries, 10), rows[kept], kept + 1, queries, 10)
    assert asked == [(100, 12), (1, 42), (1, 162), (1, 642)]


def test_what_is_left_is_counted_once_a_generation_where_looking_it_up_would_take_longer(
    store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 7)
    asked: list[str] = []
    count_calls(monkeypatch, "living", asked)
    count_calls(monkeypatch, "span", asked)
    model = store.model()
    assert model
    files = IndexFiles(store.path.parent)

    def found(queries: np.ndarray) -> nearest.Neighbours:
        with store.snapshot():
            return nearest.Nearest(store, files, model).search(queries, 10)

    queries = rows[:100]
    few = found(queries[:21])
    assert asked == ["living"] * 3
    every = found(queries)
    assert asked == ["living"] * 4 + ["span"]  # of 375 candidates or more
    assert np.array_equal(few.ids, every.ids[:21])
    assert np.array_equal(found(queries).ids, every.ids)
    assert len(asked) == 5
    gone = np.arange(0, 100, 2)
    forget(store, gone.tolist())
    kept = np.setdiff1d(np.arange(3000), gone)
    for _ in range(2):
        assert_near_exact(found(queries), rows[kept], kept + 1, queries, 10)
    assert asked[5:].count("span") == 1
    assert asked[5:].count("living") >= 30  # a part is asked again where too many of what it named are gone


def test_a_tail_is_merged_without_training(store: Store, rows: np.ndarray) -> None:
    before = stamp_of(store)
    more = made(2, 500)
    add(store, more, 3000)
    forget(store, [5])
    assert refresh(store) == []
    after = stamp_of(store)
    assert (after.kind, after.covered, after.trained, after.fit) == (LISTS, 3500, 3000, before.fit)
    assert after.name == store.neighbours != before.name
    kept = np.setdiff1d(np.arange(3500), [5])
    assert_near_exact(search(store, more[:100], 10), np.vstack([rows, more])[kept], kept + 1, more[:100], 10)


def test_it_is_made_anew_when_too_much_is_gone_or_has_come(store: Store) -> None:
    forget(store, list(range(500)))
    refresh(store)
    assert (stamp_of(store).covered, stamp_of(store).kind) == (2500, "flat")  # so few need no structure
    refresh(store, Wish(LISTS, recall=0.97))
    add(store, made(2, 3000), 3000)
    refresh(store)
    assert stamp_of(store).covered == stamp_of(store).trained == 5500


def test_it_is_made_anew_when_what_comes_is_of_another_kind(store: Store) -> None:
    add(store, made(2, 1000, centres=5), 3000)
    refresh(store)
    assert stamp_of(store).trained == 4000


def test_a_small_tail_waits_for_optimize(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MAX_TAIL", 1000)
    before = stamp_of(store)
    refresh(store, optimize=True)
    assert stamp_of(store) == before  # nothing to do
    add(store, made(2, 10), 3000)
    refresh(store)
    assert stamp_of(store) == before
    refresh(store, optimize=True)
    grown = stamp_of(store)
    assert (grown.kind, grown.covered, grown.trained) == (LISTS, 3010, 3000)
    forget(store, [5])
    refresh(store)
    assert stamp_of(store) == grown
    refresh(store, optimize=True)
    assert stamp_of(store).covered == 3009  # what is gone is taken out


def test_another_wish_is_followed_and_the_same_one_is_not_done_twice(store: Store, folder: Path) -> None:
    before = stamp_of(store)
    refresh(store, Wish(LISTS, recall=0.97))
    assert stamp_of(store) == before
    refresh(store, Wish("flat"))
    assert stamp_of(store).kind == "flat"
    model = store.model()
    assert model
    assert nearest.info(store, folder).kind == "flat fp16"
    refresh(store, Wish("ivf"))
    lists = stamp_of(store)
    assert lists.kind.startswith("IVF")
    refresh(store, Wish("ivf"))
    assert stamp_of(store) == lists


def test_a_recall_out_of_reach_is_said(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "DEPTHS", (1,))  # so few vectors would all be re-ranked
    (warning,) = refresh(store, Wish("IVF32,PQ2x4fs", recall=1.0))
    assert "reaches a recall@10 of" in warning
    assert nearest.info(store, folder).recall < 1


@pytest.mark.parametrize("kind", ["hsnw", "", "IVF0,SQ8", "HNSW16,PQ16", "PQ16"])
def test_a_structure_that_cannot_be_is_refused_before_anything_is_embedded(
    catalog: Catalog, fake: FakeEmbedder, pictures: Path, kind: str
) -> None:
    with pytest.raises(InvalidArgument, match="index '"):
        catalog.build([pictures], neighbours=kind)
    assert (fake.batches, len(catalog)) == ([], 0)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_too_few_for_one_kind_of_inverted_lists_get_another(tmp_path: Path, count: int) -> None:
    """All has been embedded by then: it is no reason to fail."""
    folder = tmp_path / "few"
    folder.mkdir()
    with closing(Store.create(folder)) as store:
        fake = FakeEmbedder()
        store.use_model(fake.id, fake.source, fake.classes)
        add(store, made(0, count), 0)
        assert refresh(store, Wish("ivf")) == []
        assert nearest.info(store, folder).recall == 1


def test_an_index_of_a_later_generation_is_not_used(store: Store, folder: Path, rows: np.ndarray) -> None:
    with closing(Store.open(folder, readonly=True)) as reader:
        model = reader.model()
        assert model
        with reader.snapshot():
            assert reader.generation
            forget(store, [7])
            refresh(store, optimize=True)
            found = nearest.Nearest(reader, nearest.IndexFiles(folder), model).search(rows[7:8], 1)
            assert found.ids.tolist() == [[8]]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index files count as too large to be read at every opening."""
    monkeypatch.setattr("indexer.neighbours.stamp._CHECKED_BYTES", 0)


def index_path(store: Store) -> Path:
    (path,) = store.path.parent.glob("neighbours-*")
    return path


def damage(store: Store, start: int, data: bytes) -> None:
    """Other bytes in the index file, from some place on."""
    with index_path(store).open("r+b") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", ["flat", LISTS])
@pytest.mark.parametrize("few", [10_000_000, 0])
def test_whatever_a_damaged_index_names_the_answer_is_true(
    store: Store, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str, few: int
) -> None:
    """It may lack a neighbour: no score is wrong, nothing comes twice, nothing that a filter has ruled out."""
    monkeypatch.setattr(nearest, "FEW", 0)
    monkeypatch.setattr("indexer.neighbours.index.COMPARED_AT_ONCE", 12 * DIM * 7)
    monkeypatch.setattr("indexer.neighbours.index._FEW_NUMBERS", few)
    refresh(store, Wish(kind, recall=0.97))
    add(store, made(2, 200), 3000)
    store.seal()
    every = np.vstack([rows, made(2, 200)])
    stamp, path = stamp_of(store), index_path(store)
    data, rng = path.read_bytes(), np.random.default_rng(5)
    header = stamp.rows
    harms = [
        (stamp.ids, np.full(3000, 7).tobytes()),
        (stamp.ids, rng.integers(0, 3300, 3000).tobytes()),
        (stamp.ids, np.arange(201, 3201).tobytes()),  # those of the tail
        (stamp.ids, rng.bytes(8 * 3000)),
        (stamp.ids + 8 * 500, bytes(8 * 500)),
        (stamp.ids + 8 * 3000, np.full(3000, 7).tobytes()),  # contents
        (stamp.ids + 8 * 3000, rng.integers(0, 3300, 3000).tobytes()),
        (stamp.ids + 8 * 3000, np.arange(2, 3002).tobytes()),
        (stamp.ids, (np.arange(1, 3001) + (1 << 40)).tobytes()),
        (stamp.ids + 8 * 3000, (np.arange(1, 3001) + (1 << 40)).tobytes()),
        (stamp.ids, np.roll(np.arange(1, 6001).reshape(2, 3000) % 3000 + 1, 5, axis=1).tobytes()),  # both alike
        (stamp.ids + 16 * 3000, rng.bytes(4 * 1500)),  # checksums
        (header, np.full((3000, DIM), np.nan, np.float16).tobytes()),
        (header, rng.bytes(2 * DIM * 1500)),
    ]
    if kind != "flat":
        harms += [(stamp.lists, bytes(8 * 3000)), (stamp.lists, rng.integers(0, 3000, 3000).tobytes())]
    queries, allowed = made(1, 40), {*range(1, 3201, 3)}  # so many that what is left is counted
    for start, harm in harms:
        path.write_bytes(data[:start] + harm + data[start + len(harm) :])
        for contents in (None, allowed, {3, 2999, 3100}):
            found = search(store, queries, 10, contents)
            assert all(len(set(row)) == len(row) for row in found.ids.tolist())
            assert contents is None or set(found.ids.ravel().tolist()) <= contents
            true = np.take_along_axis(queries @ every.T, found.ids - 1, 1)
            assert np.allclose(found.scores, true, atol=1e-3)
            assert found.ids.shape[1] > 0


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("where", ["header", "sizes", "structure", "stamp", "cut"])
def test_an_index_that_is_off_is_not_used_and_made_anew(store: Store, rows: np.ndarray, where: str) -> None:
    store.seal()
    stamp, path = stamp_of(store), index_path(store)
    size = path.stat().st_size
    if where == "cut":
        os.truncate(path, size - 100)
    else:
        places = {"header": 0, "sizes": stamp.bytes - 8, "structure": stamp.structure + 100, "stamp": size - 40}
        damage(store, places[where], b"\xf5\xf5")
    queries = made(1, 20)
    assert_near_exact(search(store, queries, 10), rows, np.arange(1, 3001), queries, 10, 0.999)
    assert refresh(store) == []
    assert is_sound(index_path(store), stamp_of(store))


@pytest.mark.usefixtures("large")
def test_after_a_build_that_was_cut_off_all_of_an_index_is_checked(store: Store, rows: np.ndarray) -> None:
    damage(store, stamp_of(store).ids, np.full(3000, 7).tobytes())
    assert not store.is_sealed
    queries = made(1, 20)
    assert_near_exact(search(store, queries, 10), rows, np.arange(1, 3001), queries, 10, 0.999)
    before = stamp_of(store)
    refresh(store)
    assert stamp_of(store) == before
    nearest.check_left_over(store, store.path.parent)
    refresh(store)
    assert is_sound(index_path(store), stamp_of(store))


@pytest.mark.usefixtures("large")
def test_readers_beside_a_build_need_not_check_what_it_has_checked(store: Store, folder: Path) -> None:
    def is_used() -> bool:
        model = store.model()
        assert model
        return IndexFiles(folder).fitting(store, model) is not None

    damage(store, stamp_of(store).ids, np.full(3000, 7).tobytes())
    with building(folder, wait=False):
        assert not is_used()
        vouch(folder)
        assert is_used()
        holder = json.loads((folder / "build.lock").read_text())
    assert not is_used()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for another in ({"pid": ended.pid}, {"host": "elsewhere"}, {"checked": False}):
        (folder / "build.lock").write_text(json.dumps({**holder, **another}))
        assert not is_used()
    (folder / "build.lock").write_text(json.dumps(holder))
    assert is_used()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("cut_off", [True, False])
def test_a_build_knows_whether_the_last_one_was_cut_off(
    catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog], cut_off: bool
) -> None:
    catalog.build([pictures], neighbours="flat")
    catalog.close()
    (path,) = catalog.folder.glob("neighbours-*")
    stamp = read_stamp(path)
    assert stamp
    data = path.read_bytes()
    path.write_bytes(data[: stamp.ids] + bytes(8) + data[stamp.ids + 8 :])
    if cut_off:
        (catalog.folder / "catalog.seal").unlink()
    with reopen() as opened:
        opened.build()
    (path,) = catalog.folder.glob("neighbours-*")
    after = read_stamp(path)
    assert after
    assert is_sound(path, after) is cut_off


def test_arrays_and_the_graph_of_a_catalog(store: Store, folder: Path, rows: np.ndarray) -> None:
    add(store, made(2, 100), 3000)
    remove_left_over(folder)
    with Catalog.open(folder, loader=lambda _: FakeEmbedder(), readonly=True) as catalog:
        found = catalog.nearest(rows[:200] * 3, k=5)
        assert found.ids[:, 0].tolist() == list(range(1, 201))
        assert catalog.paths(found.ids[0, :1]) == {1: ["/p/0000000.png"]}
        few = catalog.nearest(rows[:2], k=5, where="bytes < 3")
        assert few.ids.shape == (2, 3)
        assert catalog.nearest(rows[:2], where="bytes < 0").ids.shape == (2, 0)
        assert catalog.nearest(rows[:0]).ids.shape[0] == 0
        lists = catalog.nearest(rows[:2].tolist(), k=np.int8(100))  # type: ignore[arg-type]
        assert np.array_equal(lists.ids, catalog.nearest(rows[:2], k=100).ids)
        told: list[Progress] = []
        graph = catalog.knn_graph(k=4, progress=told.append)
        assert told[-1] == Progress("query", len(graph.ids), len(graph.ids))
        objects, ragged = rows[:2].astype(object), [[1.0] * DIM, [1.0]]
        for bad in (rows[0], rows[:3, :20], rows[:2] * 0, rows[:2] * np.nan, rows[:2] * 1j, objects, ragged):
            with pytest.raises(InvalidArgument):
                catalog.nearest(bad)
        with pytest.raises(InvalidArgument, match="asks for nothing"):
            catalog.knn_graph(k=0)
    assert graph.ids.tolist() == list(range(1, 3101))
    assert graph.neighbours.shape == graph.scores.shape == (3100, 4)
    assert not (graph.neighbours == graph.ids[:, None]).any()
    every = np.vstack([rows, made(2, 100)])
    scores = every @ every.T
    np.fill_diagonal(scores, -2)
    assert (graph.scores >= -np.sort(-scores, axis=1)[:, 3:4] - 1e-3).mean() > 0.95


def test_what_is_the_same_reaches_a_score_of_1(store: Store, folder: Path) -> None:
    model = store.model()
    assert model
    with Catalog.open(folder, readonly=True) as catalog:
        for content in range(1, 50):
            (match,) = catalog.query(store.vectors.of_content(content, model), k=1, min_score=1.0)
            assert match.path == f"/p/{content - 1:07}.png"


def test_an_index_stays_open_until_another_takes_its_place(store: Store) -> None:
    model = store.model()
    assert model
    files = nearest.IndexFiles(store.path.parent)
    first = files.fitting(store, model)
    assert first is not None
    assert files.fitting(store, model) is first
    add(store, made(1, 1000), 3000)
    refresh(store)
    second = files.fitting(store, model)
    assert second is not None
    assert second is not first
    assert second.stamp.covered == 4000


def test_an_index_that_could_not_be_opened_once_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = store.model()
    assert model
    files = nearest.IndexFiles(store.path.parent)
    with monkeypatch.context() as once:
        once.setattr(nearest, "open_index", lambda *_, **__: None)  # too many open files, for one
        assert files.fitting(store, model) is None
    assert files.fitting(store, model) is not None


def test_info_is_of_one_state(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a build ends between the numbers and the look at the index that goes with them."""
    built = threading.Event()

    def late(*given: Any) -> Any:
        if not built.is_set():
            built.set()
            with closing(Store.open(folder)) as another:
                add(another, made(1, 1000), 3000)
                refresh(another)
        return find_index(*given)

    monkeypatch.setattr(nearest, "find_index", late)
    with Catalog.open(folder, readonly=True) as catalog:
        told = catalog.info()
    assert (told.images, told.vectors, told.neighbours.covered) == (4000, 4000, 4000)
