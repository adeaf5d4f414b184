"""verify finds every damage; repair ends with the catalog that was there, and says what it could not save."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import Catalog, CatalogDamaged, CatalogError, CatalogNotFound, WrongFormat
from indexer.pictures import scan
from indexer.records import VerifyReport
from indexer.store import seal
from indexer.store.store import FILE

from ..conftest import save_picture
from ..fakes import FakeEmbedder

FILES = ("catalog.sqlite", "catalog.seal", "neighbours")


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SETTLED_NS", 0)


@pytest.fixture
def sound(tmp_path: Path, pictures: Path) -> Path:
    """A closed catalog of forty pictures, some of them copies, and a skip; its index has inverted lists."""
    for seed in range(500, 534):
        save_picture(pictures / f"{seed}.png", seed)
    shutil.copy(pictures / "a.png", pictures / "copy.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with Catalog.create(tmp_path / "catalog", loader=lambda _: FakeEmbedder()) as made:
        made.build([pictures], neighbours="IVF4,SQ8")
    return tmp_path / "catalog"


def contents(folder: Path) -> list[tuple[object, ...]]:
    """All that matters of a catalog, vectors bit for bit."""
    conn = sqlite3.connect(folder / FILE)
    rows = conn.execute(
        "SELECT roots.path, images.path, sha256, width, height, format, vector, pixels, signature, "
        "(SELECT group_concat(class || ':' || probability) FROM labels WHERE labels.content_id = contents.id), reason "
        "FROM images JOIN roots ON roots.id = images.root_id JOIN contents ON contents.id = images.content_id "
        "JOIN vectors ON vectors.content_id = contents.id "
        "JOIN fingerprints ON fingerprints.content_id = contents.id LEFT JOIN skips ON 0 "
        "UNION ALL SELECT NULL, path, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, reason FROM skips ORDER BY 2"
    ).fetchall()
    conn.close()
    return rows


def damages(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Random damages of three kinds that really change the file."""
    rng = np.random.default_rng(seed)
    while count:
        kind = ("truncated", "zeroed", "flipped")[int(rng.integers(3))]
        place = int(rng.integers(len(data)))
        if kind == "truncated":
            harmed = data[:place]
        elif kind == "zeroed":
            start = place // 4096 * 4096
            harmed = data[:start] + bytes(len(data[start : start + 4096])) + data[start + 4096 :]
        else:
            harmed = data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        if harmed != data:
            count -= 1
            yield f"{kind} at {place}", harmed


def file_of(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"{name}*")
    return path


def test_a_sound_catalog_is_sound(sound: Path) -> None:
    report = Catalog.verify(sound)
    assert (report.ok, report.problems, report.notes) == (True, (), ())
    assert Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder()) == report


@pytest.mark.parametrize("name", FILES)
def test_every_damage_is_found(sound: Path, name: str) -> None:
    path = file_of(sound, name)
    data = path.read_bytes()
    for what, harmed in damages(data, 40, seed=len(name)):
        path.write_bytes(harmed)
        assert not Catalog.verify(sound).ok, what
        path.write_bytes(data)
        for extra in ("-wal", "-shm"):
            (sound / (FILE + extra)).unlink(missing_ok=True)
    assert Catalog.verify(sound).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_thousand_damages_are_found(sound: Path, name: str) -> None:
    path = file_of(sound, name)
    data = path.read_bytes()
    for what, harmed in damages(data, 1000, seed=7):
        path.write_bytes(harmed)
        assert not Catalog.verify(sound).ok, what
        path.write_bytes(data)
        for extra in ("-wal", "-shm"):
            (sound / (FILE + extra)).unlink(missing_ok=True)


STORED = {
    "contents": ("sha256", "bytes", "width", "height", "format", "checksum"),
    "images": ("root_id", "path", "content_id", "size", "mtime_ns", "ctime_ns", "checksum"),
    "vectors": ("content_id", "vector", "labels_checksum"),
    "labels": ("class", "probability"),
    "fingerprints": ("pixels", "signature", "checksum"),
    "models": ("name", "weights", "preprocess", "dim"),
}


@pytest.mark.parametrize("value", ["text", b"\xff\xfe", 1e300, 2**63 - 1, -1], ids=repr)
@pytest.mark.parametrize(("table", "column"), [(table, name) for table, names in STORED.items() for name in names])
def test_a_row_may_hold_anything(sound: Path, table: str, column: str, value: object) -> None:
    """No page is checked here, so that the row has to be found out by itself."""
    (sound / "catalog.seal").unlink()
    conn = sqlite3.connect(sound / FILE, isolation_level=None)
    conn.execute(
        f"UPDATE {table} SET {column} = ? WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1)"
        if table != "labels"
        else f"UPDATE labels SET {column} = ? WHERE content_id = 1 AND rank = 1",
        [value],
    )
    conn.close()
    report = Catalog.verify(sound)
    assert not report.ok
    assert all(problem.startswith(f"{FILE}: ") for problem in report.problems)


def test_repair_keeps_what_was_decided(sound: Path) -> None:
    with Catalog.open(sound, loader=lambda _: FakeEmbedder()) as catalog:
        report = catalog.duplicates(tier="exact")
        catalog.keep_all(report, [report.groups[0].id])
    conn = sqlite3.connect(sound / FILE)
    conn.execute("UPDATE fingerprints SET signature = zeroblob(4096) WHERE content_id = 3")
    conn.commit()
    conn.close()
    assert Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder()).lost == ()
    assert Catalog.verify(sound).ok
    with Catalog.open(sound, readonly=True) as catalog:
        assert catalog.duplicates(tier="exact").remembered == 1


@pytest.fixture
def told(sound: Path) -> Path:
    """The same catalog, which was told all that no picture tells."""
    with Catalog.open(sound, loader=lambda _: FakeEmbedder()) as catalog:
        catalog.build(exclude=["*.tif", "rau\udce9"])
        report = catalog.duplicates(tier="exact")
        catalog.keep_all(report, [report.groups[0].id])
        model = catalog._store.model()
        assert model
        with catalog._changing():
            catalog._store.keep_calibration(model, '{"copy": 0.5, "similar": 0.95}')
            catalog._store.decide(bytes(64), 1)
    return sound


def what_was_told(folder: Path) -> list[tuple[object, ...]]:
    conn = sqlite3.connect(folder / FILE)
    rows = conn.execute(
        "SELECT key, value FROM meta WHERE key IN ('uuid', 'exclude') UNION ALL "
        "SELECT digests, decided_ns FROM decisions UNION ALL "
        "SELECT key, report FROM calibrations JOIN models ON models.id = model_id"
    ).fetchall()
    conn.close()
    return rows


@pytest.mark.parametrize("sealed", [True, False])
def test_repair_keeps_what_no_picture_tells(told: Path, sealed: bool) -> None:
    before = what_was_told(told)
    assert len(before) == 5
    harm(told, "UPDATE fingerprints SET signature = zeroblob(4096) WHERE content_id = 3")
    if not sealed:
        (told / seal.FILE).unlink()
    report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
    assert (report.lost, report.notes) == ((), ())
    assert what_was_told(told) == before
    assert Catalog.verify(told) == VerifyReport(())


def test_what_of_a_lost_file_was_told_is_taken_from_the_seal_or_said(told: Path) -> None:
    before = what_was_told(told)
    (told / FILE).unlink()
    report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
    assert report.lost == ("2 of 2 decisions about groups", "1 of 1 calibrations")
    assert what_was_told(told) == [row for row in before if row[0] in ("uuid", "exclude")]
    assert Catalog.verify(told) == VerifyReport(())


@pytest.mark.parametrize("value", ["'x'", "x'ff'", "7", "replace(value, '-', '')"])
def test_what_was_told_and_is_not_sound_is_said_and_kept(told: Path, value: str) -> None:
    (told / seal.FILE).unlink()
    harm(told, "UPDATE decisions SET decided_ns = decided_ns + 1 WHERE id = 1")
    harm(told, "UPDATE calibrations SET report = replace(report, '0.5', '0.1')")
    harm(told, "UPDATE meta SET value = replace(value, 'tif', 'png') WHERE key = 'exclude'")
    harm(told, f"UPDATE meta SET value = {value} WHERE key = 'uuid'")
    old = (told / FILE).read_bytes()
    report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
    assert [line.partition(":")[0] for line in report.lost] == [
        "1 of 2 decisions about groups",
        "1 of 1 calibrations",
        "what builds leave out, if anything",
        "what plans know the catalog by",
    ]
    (kept,) = told.glob("catalog.before-repair*")
    assert kept.read_bytes() == old
    assert str(kept) in report.notes[-1]
    assert [row for row in what_was_told(told) if row[0] == bytes(64)] == [(bytes(64), 1)]
    assert Catalog.verify(told).ok


def test_a_calibration_goes_with_its_model(told: Path) -> None:
    harm(told, "UPDATE models SET dim = 47")
    report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
    assert report.lost == ("1 of 1 calibrations",)
    assert Catalog.verify(told).ok


def test_what_an_earlier_seal_does_not_tell_may_have_been_there(told: Path) -> None:
    """It had no `told`, and the table cannot be read: nobody knows how much it held."""
    data = (told / seal.FILE).read_bytes()
    line, _, rest = data[:-4].partition(b"\n")
    facts = json.loads(line)
    del facts["told"]
    data = json.dumps(facts).encode() + b"\n" + rest
    (told / seal.FILE).write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    assert Catalog.verify(told).ok
    (told / FILE).unlink()
    report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
    assert [line.partition(",")[0] for line in report.lost] == [
        "decisions about groups",
        "calibrations",
        "what builds leave out",
        "what plans know the catalog by: make those that were written before anew",
    ]
    assert Catalog.verify(told).ok


@pytest.mark.parametrize("name", FILES)
def test_repair_gives_back_what_was_there(sound: Path, name: str) -> None:
    before = contents(sound)
    path = file_of(sound, name)
    data = path.read_bytes()
    backup = {file.name: file.read_bytes() for file in sound.iterdir()}
    for what, harmed in damages(data, 12, seed=3 + len(name)):
        for file in sound.iterdir():
            file.unlink()
        for file_name, content in backup.items():
            (sound / file_name).write_bytes(content)
        path.write_bytes(harmed)
        report = Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
        assert report.problems, what
        assert report.repaired, what
        assert report.lost == (), what
        assert contents(sound) == before, what
        assert Catalog.verify(sound).ok, what
        assert not list(sound.glob("*damaged*"))


def test_a_damaged_vector_costs_one_picture(sound: Path) -> None:
    before = contents(sound)
    harm(sound, "UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 3")
    (problem,) = [p for p in Catalog.verify(sound).problems if "vector" in p]
    assert "vector 3 is damaged" in problem
    fake = FakeEmbedder()
    Catalog.verify(sound, repair=True, loader=lambda _: fake)
    assert sum(fake.batches) == 1
    assert contents(sound) == before


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE contents SET width = width + 1 WHERE id = 2", "content 2 is damaged"),
        ("UPDATE labels SET probability = 0.7 WHERE content_id = 4 AND rank = 2", "labels of vector 4 are damaged"),
        ("UPDATE images SET content_id = 9 WHERE id = 5", "image 5 is damaged"),
        ("UPDATE models SET dim = 47", "not what its id says"),
        ("UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE id = 8) WHERE id = 7", "vector 7 is damaged"),
    ],
)
def test_every_row_is_checked_even_without_a_seal(sound: Path, sql: str, says: str) -> None:
    before = contents(sound)
    harm(sound, sql)
    (sound / seal.FILE).unlink()
    report = Catalog.verify(sound)
    assert any(says in problem for problem in report.problems), report
    assert report.notes
    Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert contents(sound) == before


def test_what_cannot_be_saved_is_said(sound: Path, pictures: Path) -> None:
    conn = sqlite3.connect(sound / FILE)
    (number,) = conn.execute(
        "SELECT vectors.id FROM vectors JOIN images USING (content_id) WHERE path = ?", [b"b.png"]
    ).fetchone()
    conn.close()
    harm(sound, f"UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = {number}")
    unlisted = pictures / "b.png"
    data = unlisted.read_bytes()
    unlisted.unlink()
    for seed in range(600, 640):  # so many are gone that none is forgotten
        (pictures / f"{seed - 100}.png").unlink(missing_ok=True)
    report = Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert report.lost == (str(unlisted),)
    with Catalog.open(sound, readonly=True) as catalog:
        assert f"{len(catalog)} images" in report.repaired[-1]
    assert Catalog.verify(sound).ok
    assert data


def test_a_catalog_whose_file_is_lost_is_built_again(sound: Path) -> None:
    before = contents(sound)
    (sound / FILE).unlink()
    assert Catalog.verify(sound).problems == (f"{FILE} is missing", *Catalog.verify(sound).problems[1:])
    Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert contents(sound) == before


@pytest.mark.parametrize("left", [None, b""])
def test_where_only_the_seal_is_left_all_but_verify_say_what_mends_it(
    sound: Path, pictures: Path, left: bytes | None
) -> None:
    before = contents(sound)
    (sound / FILE).unlink()
    if left is not None:
        (sound / FILE).write_bytes(left)
    for open_it in (Catalog.open, Catalog.create):
        with pytest.raises(CatalogDamaged, match="Mend it with: indexer verify --repair"):
            open_it(sound)
    assert (sound / FILE).exists() == (left is not None)
    problems = Catalog.verify(sound).problems
    assert problems
    assert not any("Mend" in problem or "build" in problem for problem in problems)
    Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert contents(sound) == before
    assert Catalog.verify(sound) == VerifyReport(())


def test_what_is_no_database_any_more_names_what_mends_it(sound: Path) -> None:
    before = contents(sound)
    data = (sound / FILE).read_bytes()
    (sound / FILE).write_bytes(bytes(4096) + data[4096:])
    with pytest.raises(CatalogDamaged, match="Mend it with: indexer verify --repair"):
        Catalog.open(sound, readonly=True)
    assert not any("Mend" in problem for problem in Catalog.verify(sound).problems)
    Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert contents(sound) == before


def test_a_build_that_was_cut_off_is_no_damage(sound: Path) -> None:
    (sound / seal.FILE).unlink()
    (sound / "neighbours-x.faiss.tmp").write_bytes(b"half")
    report = Catalog.verify(sound)
    assert report.ok
    assert report.notes
    assert Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder()).repaired
    assert not list(sound.glob("*.tmp"))
    assert not Catalog.verify(sound).notes


def test_a_disk_that_cannot_be_read_is_a_problem(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", fail)
        assert Catalog.verify(sound).problems == (f"{FILE}: cannot be read (Input/output error)",)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        (problem,) = Catalog.verify(sound).problems
        assert problem == "catalog.seal: the seal cannot be read (Input/output error)"


def test_what_may_not_be_read_is_said(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tells nothing of its soundness."""

    def deny(path: Path, *_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as denied:
        denied.setattr(Path, "read_bytes", deny)
        with pytest.raises(CatalogError, match=r"catalog\.seal cannot be read \(Permission denied\)"):
            Catalog.verify(sound)
    monkeypatch.setattr(Path, "stat", deny)
    for look in (Catalog.verify, Catalog.open):
        with pytest.raises(CatalogError, match=r"cannot be reached \(Permission denied\)"):
            look(sound)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_neighbour_file_that_cannot_be_read_says_why(sound: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """What may not be read may be sound, and is left; what the disk does not give is made again."""
    index = file_of(sound, "neighbours")
    real = Path.open

    def fail(path: Path, *words: Any, **named: Any) -> Any:
        if path == index:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *words, **named)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail)
        if code == errno.EACCES:
            for repair in (False, True):
                with pytest.raises(CatalogError, match=rf"{index.name} cannot be read \(Permission denied\)"):
                    Catalog.verify(sound, repair=repair, loader=lambda _: FakeEmbedder())
            assert index.exists()
        else:
            assert Catalog.verify(sound).problems == (f"{index.name} cannot be read (Input/output error)",)
            assert Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder()).repaired
            assert not index.exists()
    assert Catalog.verify(sound).ok


@pytest.mark.parametrize("name", ["\0" * 16, "../../" + "a" * 10, b"\xff" * 16, 7])
def test_the_name_of_the_index_may_be_anything(sound: Path, pictures: Path, name: object) -> None:
    before = contents(sound)
    conn = sqlite3.connect(sound / FILE)
    conn.execute("UPDATE meta SET value = ? WHERE key = 'neighbours'", [name])
    conn.commit()
    conn.close()
    assert not Catalog.verify(sound).ok
    with Catalog.open(sound, readonly=True) as catalog:
        assert len(catalog.query(pictures / "a.png", k=3)) == 3
        assert catalog.info().neighbours.covered == 0
    assert Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder()).repaired
    assert contents(sound) == before
    assert Catalog.verify(sound).ok


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM contents WHERE id > 3",
        "UPDATE roots SET path = 'text'",
        "UPDATE contents SET sha256 = 5 WHERE id = 1",
        "DELETE FROM meta",
    ],
)
def test_rows_that_are_gone_or_harmed_are_damage(sound: Path, pictures: Path, sql: str) -> None:
    harm(sound, sql)
    opened = Catalog.open(sound, loader=lambda _: FakeEmbedder())
    with opened as catalog, pytest.raises(CatalogDamaged, match="verify --repair"):
        catalog.query(np.ones(48, np.float32), k=50)
        catalog.build([pictures])


def files(folder: Path) -> dict[str, bytes]:
    """Those of a folder, but for the lock of who has looked at it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "build.lock"}


@pytest.mark.parametrize("sealed", [True, False])
def test_what_a_newer_indexer_has_written_is_refused_and_left_alone(sound: Path, sealed: bool) -> None:
    harm(sound, "CREATE TABLE future (x)")
    harm(sound, "PRAGMA user_version = 4")
    (sound / seal.FILE).unlink()
    if sealed:
        seal.make(sound / FILE, {b"/pictures": 1}, None, seal.Told("", (), 0, 0))
    before = files(sound)
    for repair in (False, True):
        with pytest.raises(WrongFormat, match=r"has format 4; .* Upgrade indexer"):
            Catalog.verify(sound, repair=repair, loader=lambda _: FakeEmbedder())
    assert files(sound) == before


def test_what_another_program_has_written_is_refused_and_left_alone(tmp_path: Path) -> None:
    harm(tmp_path, "CREATE TABLE lightroom (x)")
    before = files(tmp_path)
    for repair in (False, True):
        with pytest.raises(WrongFormat, match="is not a catalog"):
            Catalog.verify(tmp_path, repair=repair, loader=lambda _: FakeEmbedder())
    assert files(tmp_path) == before


def test_where_nothing_can_be_read_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello" * 1000)
    assert not Catalog.verify(tmp_path).ok
    with pytest.raises(CatalogDamaged, match=r"Nothing of .* can be read.* Restore a copy"):
        Catalog.verify(tmp_path, repair=True, loader=lambda _: FakeEmbedder())
    assert files(tmp_path) == {FILE: b"hello" * 1000}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("sql", ["PRAGMA user_version = 4", "PRAGMA application_id = 0"])
def test_what_is_no_catalog_any_more_is_kept(
    sound: Path, monkeypatch: pytest.MonkeyPatch, sql: str, links: bool
) -> None:
    """Its seal says that it was one, which a bit may have changed, or somebody who had another in its place."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    before = contents(sound)
    for name in ("catalog.before-repair.sqlite", "catalog.before-repair-1.sqlite"):
        harm(sound, sql)
        old = (sound / FILE).read_bytes()
        report = Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
        assert report.problems
        assert any(str(sound / name) in note for note in report.notes)
        assert (sound / name).read_bytes() == old
        assert contents(sound) == before
    kept = len(report.notes)
    assert kept == 2
    again = Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert (again.ok, again.repaired, len(again.notes)) == (True, (), kept)


def test_the_log_of_what_is_kept_stays_with_it(told: Path, tmp_path: Path) -> None:
    """SQLite does not fold it in while somebody else has the file open."""
    with closing(sqlite3.connect(told / FILE)) as other:
        other.execute("UPDATE decisions SET decided_ns = 77 WHERE id = 1")
        other.commit()
        report = Catalog.verify(told, repair=True, loader=lambda _: FakeEmbedder())
        assert report.lost == ("1 of 2 decisions about groups",)
        for kept in told.glob("catalog.before-repair*"):
            shutil.copy(kept, tmp_path / kept.name.replace("catalog.before-repair", "copied"))
    with closing(sqlite3.connect(tmp_path / "copied.sqlite")) as copied:
        assert copied.execute("SELECT decided_ns FROM decisions WHERE id = 1").fetchone() == (77,)


def test_a_repair_that_is_run_again_keeps_what_it_had_kept(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harm(sound, "PRAGMA application_id = 0")
    old = (sound / FILE).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr("indexer.store.salvage.os.replace", killed)
        Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert (sound / FILE).read_bytes() == old
    Catalog.verify(sound, repair=True, loader=lambda _: FakeEmbedder())
    assert [path.read_bytes() for path in sound.glob("catalog.before-repair*")] == [old]
    assert Catalog.verify(sound).ok


def test_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound):
        Catalog.verify(tmp_path)


def harm(folder: Path, sql: str) -> None:
    """Change a row behind the back of everything."""
    conn = sqlite3.connect(folder / FILE)
    conn.execute(sql)
    conn.commit()
    conn.close()
    assert not os.path.exists(folder / f"{FILE}-wal")
