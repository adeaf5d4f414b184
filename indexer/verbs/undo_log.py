"""The undo log: what was about to be done to which file, written before it is, and that it was done, after.

JSON lines. The first names the catalog; then an intent for every action, with a number, and under the same number
what became of it: done, failed or undone. A torn line, as a kill leaves it, says nothing: of an intent nothing was done
yet, and of anything else the files themselves tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Literal, Self, get_args

from ..errors import CatalogError, InvalidArgument, WrongFormat
from ..files import changing, mount_point, replace_file
from ..records import ApplyAction

VERSION = 1

State = Literal["intent", "done", "failed", "undone"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One action on one file.

    source: the file. target: where it goes, or for a symlink what it says; empty where there is no such thing.
    keeper: the file that stays. mtime_ns, mode: the source's, to be put back. mount: where the source's disk was
    mounted; older logs do not say. Paths as surrogateescape gives them.
    """

    number: int
    method: ApplyAction
    source: str
    target: str
    keeper: str
    sha256: str
    mtime_ns: int
    mode: int
    state: State = "intent"
    mount: str = ""


class UndoLog:
    """An undo log that is open for more; use as a context manager."""

    def __init__(self, file: Path, uuid: str) -> None:
        """Begin a log, or go on with one of the same catalog.

        Raises InvalidArgument for a file that is something else, CatalogError where the disk refuses, or while
        another program uses it.
        """
        self.file = file
        if not file.exists() or not file.stat().st_size:
            replace_file(file, _line({"indexer_undo": VERSION, "uuid": uuid}))
        with changing(file):
            self._handle = os.open(file, os.O_RDWR | os.O_APPEND)
        try:
            self._lock()
            self.entries = read_own(file, uuid)
            self._last = max(self.entries, default=0)
            self._end_torn_line()
        except BaseException:
            os.close(self._handle)
            raise

    def _lock(self) -> None:
        """Keep others out: two that undo one log at once would put back what the other just has."""
        try:
            flock(self._handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise CatalogError(
                f"Another program is using the undo log {self.file}. Wait until it has ended, and try again."
            ) from None
        except OSError:
            return  # a disk that knows no locks

    def _end_torn_line(self) -> None:
        with changing(self.file):
            if os.pread(self._handle, 1, os.fstat(self._handle).st_size - 1) != b"\n":
                os.write(self._handle, b"\n")

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._handle)

    def intend(
        self, method: ApplyAction, source: bytes, target: bytes, keeper: bytes, sha256: str, status: os.stat_result
    ) -> Entry:
        """Say what comes next. What is said lasts when this returns."""
        self._last += 1
        names = os.fsdecode(source), os.fsdecode(target), os.fsdecode(keeper)
        mount = os.fsdecode(mount_point(source))
        entry = Entry(self._last, method, *names, sha256, status.st_mtime_ns, status.st_mode & 0o7777, mount=mount)
        self._append(asdict(entry))
        self.entries[entry.number] = entry
        return entry

    def became(self, entry: Entry, state: State) -> None:
        """Say what became of an intent."""
        self._append({"number": entry.number, "state": state})
        self.entries[entry.number] = replace(entry, state=state)

    def _append(self, values: dict[str, Any]) -> None:
        with changing(self.file):
            line = _line(values)
            if os.write(self._handle, line) < len(line):
                raise OSError("no space left")
            os.fsync(self._handle)


def read_own(file: Path, uuid: str) -> dict[int, Entry]:
    """The actions in a catalog's log; none while there is no file.

    Raises InvalidArgument for a file that is something else, WrongFormat for one of a newer indexer.
    """
    if not file.exists() or not file.stat().st_size:
        return {}
    header, entries = read(file)
    if header != uuid:
        raise InvalidArgument(f"{file} is the undo log of another catalog. Choose another file for the log.")
    return entries


def read(file: Path) -> tuple[str, dict[int, Entry]]:
    """The catalog's uuid, and the actions by number in the order in which they were begun.

    Raises InvalidArgument for what is no undo log, WrongFormat for one of a newer indexer.
    """
    try:
        lines = list(_objects(file.read_bytes()))
    except OSError as error:
        raise InvalidArgument(
            f"The undo log {file} cannot be read ({error.strerror or error}). Check the path."
        ) from error
    version = lines[0].get("indexer_undo") if lines else None
    if type(version) is int and version > VERSION:
        raise WrongFormat(f"The undo log {file} was written by a newer indexer. Update this one.")
    if type(version) is not int or version != VERSION:
        raise InvalidArgument(f"{file} is no undo log of indexer. Name the log that apply wrote.")
    entries: dict[int, Entry] = {}
    for values in lines[1:]:
        known = entries.get(values["number"]) if type(values.get("number")) is int else None
        if known and values.get("state") in get_args(State):
            entries[known.number] = replace(known, state=values["state"])
        elif entry := _entry(values):
            entries[entry.number] = entry
    return str(lines[0].get("uuid")), entries


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values


def _entry(values: dict[str, Any]) -> Entry | None:
    try:
        entry = Entry(**values)
    except TypeError:
        return None
    texts = (entry.source, entry.target, entry.keeper, entry.sha256, entry.mount)
    numbers = (entry.number, entry.mtime_ns, entry.mode)
    sound = all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
    return entry if sound and entry.method in get_args(ApplyAction) and entry.state in get_args(State) else None


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
