"""The system's trash: how files get there, and on freedesktop systems how they come back. The door to send2trash.

Source: freedesktop.org Trash specification 1.0.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from ..errors import PictureError
from ..files import mount_point, sync_folder
from ..pictures.scan import why
from .moves import carry, has_bytes

FREEDESKTOP = sys.platform not in ("darwin", "win32")


class Trashed(NamedTuple):
    """A file in the trash, and the note that says where it came from."""

    file: bytes
    note: bytes
    deleted: str


class Trash:
    """What is in the trash folders, each read once: make a new one when something was put there."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._read: dict[bytes, dict[bytes, list[Trashed]]] = {}

    def find(self, path: bytes, sha256: str) -> Trashed | None:
        """The file that was at a path, with the bytes that it had; of several the one that was put there last.

        Where no note tells, one of its name whose note is broken or gone. On macOS and Windows nothing is ever found.
        """
        if not FREEDESKTOP:
            return None
        real = _real(path)
        listings = [self._listing(*place) for place in _folders(real)]
        found = [trashed for listing in listings for trashed in listing.get(real, [])]
        found.sort(key=lambda trashed: trashed.deleted, reverse=True)
        found += (trashed for listing in listings for trashed in listing.get(b"", []) if _is_called(trashed, real))
        return next((trashed for trashed in found if has_bytes(trashed.file, sha256)), None)

    def _listing(self, folder: bytes, top: bytes) -> dict[bytes, list[Trashed]]:
        """The files of a trash folder by where they were, those that no note tells of under no path."""
        if folder not in self._read:
            listing: dict[bytes, list[Trashed]] = {}
            for origin, trashed in _contents(folder, top):
                listing.setdefault(origin, []).append(trashed)
            self._read[folder] = listing
        return self._read[folder]


def throw_away(path: bytes, sha256: str, status: os.stat_result) -> None:
    """Put a file into the trash, where it overwrites nothing; sha256, status: what was read of it.

    Raises PictureError with the reason where that is refused.
    """
    try:
        if not os.access(path, os.W_OK):
            raise PermissionError
        if FREEDESKTOP:
            _put_in(*_place(path, status.st_dev), path, sha256, status)
        else:
            _send(path)
    except OSError as error:
        raise PictureError(why(error, "put into the trash")) from error


def _send(path: bytes) -> None:
    from send2trash import TrashPermissionError, send2trash

    try:
        send2trash(os.fsdecode(path))
    except TrashPermissionError as error:
        raise PictureError(_NO_TRASH) from error
    except UnicodeError as error:
        raise PictureError("the trash does not take its name; choose another action") from error


_NO_TRASH = "there may be no trash folder on its disk; choose another action"


def _place(path: bytes, device: int) -> tuple[bytes, bytes]:
    """The trash folder for a file of a disk, made where there is none, and the folder that its notes begin at, if any.

    One on the file's own disk; for what is on the disk of the home folder also one that is elsewhere.
    """
    home, *volume = _folders(_real(path))
    at_home = _device(home[0]) == device
    if not at_home:
        for folder, top in volume:
            if _usable(folder, top):
                return folder, top
    if not at_home and _device(os.path.expanduser(b"~")) != device:
        raise PictureError(_NO_TRASH)
    os.makedirs(home[1], 0o700, exist_ok=True)
    _make_trash(home[0])
    return home[0], b""


def _usable(folder: bytes, top: bytes) -> bool:
    """Whether a trash folder of a volume is there, or can be made, as the specification wants it."""
    above = os.path.dirname(folder)
    try:
        if above != top:
            mode = os.lstat(above).st_mode
            if not stat.S_ISDIR(mode) or not mode & stat.S_ISVTX:
                return False
        _make_trash(folder)
        return stat.S_ISDIR(os.lstat(folder).st_mode)
    except OSError:
        return False


def _make_trash(folder: bytes) -> None:
    for path in (folder, os.path.join(folder, b"info"), os.path.join(folder, b"files")):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def _put_in(folder: bytes, top: bytes, path: bytes, sha256: str, status: os.stat_result) -> None:
    """Write the note, which belongs to nobody else then, and move the file: a kill leaves both or an idle note."""
    stem, ending = os.path.splitext(os.path.basename(path))
    for number in count():
        name = stem + (b" %d" % number if number else b"") + ending
        file, note = os.path.join(folder, b"files", name), os.path.join(folder, b"info", name + b".trashinfo")
        try:
            _write_note(note, os.path.relpath(_real(path), top) if top else _real(path))
        except FileExistsError:
            continue
        try:
            carry(path, file, sha256, status)
            return
        except FileExistsError as error:
            if error.filename2 != file:  # but of what came to the file's own place since
                raise
            os.unlink(note)
        except (OSError, PictureError):
            if not os.path.lexists(file):
                os.unlink(note)
            raise


def _write_note(note: bytes, origin: bytes) -> None:
    """Write a new note, so that it lasts."""
    moment = datetime.now().strftime("%Y-%m-%dT%H:%M:%S")
    text = f"[Trash Info]\nPath={quote(origin)}\nDeletionDate={moment}\n"
    handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(handle)
        sync_folder(Path(os.fsdecode(os.path.dirname(note))))
    except OSError:
        os.unlink(note)
        raise


def _folders(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Trash folders that may hold a file, the home folder's first, each with the folder that its paths begin at."""
    data = os.environb.get(b"XDG_DATA_HOME", b"")
    if not os.path.isabs(data):  # to be passed over, says the Base Directory specification
        data = os.path.expanduser(b"~/.local/share")
    yield os.path.join(data, b"Trash"), data
    volume = mount_point(path)
    user = b"%d" % os.getuid()
    yield os.path.join(volume, b".Trash", user), volume
    yield os.path.join(volume, b".Trash-" + user), volume


def _device(path: bytes) -> int:
    """That of a path, or of where it would be made."""
    while True:
        try:
            return os.stat(path).st_dev
        except FileNotFoundError:
            path = os.path.dirname(path)


def _contents(folder: bytes, top: bytes) -> Iterator[tuple[bytes, Trashed]]:
    """Every file of a trash folder, and where it came from; nothing where its note does not tell."""
    for name in _names(os.path.join(folder, b"files")):
        note = os.path.join(folder, b"info", name + b".trashinfo")
        origin, deleted = _read_note(note)
        origin = origin and _real(os.path.join(top, origin))
        yield origin, Trashed(os.path.join(folder, b"files", name), note, deleted)


def _read_note(note: bytes) -> tuple[bytes, str]:
    """Where a file came from, nothing for a note that does not tell, and when it was put there."""
    try:
        with open(note, "rb") as file:
            fields = dict(line.strip().split(b"=", 1) for line in file if b"=" in line)
    except OSError:
        return b"", ""
    origin = unquote_to_bytes(fields.get(b"Path", b""))
    return b"" if b"\0" in origin else origin, fields.get(b"DeletionDate", b"").decode("ascii", "replace")


def _is_called(trashed: Trashed, path: bytes) -> bool:
    """Whether a file in the trash has the name that a path ends in, perhaps with a number since."""
    stem, ending = map(re.escape, os.path.splitext(os.path.basename(path)))
    return bool(re.fullmatch(stem + rb"( \d+)?" + ending, os.path.basename(trashed.file), re.DOTALL))


def _names(folder: bytes) -> list[bytes]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _real(path: bytes) -> bytes:
    """One spelling of a path; what it ends in may be a link or gone."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
