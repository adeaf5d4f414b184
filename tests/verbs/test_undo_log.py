"""An undo log gives every action a number of its own, at a price that does not grow with it, and says what was done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import CatalogError, InvalidArgument, WrongFormat
from indexer.verbs.undo_log import Entry, UndoLog, read, read_own


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


def entries(file: Path, **changes: Any) -> dict[int, Entry]:
    """The entries of a log after a line that is like its last, but for some changes."""
    values = {**json.loads(file.read_text().splitlines()[-1]), **changes}
    with file.open("a") as opened:
        opened.write(json.dumps(values) + "\n")
    return read(file)[1]


def test_one_at_a_time(tmp_path: Path) -> None:
    with UndoLog(tmp_path / "log", "u"):
        handles = len(os.listdir("/dev/fd"))
        with pytest.raises(CatalogError, match="Another program is using the undo log"):
            UndoLog(tmp_path / "log", "u")
        assert len(os.listdir("/dev/fd")) == handles
    with UndoLog(tmp_path / "log", "u") as log:
        assert intend(log) == 1


def test_a_torn_line_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with UndoLog(file, "u") as log:
        intend(log)
    with file.open("ab") as opened:
        opened.write(b'{"number": 1, "state": "do')
    with UndoLog(file, "u") as log:
        assert [entry.state for entry in log.entries.values()] == ["intent"]
        assert intend(log) == 2
    assert list(read(file)[1]) == [1, 2]


def test_numbers_go_on_after_the_largest(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with UndoLog(file, "u") as log:
        for _ in range(3):
            intend(log)
    header, first, *_, last = file.read_text().splitlines(keepends=True)
    file.write_text(header + last + first)
    with UndoLog(file, "u") as log:
        assert intend(log) == 4


def test_what_is_not_written_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with UndoLog(tmp_path / "log", "u") as log:
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
        with pytest.raises(CatalogError, match="no space left"):
            intend(log)
        assert log.entries == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"number": "2"},
        {"number": True},
        {"source": 1},
        {"sha256": None},
        {"mtime_ns": 1.5},
        {"mount": 1},
        {"state": "burnt"},
        {"method": "burn"},
        {"more": 1},
    ],
)
def test_a_line_that_makes_no_sense_says_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    with UndoLog(tmp_path / "log", "u") as log:
        intend(log)
    (entry,) = entries(tmp_path / "log", **{"number": 2, **changes}).values()
    assert (entry.number, entry.state) == (1, "intent")


def test_an_older_log_does_not_say_where_disks_were(tmp_path: Path) -> None:
    with UndoLog(tmp_path / "log", "u") as log:
        intend(log)
    header, line = (tmp_path / "log").read_text().splitlines()
    values = json.loads(line)
    assert values.pop("mount") == "/"
    (tmp_path / "log").write_text(header + "\n" + json.dumps(values) + "\n")
    assert [entry.mount for entry in read(tmp_path / "log")[1].values()] == [""]


@pytest.mark.parametrize("state", ["done", "failed", "undone"])
def test_what_became_of_it_is_read_again(tmp_path: Path, state: Any) -> None:
    with UndoLog(tmp_path / "log", "u") as log:
        intend(log)
        log.became(log.entries[1], state)
    assert [entry.state for entry in read_own(tmp_path / "log", "u").values()] == [state]


def test_what_is_no_log_of_this_catalog(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with UndoLog(file, "u"):
        pass
    for wrong in (lambda: read_own(file, "v"), lambda: UndoLog(file, "v")):
        with pytest.raises(InvalidArgument, match="another catalog"):
            wrong()
    for text, error in (
        ("{}\n", InvalidArgument),
        ("not a log", InvalidArgument),
        ('{"indexer_undo": 2, "uuid": "u"}\n', WrongFormat),
        ('{"indexer_undo": true, "uuid": "u"}\n', InvalidArgument),
    ):
        file.write_text(text)
        with pytest.raises(error):
            read_own(file, "u")
        assert file.read_text() == text
