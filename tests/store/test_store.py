"""The store as a file: its format, its errors, what it writes and when."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer import Catalog, CatalogDamaged, CatalogError, CatalogNotFound, InvalidArgument, WrongFormat
from indexer.records import Source, Stamp
from indexer.store import checksums, handles
from indexer.store.connection import Connection
from indexer.store.filters import balanced
from indexer.store.rows import Refusal
from indexer.store.sqlite_errors import code_of, translated
from indexer.store.store import FILE, Store

from ..conftest import save_picture
from ..fakes import FakeEmbedder


def test_a_new_store_says_what_it_is(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    conn = sqlite3.connect(tmp_path / FILE)
    assert conn.execute("PRAGMA application_id").fetchone()[0] == 0x49445852
    assert conn.execute("PRAGMA user_version").fetchone()[0] == 3
    assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    conn.close()


def test_creating_twice_keeps_what_is_there(tmp_path: Path) -> None:
    first = Store.create(tmp_path)
    uuid = first.uuid
    first.close()
    again = Store.create(tmp_path)
    assert again.uuid == uuid
    again.close()


def test_who_makes_a_catalog_waits_for_whoever_makes_the_same_one(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # for which SQLite does not wait by itself
    leaves = threading.Timer(0.3, other.rollback)
    leaves.start()
    with closing(Store.create(tmp_path)) as made:
        assert made.one("PRAGMA journal_mode") == "wal"
    leaves.join()
    other.close()


def test_a_store_is_for_the_thread_that_opened_it(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for use in (lambda: store.uuid, store.close):
        with ThreadPoolExecutor(1) as thread, pytest.raises(CatalogError, match="in another thread"):
            thread.submit(use).result()
    assert handles._users[store._inode] == 1  # or closing any other descriptor would take its locks away
    assert store.uuid
    store.close()
    assert not handles._users[store._inode]
    store.close()
    with pytest.raises(CatalogError, match="was closed"):
        store.uuid  # noqa: B018


def test_nothing_is_written_to_a_file_that_was_replaced(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    conn = sqlite3.connect(catalog.folder / FILE)
    conn.execute("UPDATE contents SET width = width + 1 WHERE id = 3")
    conn.commit()
    conn.close()
    assert Catalog.verify(catalog.folder, repair=True, loader=catalog._loader).repaired
    save_picture(pictures / "new.png", 72)
    for write in (
        lambda: catalog.build(),
        lambda: catalog.calibrate(sample=1),
        lambda: catalog._store.decide(bytes(64), 1),
    ):
        with pytest.raises(CatalogError, match="was replaced"):
            write()
    assert catalog._store.is_sealed
    with Catalog.open(catalog.folder, loader=catalog._loader) as again:
        assert again.build().added == 1
    assert Catalog.verify(catalog.folder).ok


def test_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFound, match="indexer build"):
        Store.open(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path).close()
    conn = sqlite3.connect(tmp_path / FILE)
    conn.execute("PRAGMA user_version = 99")
    conn.close()
    for open_it in (Store.open, Store.create):
        with pytest.raises(WrongFormat, match=r"format 99.*Upgrade"):
            open_it(tmp_path)


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / FILE)
    conn.execute("CREATE TABLE mine (x)")
    conn.close()
    before = (tmp_path / FILE).read_bytes()
    for open_it in (Store.open, Store.create):
        with pytest.raises(WrongFormat, match="not a catalog"):
            open_it(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello" * 1000)
    with pytest.raises(CatalogDamaged, match="Restore"):
        Store.open(tmp_path)


def test_a_damaged_vector_is_never_shown(catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog]) -> None:
    catalog.build([pictures])
    before = catalog.query(pictures / "a.png", k=6)
    conn = sqlite3.connect(catalog.folder / FILE)
    conn.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 2")
    conn.commit()
    conn.close()
    assert catalog.query(pictures / "a.png", k=6) == before  # the index has a sound copy
    (index,) = catalog.folder.glob("neighbours-*")
    index.unlink()
    with reopen() as opened, pytest.raises(CatalogDamaged, match="verify --repair"):
        opened.query(pictures / "a.png", k=6)


def test_every_vector_comes_in_the_order_of_ids(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    conn = sqlite3.connect(catalog.folder / FILE)
    conn.execute("UPDATE vectors SET id = 100 - id")  # so that contents are in another order
    conn.commit()
    expected = conn.execute("SELECT id, content_id FROM vectors ORDER BY id").fetchall()
    conn.close()
    with closing(Store.open(catalog.folder, readonly=True)) as store:
        model = store.model()
        assert model
        ids, contents = store.vectors.every(model)
        assert list(zip(ids.tolist(), contents.tolist(), strict=True)) == expected
        assert contents[0] > contents[-1]


def test_reading_changes_nothing(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    catalog.close()
    before = {path.name: path.read_bytes() for path in catalog.folder.iterdir()}
    with Catalog.open(catalog.folder, loader=catalog._loader, readonly=True) as reader:
        reader.query(pictures / "a.png")
        reader.info()
        with pytest.raises(CatalogError):
            reader.build([save_picture(pictures / "new.png", 70)])
    assert {path.name: path.read_bytes() for path in catalog.folder.iterdir()} == before


def test_a_failed_commit_leaves_the_last_one(catalog: Catalog, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.build([pictures])
    generation = catalog._store.generation

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Store, "_insert_vectors", fail)
    save_picture(pictures / "new.png", 71)
    with pytest.raises(CatalogError, match="disk I/O error"):
        catalog.build([pictures])
    monkeypatch.undo()
    assert (len(catalog), catalog._store.count("contents"), catalog._store.generation) == (6, 6, generation)
    assert catalog.build([pictures]).added == 1


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("a", True), ("(a)", True), ("a)", False), (")(", False), ("')'", True), ("'", False), ("a -- (", True),
     ("a /* ( */", True), ('"("', True), ("[(]", True), ("  ", False), ("(a -- )", False), ("'it''s)'", True)],
)  # fmt: skip
def test_balanced(condition: str, expected: bool) -> None:
    assert balanced(condition) is expected


def refuse(store: Store, paths: list[bytes]) -> None:
    store.commit([], [Refusal(Source(1, b"/r", path, Stamp(1, 2, 3)), "broken", "x") for path in paths], None)


def test_what_is_known_of_a_place_is_that_path_and_what_is_below_it(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store:
        store.add_root(b"/r")
        paths = [b"A", b"a", b"a!", b"a-b", b"a-b/c", b"a/b", b"a/b/c", b"a/\xff", b"a0", b"aa", b"b"]
        refuse(store, paths)
        for below in [*paths, b"a/", b"none", b""]:
            inside = [path for path in paths if not below or path == below or path.startswith(below + b"/")]
            assert [known.path for known in store.known(1, below, None, set())] == inside


def test_one_file_is_looked_up_without_reading_its_whole_root(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path)) as store:
        store.add_root(b"/r")
        refuse(store, [b"%06d.png" % number for number in range(3000)])
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        store.sqlite.set_progress_handler(count, 10)
        assert len(list(store.known(1, b"001500.png", None, set()))) == 1
        assert steps < 100


def test_conditions_and_queries_while_images_come(
    catalog: Catalog, pictures: Path, reopen: Callable[[], Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.build([pictures])
    monkeypatch.setattr("indexer.store.image_rows.IN_ONE_STATEMENT", 2)
    with reopen() as opened:
        found = [opened.query(image.path, k=2, where="bytes > 0") for image in opened]
    assert [len(matches) for matches in found] == [2] * 6


def test_whatever_sqlite3_raises_is_an_error_of_ours() -> None:
    with pytest.raises(CatalogError, match="needed to be reset"), translated(Path("catalog.sqlite")):
        raise sqlite3.InterfaceError("Cursor needed to be reset because of commit/rollback")


def test_the_code_of_an_error_is_that_of_sqlite(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "one")) as conn, pytest.raises(sqlite3.OperationalError) as raised:
        conn.execute("ATTACH '/no/where' AS a")
    assert code_of(raised.value) == sqlite3.SQLITE_CANTOPEN  # extended or not
    assert code_of(sqlite3.ProgrammingError("You can only execute one statement at a time.")) is None


def test_only_what_is_its_fault_is_blamed_on_a_condition(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    for condition in ("json_extract(path, '$') = 1", "width = ?", "abs(-9223372036854775808)", "path = '\ud800'", "\0"):
        with pytest.raises(InvalidArgument, match="refused"):
            catalog.query(pictures / "a.png", where=condition)
    catalog.close()
    with closing(sqlite3.connect(catalog.folder / FILE)) as conn:
        (page,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'contents'").fetchone()
    data = bytearray((catalog.folder / FILE).read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    (catalog.folder / FILE).write_bytes(data)
    with closing(Store.open(catalog.folder, readonly=True)) as store, pytest.raises(CatalogDamaged, match="malformed"):
        store.images.where("width > 1", None)


def test_which_contents_have_a_vector_is_asked_of_the_current_model(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    with closing(Store.open(catalog.folder)) as store:
        digests = [digest for (digest,) in store.rows("SELECT sha256 FROM contents")]
        first = store.model()
        assert first is not None
        assert store.with_vector([*digests, bytes(32)]) == set(digests)
        for name in ("a", "z"):  # whichever comes first
            store.use_model(replace(first.id, name=name), "another", [])
            assert store.with_vector(digests) == set()
        store.use_model(first.id, first.source, [])
        assert store.with_vector(digests) == set(digests)


@pytest.mark.parametrize("width", [1, 5, 10])
def test_any_number_of_rows_is_written_by_statements_of_a_few_lengths(tmp_path: Path, width: int) -> None:
    """sqlite3 keeps what it has prepared, and statements of hundreds of values are large."""
    conn = sqlite3.connect(":memory:")
    conn.execute(f"CREATE TABLE made (id INTEGER PRIMARY KEY, {', '.join(f'c{i}' for i in range(width))})")
    prepared: set[str] = set()

    class Recorder:
        def execute(self, sql: str, values: list[object]) -> None:
            prepared.add(sql)
            conn.execute(sql, values)

    store = SimpleNamespace(path=tmp_path, sqlite=Recorder())
    names = ", ".join(f"c{i}" for i in range(width))
    done = 0
    for count in range(400):
        rows = [[done + row] * width for row in range(count)]
        Connection.many(store, f"INSERT INTO made ({names}) VALUES {{}}", rows)  # type: ignore[arg-type]
        done += count
    assert [value for (value,) in conn.execute("SELECT c0 FROM made ORDER BY id")] == list(range(done))
    assert len(prepared) <= 10
    conn.close()


def test_what_an_older_indexer_did_not_look_for_is_added(catalog: Catalog, pictures: Path) -> None:
    catalog.build([pictures])
    columns = "sha256, bytes, width, height, format, taken, camera, shown"
    for sha256, size, *values in catalog._store.rows(f"SELECT {columns} FROM contents"):
        known = [checksums.of_content(sha256, size, [*values, None]), sha256]
        catalog._store.sqlite.execute("UPDATE contents SET holds = NULL, checksum = ? WHERE sha256 = ?", known)
    catalog._store.sqlite.commit()
    assert {image.holds for image in catalog} == {None}
    other = FakeEmbedder(weights="1" * 64)
    with Catalog.open(catalog.folder, model="other", loader=lambda _: other) as again:
        again.build([pictures], switch_model=True)
        assert {image.holds for image in again} == {"colour"}
    assert Catalog.verify(catalog.folder).ok
