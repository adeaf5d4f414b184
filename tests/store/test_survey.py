"""What a build has found out is there whoever asks first, and gets into its tables many rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from indexer.records import Stamp
from indexer.store.rows import Refusal
from indexer.store.store import Store
from indexer.store.survey import Survey

from .test_writer import MODEL, entries

STAMP = Stamp(1, 2, 3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three images, of which the first has a copy that was added later, and a skip."""
    with closing(Store.create(tmp_path)) as made:
        model = made.use_model(MODEL, "fake", [("a", "a")])
        made.add_root(b"/pictures")
        images = entries(1, 2, 3)
        made.commit(images, [Refusal(images[0].source._replace(path=b"skip"), "broken", "x")], model)
        made.commit([images[0]._replace(source=images[0].source._replace(path=b"moved"))], [], model)
        yield made


def finished(store: Store, survey: Survey) -> object:
    survey.finish()
    return [path for (path,) in store.all("SELECT path FROM images UNION ALL SELECT path FROM skips ORDER BY path")]


def spared(store: Store, survey: Survey) -> object:
    survey.spare(1, store.generation - 1)
    return survey.counts()


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda _, survey: survey.counts(), (1, 1, 2)),
        (lambda _, survey: survey.gone_skips(), 1),
        (lambda _, survey: [(source.path, old) for source, old in survey.todo({1: b"/"})], [(b"a", None), (b"b", 3)]),
        (lambda store, survey: survey.moved(store.generation - 1), 1),
        (lambda store, survey: survey.moved_by_root(store.generation - 1), {1: 1}),
        (spared, (1, 1, 1)),
        (finished, [b"003", b"moved"]),
    ],
)
def test_every_question_counts_what_is_still_waiting(
    store: Store, ask: Callable[[Store, Survey], object], answer: object
) -> None:
    survey = Survey(store)
    survey.add_todo(1, b"a", STAMP, None)
    survey.add_todo(1, b"b", STAMP, 3)
    survey.add_gone(1, b"001", 1)
    survey.add_gone(1, b"002", 2)
    survey.add_gone(1, b"skip", None)
    assert ask(store, survey) == answer
    assert survey.gone_by_root == {1: 2}


def test_rows_go_into_the_tables_many_at_a_time(store: Store) -> None:
    """SQLite makes a transaction of every statement."""
    survey, statements = Survey(store), 0

    def count(_: str) -> None:
        nonlocal statements
        statements += 1

    store.sqlite.set_trace_callback(count)
    for number in range(9000):
        survey.add_todo(1, b"%d" % number, STAMP, None)
        survey.add_gone(1, b"%d" % number, number + 1)
        survey.add_gone(1, b"%d" % number, None)
    store.sqlite.set_trace_callback(None)
    assert survey.counts() == (9000, 0, 9000)
    assert survey.gone_skips() == 9000
    assert statements < 200
