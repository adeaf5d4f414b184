"""Every format that was ever released can be read, is verified as sound, and is brought to the present one."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database, Migrations

from indexer import Catalog
from indexer.store import connection, migrations
from indexer.store.checking import problems
from indexer.store.connection import FORMAT
from indexer.store.salvage import salvage
from indexer.store.store import FILE, Store

from ..conftest import save_picture
from ..fakes import FakeEmbedder

FORMATS = sorted(path for path in Path(__file__).parent.iterdir() if path.name.startswith("v"))


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an old catalog."""
    return Path(shutil.copytree(request.param, tmp_path / "catalogs" / request.param.name))


def test_the_present_format_is_pinned() -> None:
    assert [path.name for path in FORMATS] == [f"v{number}" for number in range(1, FORMAT + 1)]


def test_it_is_sound(old: Path) -> None:
    report = Catalog.verify(old)
    assert (report.problems, report.notes) == ((), ())


def test_it_answers(old: Path, tmp_path: Path) -> None:
    with Catalog.open(old, loader=lambda _: FakeEmbedder(), readonly=True) as catalog:
        assert [image.path for image in catalog] == [
            f"/home/somebody/pictures/{name}.png" for name in ("0", "1", "2", "3", "4", "copy")
        ]
        assert [skip.path for skip in catalog.skips()] == ["/home/somebody/pictures/broken.png"]
        best = catalog.query(save_picture(tmp_path / "new.png", 3, size=(80, 60)), k=3)
        assert best[0].path.endswith("/3.png")
        assert best[0].score > 0.99
        assert len(best[0].image.labels) == 3


def test_its_index_is_used_or_made_anew(old: Path, tmp_path: Path) -> None:
    """That of format 1 belongs to the indexer that wrote it."""
    (before,) = old.glob("neighbours-*")
    with Catalog.open(old, loader=lambda _: FakeEmbedder(), readonly=True) as catalog:
        assert catalog.info().neighbours.covered == (0 if old.name == "v1" else 5)
    with Catalog.open(old, loader=lambda _: FakeEmbedder()) as catalog:
        catalog.build([save_picture(tmp_path / "new" / "0.png", 0)])
        assert catalog.info().neighbours.covered == 5
    (after,) = old.glob("neighbours-*")
    assert (after == before) is (old.name != "v1")


def test_its_vectors_are_bit_for_bit_what_they_were(old: Path, tmp_path: Path) -> None:
    """The format as the README has it, read by hand."""
    conn = sqlite3.connect(old / FILE)
    rows = conn.execute("SELECT vector FROM vectors ORDER BY id").fetchall()
    conn.close()
    stored = np.stack([np.frombuffer(blob[:-4], "<f2").astype(np.float32) for (blob,) in rows])
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    with Catalog.create(tmp_path / "new", loader=lambda _: FakeEmbedder()) as new:
        new.build(pictures)
        conn = sqlite3.connect(tmp_path / "new" / FILE)
        again = conn.execute("SELECT vector FROM vectors ORDER BY id").fetchall()
        conn.close()
    assert rows == again
    assert np.linalg.norm(stored, axis=1) == pytest.approx(1, abs=1e-3)


def test_reading_changes_nothing(old: Path, tmp_path: Path) -> None:
    before = (old / FILE).read_bytes()
    with Catalog.open(old, loader=lambda _: FakeEmbedder(), readonly=True) as catalog:
        assert len(list(catalog)) == 6
        assert catalog.query(save_picture(tmp_path / "new.png", 3), where="width > 10")
        catalog.export(tmp_path / "all.jsonl")
    assert (old / FILE).read_bytes() == before


def test_what_is_sound_can_be_saved_from_it(old: Path) -> None:
    salvage(old)
    opened = Store.open(old)
    try:
        assert opened.format == FORMAT
        assert [opened.count(table) for table in ("images", "contents", "vectors")] == [6, 5, 5]
        assert list(problems(opened)) == []
    finally:
        opened.close()


def test_a_migration_copies_first_and_keeps_everything(
    old: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = Migrations("indexer")
    steps._migrations = [*migrations.migrations._migrations]

    @steps()
    def m999_from_the_future(db: Database) -> None:
        db.execute("ALTER TABLE contents ADD COLUMN something TEXT")

    before = (old / FILE).read_bytes()
    monkeypatch.setattr(migrations, "migrations", steps)
    monkeypatch.setattr(connection, "FORMAT", FORMAT + 1)
    opened = Store.open(old)
    assert opened.format == FORMAT + 1
    assert opened.count("images") == 6
    assert opened.sqlite.execute("SELECT count(something) FROM contents").fetchone() == (0,)
    opened.close()
    (copy,) = old.glob("catalog.format-*.sqlite")
    assert len(copy.read_bytes()) == len(before)
    conn = sqlite3.connect(copy)
    assert conn.execute("SELECT count(*) FROM images").fetchone() == (6,)
    conn.close()


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Migrations("indexer")
    steps._migrations = [*migrations.migrations._migrations]

    @steps()
    def m999_broken(db: Database) -> None:
        db.execute("DROP TABLE labels")
        raise RuntimeError("half-way")

    monkeypatch.setattr(migrations, "migrations", steps)
    monkeypatch.setattr(connection, "FORMAT", FORMAT + 1)
    with pytest.raises(RuntimeError, match="half-way"):
        Store.open(old)
    monkeypatch.undo()
    with Catalog.open(old, loader=lambda _: FakeEmbedder(), readonly=True) as catalog:
        assert len(catalog) == 6
        assert catalog["/home/somebody/pictures/0.png"].labels


@pytest.mark.parametrize("old", FORMATS[:-1], indirect=True, ids=lambda path: path.name)
def test_a_copy_before_a_migration_is_of_the_old_format_and_stays(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process brings the catalog to the present format at the same moment."""
    number = int(old.name[1:])
    kept = old / f"catalog.format-{number}.sqlite"
    kept.write_bytes(b"of another day")
    real, others = vars(connection.Connection)["format"].fget, [Store]

    def late(opened: Store) -> int:
        found = int(real(opened))
        if others:
            others.pop().open(old).close()
        return found

    monkeypatch.setattr(connection.Connection, "format", property(late))
    Store.open(old).close()
    assert not others
    assert kept.read_bytes() == b"of another day"
    (copy,) = set(old.glob("catalog.format-*")) - {kept}
    conn = sqlite3.connect(copy)
    assert conn.execute("PRAGMA user_version").fetchone() == (number,)
    assert conn.execute("SELECT count(*) FROM images").fetchone() == (6,)
    conn.close()


def test_a_migration_that_fails_again_and_again_copies_once(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Migrations("indexer")

    @steps()
    def m999_broken(db: Database) -> None:
        raise RuntimeError("half-way")

    monkeypatch.setattr(migrations, "migrations", steps)
    monkeypatch.setattr(connection, "FORMAT", FORMAT + 1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half-way"):
            Store.open(old)
    assert [path.name for path in old.glob("catalog.format-*")] == [f"catalog.format-{old.name[1:]}.sqlite"]
