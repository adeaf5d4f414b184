"""The system's trash: how files get there, and on freedesktop systems how they come back. The door to send2trash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import PictureError
from ..pictures.scan import digest, why


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

        Source: freedesktop.org Trash specification 1.0. Elsewhere nothing is ever found.
        """
        if sys.platform in ("darwin", "win32"):
            return None
        real = _real(path)
        found = [trashed for folder, top in _folders(real) for trashed in self._listing(folder, top).get(real, [])]
        for trashed in sorted(found, key=lambda t: t.deleted, reverse=True):
            try:
                if digest(trashed.file)[0] == sha256:
                    return trashed
            except PictureError:
                continue
        return None

    def _listing(self, folder: bytes, top: bytes) -> dict[bytes, list[Trashed]]:
        if folder not in self._read:
            listing: dict[bytes, list[Trashed]] = {}
            for origin, trashed in _notes(folder, top):
                listing.setdefault(origin, []).append(trashed)
            self._read[folder] = listing
        return self._read[folder]


def throw_away(path: bytes) -> None:
    """Put a file into the trash. Raises PictureError with the reason where that is refused."""
    from send2trash import TrashPermissionError, send2trash

    try:
        send2trash(os.fsdecode(path))
    except TrashPermissionError as error:
        raise PictureError("there may be no trash folder on its disk; choose another action") from error
    except OSError as error:
        raise PictureError(why(error, "put into the trash")) from error
    except UnicodeError as error:
        raise PictureError("the trash does not take its name; choose another action") from error


def _folders(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Trash folders that may hold a file, each with the folder that its relative paths begin at."""
    from send2trash import plat_other

    yield plat_other.HOMETRASH_B, plat_other.XDG_DATA_HOME
    volume = os.path.dirname(path)
    while not os.path.ismount(volume):
        volume = os.path.dirname(volume)
    user = b"%d" % os.getuid()
    yield os.path.join(volume, b".Trash", user), volume
    yield os.path.join(volume, b".Trash-" + user), volume


def _notes(folder: bytes, top: bytes) -> Iterator[tuple[bytes, Trashed]]:
    """Where each file of a trash folder came from, and the file."""
    try:
        names = sorted(os.listdir(os.path.join(folder, b"info")))
    except OSError:
        return
    for name in names:
        stem, ending = os.path.splitext(name)
        note = os.path.join(folder, b"info", name)
        if ending != b".trashinfo":
            continue
        try:
            with open(note, "rb") as file:
                fields = dict(line.strip().split(b"=", 1) for line in file if b"=" in line)
        except OSError:
            continue
        if b"Path" in fields:
            origin = os.path.join(top, unquote_to_bytes(fields[b"Path"]))
            deleted = fields.get(b"DeletionDate", b"").decode("ascii", "replace")
            yield _real(origin), Trashed(os.path.join(folder, b"files", stem), note, deleted)


def _real(path: bytes) -> bytes:
    """One spelling of a path; what it ends in may be a link or gone."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
