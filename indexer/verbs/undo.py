"""undo: puts back what apply has done, the last first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import PictureError
from ..pictures.scan import why
from ..records import Applied
from .moves import clear_away, copy, end_move, has_bytes, move, same_entry, seen_twice, set_stamp
from .trash import Trash, Trashed
from .undo_log import Entry, UndoLog, read


def undo(log: str | os.PathLike[str]) -> Iterator[Applied]:
    """Put back every file of an undo log that can be put back; nothing that is there now is overwritten.

    What was moved comes back, a link becomes a copy of what was kept, and what is in a freedesktop trash is taken out
    again; what was deleted cannot come back. Can be killed and run again.
    Raises InvalidArgument for what is no undo log, CatalogError when it cannot be written.
    """
    uuid, _ = read(Path(log))
    return _each(Path(log), uuid)


def _each(file: Path, uuid: str) -> Iterator[Applied]:
    trash = Trash()
    with UndoLog(file, uuid) as log:
        for entry in reversed(list(log.entries.values())):
            if entry.state not in ("intent", "done"):
                continue
            try:
                _require_mounted(entry)
                clear_away(os.fsencode(entry.source))
                remark = _put_back(entry, trash)
            except PictureError as error:
                yield Applied(entry.source, entry.method, False, error.reason)
                continue
            except OSError as error:
                yield Applied(entry.source, entry.method, False, why(error, "put back"))
                continue
            log.became(entry, "undone")
            yield Applied(entry.source, entry.method, True, remark)


def _require_mounted(entry: Entry) -> None:
    """Raises PictureError where what is put back would come to lie beneath the disk that it was on."""
    if entry.mount and not os.path.ismount(entry.mount):
        raise PictureError(f"the disk that was at {entry.mount} is not there; mount it")
    if not entry.mount and not any(os.path.isdir(os.path.dirname(path)) for path in (entry.source, entry.keeper)):
        raise PictureError("neither its folder nor that of what was kept is there; mount its disk, or make the folder")


def _put_back(entry: Entry, trash: Trash) -> str:
    """Returns a remark. Raises PictureError or OSError with the reason why it stays as it is."""
    source, keeper = os.fsencode(entry.source), os.fsencode(entry.keeper)
    if link := _link(entry, source, keeper):
        if not has_bytes(keeper, entry.sha256):
            raise PictureError(f"{entry.keeper}, which it links to, is gone or has changed")
        copy(keeper, source, entry.sha256, instead_of=link, stamp=(entry.mode, entry.mtime_ns))
        return ""
    if has_bytes(source, entry.sha256):
        return _set_right(entry, source, trash)
    if os.path.lexists(source):
        raise PictureError("there is something else now")
    if entry.method == "move":
        moved = os.fsencode(entry.target)
        if not has_bytes(moved, entry.sha256):
            raise PictureError(f"{entry.target} is gone or has changed")
        move(moved, source, entry.sha256, os.lstat(moved))
    elif entry.method == "trash":
        trashed = trash.find(source, entry.sha256)
        if trashed is None:
            raise PictureError("it was not found in the trash; look there and restore it by hand")
        move(trashed.file, source, entry.sha256, os.lstat(trashed.file))
        _drop_note(trashed)
    elif entry.method == "delete":
        raise PictureError("it was deleted, which cannot be undone")
    else:
        raise PictureError("the link is gone")
    return ""


def _set_right(entry: Entry, source: bytes, trash: Trash) -> str:
    """What is left to do where a file has its bytes. Returns a remark."""
    status, stamp = os.lstat(source), (entry.mode, entry.mtime_ns)
    if entry.method == "hardlink" and status.st_nlink > 1:  # what was kept goes by another name now
        copy(source, source, entry.sha256, instead_of=status, stamp=stamp)
        return ""
    if entry.method in ("hardlink", "symlink"):
        set_stamp(source, stamp)
    elif entry.method == "move":
        _end_move_back(source, os.fsencode(entry.target), entry.sha256)
    elif entry.method == "trash":
        trashed = trash.find(source, entry.sha256)
        if trashed and os.path.samestat(status, os.lstat(trashed.file)):
            _end_move_back(source, trashed.file, entry.sha256)
            _drop_note(trashed)
    return "it is where it was"


def _end_move_back(source: bytes, moved: bytes, sha256: str) -> None:
    """What a move that was killed, either way, has left at its target goes, unless it may be the very file."""
    if has_bytes(moved, sha256) and not same_entry(moved, source) and not seen_twice(moved, source):
        end_move(moved, source, sha256, os.lstat(moved))


def _drop_note(trashed: Trashed) -> None:
    """Remove the note of what is not in the trash any more."""
    if not os.path.lexists(trashed.file):
        with suppress(FileNotFoundError):
            os.unlink(trashed.note)


def _link(entry: Entry, source: bytes, keeper: bytes) -> os.stat_result | None:
    """The link that was put in a file's place, if it is still there."""
    try:
        now = os.lstat(source)
        if entry.method == "symlink":
            there = os.path.islink(source) and os.readlink(source) == os.fsencode(entry.target)
        else:
            there = entry.method == "hardlink" and os.path.samestat(now, os.lstat(keeper))
    except FileNotFoundError:
        return None
    return now if there else None
