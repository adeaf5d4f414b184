"""Moving, linking and copying single files so that a kill at any instant loses nothing and overwrites nothing."""

from __future__ import annotations

import ctypes
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


def move(source: bytes, target: bytes, sha256: str, status: os.stat_result) -> None:
    """Move a file to where none is, also to another file system. Both may be there for an instant, never neither.

    status: of the source when its bytes were read; what has come in its place since stays there.
    Raises FileExistsError where there is something, OSError, and PictureError for other bytes.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)  # unlike a rename, never overwrites
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        carry(source, target, sha256, status)
        return
    sync_folder(_folder(target))
    end_move(source, target, sha256, status)


def carry(source: bytes, target: bytes, sha256: str, status: os.stat_result) -> None:
    """Move a file in one step where the file system can, else by a copy; see move() for the rest."""
    try:
        rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(source, target, sha256)
        end_move(source, target, sha256, status)
    else:
        _require_moved(source, target, sha256)


def end_move(source: bytes, target: bytes, sha256: str, status: os.stat_result) -> None:
    """What is left of a move when its file is at the target: that is proven, and the source goes.

    Raises OSError, and PictureError where either is not what it should be; then the source stays.
    """
    proven = has_bytes(target, sha256)
    try:
        if proven and is_still(source, status):
            _unlink_moved(source, target, status)
            return
        linked = os.path.samestat(os.lstat(source), os.lstat(target))
    except FileNotFoundError:
        if proven and not os.path.lexists(source):
            return  # another program took the source away: the target may be the last of it
        raise
    if linked:  # written to meanwhile, or another file when it was linked
        os.unlink(target)
        raise PictureError("it changed while it was moved")
    where = os.fsdecode(target)
    raise PictureError(
        f"it changed while it was moved; what it was is at {where}" if proven else f"something else is at {where}"
    )


def copy(
    source: bytes,
    target: bytes,
    sha256: str,
    *,
    instead_of: os.stat_result | None = None,
    stamp: tuple[int, int] | None = None,
) -> None:
    """Copy a file with its times and mode; it appears whole, and only with the bytes that it should have.

    instead_of: see put(). stamp: the mode and mtime_ns that it gets instead of the source's.
    Raises OSError, or PictureError for other bytes.
    """

    def fill(temporary: bytes) -> None:
        with open(source, "rb") as reader, open(temporary, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            shutil.copystat(source, temporary, follow_symlinks=False)
            if stamp:
                set_stamp(temporary, stamp)
            os.fsync(writer.fileno())
        if digest(temporary)[0] != sha256:
            raise PictureError("the copy came out with other bytes")

    put(fill, target, instead_of=instead_of)


def set_stamp(path: bytes, stamp: tuple[int, int]) -> None:
    """Give a file a mode and an mtime_ns."""
    mode, mtime_ns = stamp
    os.chmod(path, mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def put(make: Callable[[bytes], None], target: bytes, *, instead_of: os.stat_result | None) -> None:
    """Make something under a name of its own beside a path, and let it appear there at once.

    instead_of: the status of what it takes the place of. None: nothing may be there, see rename().
    Raises PictureError where there is something else by then.
    """
    temporary = _beside(target, os.path.basename(target))
    _remove(temporary)
    try:
        make(temporary)
        if instead_of is None:
            rename(temporary, target)
        elif is_still(target, instead_of):
            os.replace(temporary, target)
        else:
            raise PictureError("it changed while it was looked at")
    finally:
        _remove(temporary)  # also what os.replace leaves of two links to one file
    sync_folder(_folder(target))


def rename(source: bytes, target: bytes) -> None:
    """Rename to where nothing is. Raises FileExistsError where there is something, OSError.

    Linux looks and renames in one step on its own disks. Elsewhere (macOS, network file systems) these are two, and
    what another program puts there in between is overwritten.
    Source: renameat2(2).
    """
    number = _rename_at_once(source, target)
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        if os.path.lexists(target):
            number = errno.EEXIST
        else:
            os.rename(source, target)
            return
    if number:
        raise OSError(number, os.strerror(number), source, None, target)


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


def seen_twice(source: bytes, keeper: bytes) -> bool:
    """Whether a file's folder is seen a second time as the keeper's, so that the two may be one file.

    Such are unions of disks (overlayfs, mergerfs), folders mounted anew (bindfs) and shares of this very machine.
    Device and inode of one file differ there, and what was looked at before comes from a cache, also when it is gone.
    So something appears beside the one under a name that nobody asked for yet, and is looked for beside the other: a
    second name of the file, since only that is sure to be on the disk of a union where the file is; where there are no
    hard links an empty file, from both sides. Killed meanwhile, that is left, hidden, and clear_away() removes it.
    What keeps lists of folders (rclone, davfs) or hides such names is not seen through.
    Raises OSError where neither can be made.
    """
    above = [os.stat(os.path.dirname(path)) for path in (source, keeper)]
    if os.path.samestat(*above):
        return False  # two names in one folder
    try:
        return _appears_beside(source, keeper, lambda name: os.link(source, name))
    except OSError:
        return any(_appears_beside(*paths, _make_empty) for paths in ((source, keeper), (keeper, source)))


def clear_away(path: bytes) -> None:
    """Remove what a killed run has left beside a path."""
    for of in (path, os.path.basename(path)):
        _remove(_beside(path, of))


def _appears_beside(one: bytes, other: bytes, make: Callable[[bytes], None]) -> bool:
    name = _beside(one, one)
    _remove(name)
    make(name)
    try:
        os.lstat(os.path.join(os.path.dirname(other), os.path.basename(name)))
    except FileNotFoundError:
        return False
    finally:
        _remove(name)
    return True


def _make_empty(path: bytes) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


def _beside(path: bytes, of: bytes) -> bytes:
    """A name beside a path: hidden, so that no build sees it, and always the same, so that it can be cleared away."""
    return os.path.join(os.path.dirname(path), b".indexer-%s.tmp" % hashlib.sha256(of).hexdigest()[:16].encode())


def _unlink_moved(source: bytes, target: bytes, status: os.stat_result) -> None:
    """The source goes; where the system refuses that, the target does, since the file is at both."""
    try:
        os.unlink(source)
    except OSError:
        if is_still(source, status):  # raises where the source is gone
            os.unlink(target)
        raise
    sync_folder(_folder(source))


def _require_moved(source: bytes, target: bytes, sha256: str) -> None:
    """After a rename, which takes whatever is there: another file goes back. At the source is nothing of ours now."""
    if not has_bytes(target, sha256):
        rename(target, source)
        raise PictureError("it changed while it was moved")
    sync_folder(_folder(target))
    sync_folder(_folder(source))


def _rename_at_once(source: bytes, target: bytes) -> int:
    """The error number of a rename that never overwrites, 0 where it was done, ENOSYS where there is none."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return errno.ENOSYS
    here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    failed = renameat2(here, ctypes.c_char_p(source), here, ctypes.c_char_p(target), ctypes.c_uint(no_replace))
    return ctypes.get_errno() if failed else 0


def is_still(path: bytes, before: os.stat_result) -> bool:
    """Whether the same file is there, not written since. Its ctime is left out: a new link to it changes that."""
    now = os.lstat(path)
    return all(
        getattr(now, field) == getattr(before, field) for field in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    )


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _folder(path: bytes) -> Path:
    return Path(os.fsdecode(os.path.dirname(path)))
