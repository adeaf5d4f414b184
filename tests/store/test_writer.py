"""Commits beside a build: whole, in order, and nothing after one that failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import CatalogError
from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess, Source, Stamp
from indexer.store import connection
from indexer.store.checking import problems
from indexer.store.rows import Entry, Refusal
from indexer.store.store import Store
from indexer.store.writer import Writer

MODEL = ModelId("fake", "0" * 64, Preprocess((4, 4)), dim=3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.create(tmp_path)) as made:
        made.use_model(MODEL, "fake", [("a", "a")])
        made.add_root(b"/pictures")
        yield made


def entries(*numbers: int) -> list[Entry]:
    return [
        Entry(
            Source(1, b"/pictures", b"%03d" % number, Stamp(1, number, 1)),
            number.to_bytes(32, "big"),
            1,
            PictureInfo(1, 1, "PNG"),
            Fingerprint(bytes(32), bytes(4096)),
            np.array([1, number, 0], np.float32),
            ((0, 0.5),),
        )
        for number in numbers
    ]


def paths(store: Store) -> list[bytes]:
    return [path for (path,) in store.all("SELECT path FROM images ORDER BY path")]


class Gate:
    """Holds every commit until it is opened, or fails it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached, self.fails = threading.Event(), threading.Event(), False
        commit = Store.commit

        def held(store: Store, *arguments: Any) -> None:
            self.reached.set()
            assert self.open.wait(10)
            if self.fails:
                raise CatalogError("the disk is full")
            commit(store, *arguments)

        monkeypatch.setattr(Store, "commit", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_what_is_committed_is_seen_by_the_others(store: Store) -> None:
    before = store.generation
    with closing(Writer(store)) as writer:
        writer.commit(entries(1, 2), [], store.model())
        writer.commit([], [Refusal(entries(1)[0].source, "damaged", "us")], store.model())
        writer.wait()
        assert writer.pending() == 0
        assert paths(store) == [b"002"]  # in order: the file is no image any more
        assert store.generation == before + 2


def test_one_goes_on_while_it_is_written(store: Store, gate: Gate) -> None:
    with closing(Writer(store)) as writer:
        writer.commit(entries(1, 2, 3), [], store.model())
        assert gate.reached.wait(10)
        assert writer.pending() == 3
        assert paths(store) == []
        gate.open.set()
        writer.wait()
    assert paths(store) == [b"001", b"002", b"003"]


def test_closing_waits_and_leaves_nothing_behind(store: Store, gate: Gate) -> None:
    before = threading.active_count()
    writer = Writer(store)
    writer.commit(entries(1), [], store.model())
    threading.Timer(0.1, gate.open.set).start()
    writer.close()
    assert paths(store) == [b"001"]
    assert threading.active_count() == before


def test_a_writer_that_had_nothing_to_do_opens_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_connect", None)
    Writer(store).close()


@pytest.mark.parametrize("how", ["pending", "wait", "commit", "close"])
def test_a_failure_is_heard_of_and_ends_it(store: Store, gate: Gate, how: str) -> None:
    gate.fails = True
    gate.open.set()
    writer = Writer(store)
    writer.commit(entries(1), [], store.model())
    assert writer._under_way
    writer._under_way.exception()  # it has ended
    with pytest.raises(CatalogError, match="disk is full"):
        writer.commit(entries(2), [], None) if how == "commit" else getattr(writer, how)()
    gate.fails = False
    if how != "close":
        writer.commit(entries(3), [], store.model())
        writer.close()
    assert paths(store) == []


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_many_rows_at_a_time_are_all_of_them(store: Store, count: int) -> None:
    """However many a statement takes: contents have nine columns, so a hundred rows fit one."""
    with closing(Writer(store)) as writer:
        writer.commit(entries(*range(count)), [], store.model())
    counted = [store.count("images"), store.count("contents"), store.count("vectors")]
    assert counted == [count] * 3
    assert store.one("SELECT count(*) FROM labels") == store.one("SELECT count(*) FROM fingerprints") == count
    moved = [entry._replace(source=entry.source._replace(stamp=Stamp(2, 2, 2))) for entry in entries(*range(count))]
    store.commit(moved, [], store.model())
    assert store.one("SELECT count(*) FROM images WHERE mtime_ns = 2") == count
    assert store.count("contents") == count


def test_labels_stay_those_that_their_checksum_is_of(store: Store) -> None:
    """The same picture in two batches: its probabilities may differ in their last bits."""
    (first,), (other,) = entries(1), entries(2)
    again = first._replace(source=other.source, labels=((0, 0.50000001),))
    store.commit([first], [], store.model())
    store.commit([again], [], store.model())
    assert list(problems(store)) == []
    assert store.all("SELECT probability FROM labels") == [(0.5,)]
    assert paths(store) == [b"001", b"002"]
