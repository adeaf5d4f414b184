"""An undo log gives every action a number of its own, at a price that does not grow with the log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from indexer.verbs.undo_log import Entry, UndoLog


class Unlisted(dict[int, Entry]):
    """Entries that nobody may go through."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("all entries were looked at for one")


def intend(log: UndoLog) -> int:
    return log.intend("delete", b"/a", b"", b"/b", "0" * 64, os.stat(log.file)).number


def test_numbers_go_on(tmp_path: Path) -> None:
    with UndoLog(tmp_path / "log", "u") as log:
        assert [intend(log) for _ in range(3)] == [1, 2, 3]
    with UndoLog(tmp_path / "log", "u") as log:
        log.entries = Unlisted(log.entries)
        assert [intend(log) for _ in range(2)] == [4, 5]
    with UndoLog(tmp_path / "log", "u") as log:
        assert list(log.entries) == [1, 2, 3, 4, 5]
