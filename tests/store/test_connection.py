"""How the store is opened, and what one transaction promises."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from indexer import Catalog, CatalogError, CatalogLocked
from indexer.records import Source, Stamp
from indexer.store import checksums
from indexer.store.rows import Refusal
from indexer.store.store import Store

from ..conftest import save_picture


def test_a_commit_lasts_when_it_returns(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store:
        assert store.one("PRAGMA synchronous") == 2  # FULL


def test_no_row_may_refer_to_nothing(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store, pytest.raises(CatalogError, match="FOREIGN KEY"), store.writing():
        store.sqlite.execute("INSERT INTO calibrations VALUES (7, '{}', 0)")


def test_who_reads_cannot_write(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    with closing(Store.open(tmp_path, readonly=True)) as store:
        with pytest.raises(CatalogError, match="readonly"):
            store.add_root(b"/x")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.sqlite.execute("DELETE FROM meta")


def test_a_second_writer_is_refused_as_it_begins(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as first, closing(Store.create(tmp_path)) as second:
        second.sqlite.execute("PRAGMA busy_timeout = 100")
        begun = False
        with first.writing(), pytest.raises(CatalogLocked), second.writing():
            begun = True
        assert not begun
        second.add_root(b"/later")


def test_what_fails_half_way_has_not_happened(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store:
        generation = store.generation
        with pytest.raises(ZeroDivisionError), store.writing():
            store.sqlite.execute("INSERT INTO roots (path) VALUES (?)", [b"/x"])
            raise ZeroDivisionError
        assert not store.sqlite.in_transaction
        assert (store.roots(), store.generation) == ({}, generation)
        store.add_root(b"/y")
        assert (list(store.roots()), store.generation) == ([b"/y"], generation + 1)


@pytest.mark.parametrize("name", ["100%41", "what?x=1", "a#b", "per%cent", "a&mode=memory"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with closing(Store.create(folder)) as store:
        store.add_root(b"/x")
    with closing(Store.open(folder, readonly=True)) as store:
        assert list(store.roots()) == [b"/x"]


def test_after_a_build_others_are_waited_for_as_before(catalog: Catalog, pictures: Path) -> None:
    before = catalog._store.one("PRAGMA busy_timeout")
    catalog.build([pictures])
    assert catalog._store.is_sealed
    assert catalog._store.one("PRAGMA busy_timeout") == before == 60_000


def test_a_build_that_somebody_reads_leaves_no_seal(
    catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.store.store.SEAL_SECONDS", 0.1)
    catalog.build([pictures])
    with closing(Store.open(catalog.folder, readonly=True)) as reader, reader.snapshot():
        assert reader.count("images") == 6
        save_picture(pictures / "z.png", 99)
        catalog.build([pictures])
        assert not catalog._store.is_sealed
    catalog.build([pictures])
    assert catalog._store.is_sealed


@pytest.mark.parametrize("name", ["../x", "0123456789abcdef0", "0123456789ABCDEF", 7])
def test_an_index_has_a_name_of_ours_or_none(catalog: Catalog, pictures: Path, name: object) -> None:
    catalog.build([pictures])
    store = catalog._store
    assert store.neighbours
    with store.writing():
        store.sqlite.execute("UPDATE meta SET value = ? WHERE key = 'neighbours'", [name])
    assert store.neighbours == ""


def test_a_damaged_calibration_is_none(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    store = catalog._store
    model = store.model()
    assert model
    store.keep_calibration(model, '{"copy": 0.5, "similar": 0.9}')
    assert store.calibration(model) == '{"copy": 0.5, "similar": 0.9}'
    with store.writing():
        store.sqlite.execute("UPDATE calibrations SET report = replace(report, '0.5', '0.1')")
    assert store.calibration(model) is None


def test_what_is_decided_twice_is_decided_once(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store:
        store.decide(bytes(64), 1)
        store.decide(bytes(64), 2)
        assert store.decisions() == [bytes(64)]


def test_a_root_takes_what_is_below_it_skips_too(catalog: Catalog, tmp_path: Path) -> None:
    for seed, name in enumerate(["a/in/one.png", "ab/two.png"]):
        save_picture(tmp_path / name, seed)
    catalog.build([tmp_path / "a" / "in", tmp_path / "ab"])
    store = catalog._store
    inner, beside, outer = (bytes(tmp_path / name) for name in ("a/in", "ab", "a"))
    roots = store.roots()
    store.commit([], [Refusal(Source(roots[inner], inner, b"bad.png", Stamp(1, 2, 3)), "broken", "x")], None)
    number = store.add_root(outer)
    assert store.roots() == {outer: number, beside: roots[beside]}
    rows = "SELECT root_id, path, checksum, size, mtime_ns, ctime_ns, sha256 FROM images JOIN contents ON "
    images = store.all(f"{rows} contents.id = content_id ORDER BY path".replace("checksum", "images.checksum"))
    assert [row[:2] for row in images] == [(number, b"in/one.png"), (roots[beside], b"two.png")]
    for root, path, found, *stamp, digest in images:
        assert checksums.of_image(digest, root, path, Stamp(*stamp)) == found
    assert store.all("SELECT root_id, path FROM skips") == [(number, b"in/bad.png")]


def test_the_model_is_known_by_where_it_was_loaded_from_last(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    store = catalog._store
    first = store.model()
    assert first
    moved = store.use_model(first.id, "elsewhere", [])
    assert moved == replace(first, source="elsewhere") == store.model()
    assert store.count("models") == 1
