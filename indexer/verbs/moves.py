"""Moving, linking and copying single files so that a kill at any instant loses nothing and overwrites nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

from ..errors import PictureError
from ..files import sync_folder
from ..pictures.scan import digest


def has_bytes(path: bytes, sha256: str) -> bool:
    """Whether there is a regular file with such bytes."""
    try:
        return digest(path)[0] == sha256
    except PictureError:
        return False


def move(source: bytes, target: bytes, sha256: str) -> None:
    """Move a file to where none is, also to another file system. Both may be there for an instant, never neither.

    Raises FileExistsError where there is something, OSError, and PictureError for a copy that came out wrong.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)  # unlike a rename, never overwrites
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        _require_free(target)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(source, target, sha256)
    sync_folder(_folder(target))
    if os.path.lexists(source):
        try:
            os.unlink(source)
        except OSError:
            os.unlink(target)
            raise
    sync_folder(_folder(source))


def copy(source: bytes, target: bytes, sha256: str, *, over: bool = False) -> None:
    """Copy a file with its times and mode; it appears whole, and only with the bytes that it should have.

    over: may take the place of what is there. Raises OSError, or PictureError for other bytes.
    """

    def fill(temporary: bytes) -> None:
        with open(source, "rb") as reader, open(temporary, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        shutil.copystat(source, temporary, follow_symlinks=False)
        if digest(temporary)[0] != sha256:
            raise PictureError("the copy came out with other bytes")
        if not over:
            _require_free(target)

    put(fill, target)


def put(make: Callable[[bytes], None], target: bytes) -> None:
    """Make something under a name of its own beside a file, and let it take the file's place at once."""
    # hidden, so that no build sees it; the same for a file each time, so that a killed run's is cleared away
    name = b".indexer-%s.tmp" % hashlib.sha256(os.path.basename(target)).hexdigest()[:16].encode()
    temporary = os.path.join(os.path.dirname(target), name)
    _remove(temporary)
    try:
        make(temporary)
        os.replace(temporary, target)
    finally:
        _remove(temporary)  # also what os.replace leaves of two links to one file
    sync_folder(_folder(target))


def entry_key(path: bytes) -> tuple[int, int, str]:
    """Equal for paths that may be one entry, see same_entry(). Raises OSError where the folder is not there."""
    above = os.stat(os.path.dirname(path))
    return above.st_dev, above.st_ino, unicodedata.normalize("NFC", os.fsdecode(os.path.basename(path))).casefold()


def same_entry(one: bytes, other: bytes) -> bool:
    """Whether two paths are one name of one file, so that removing either removes both.

    Hard links are different entries. Spelling, links to folders and folders mounted twice are seen through; names that
    differ in nothing but case count as one where they are the same file, since a disk may ignore case.
    """
    try:
        return entry_key(one) == entry_key(other) and os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def _require_free(path: bytes) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _folder(path: bytes) -> Path:
    return Path(os.fsdecode(os.path.dirname(path)))
