"""Files that appear whole or not at all, and the kind of disk that they are on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from .errors import CatalogError

# what a catalog writes, and as indexer 0.1 called it: another process may be writing a page beside it
_LEFT_OVER = (
    *(f".indexer-*.{kind}.tmp" for kind in ("faiss", "seal", "sqlite")),
    ".indexer-salvage.tmp",
    "neighbours-*.tmp",
    "catalog.*.tmp",
)
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "9p", "ceph", "glusterfs", "lustre"})
NETWORK_IN_USER_SPACE = frozenset({"sshfs", "davfs", "rclone", "s3fs", "gcsfuse", "glusterfs", "ceph"})


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Within, whatever the system refuses becomes a CatalogError that names a path and the way out."""
    try:
        yield
    except OSError as error:
        raise CatalogError(
            f"{path} cannot be written ({error.strerror or error}). Check the disk and the permissions, and try again."
        ) from error


def temporary_of(target: Path) -> Path:
    """Where a file is until it is whole: beside its target, by a name that no file of a user's has.

    It is always the same, so whoever tries again after a crash writes over what was left.
    """
    return target.parent / f".indexer-{sha256(os.fsencode(target.name)).hexdigest()[:16]}{target.suffix}.tmp"


@contextmanager
def replacement(target: Path) -> Iterator[Path]:
    """A file to be filled, which then takes the place of another; a crash leaves the old one or the new one.

    Of a link, what it leads to is replaced. Raises CatalogError where the disk refuses.
    """
    if os.path.islink(target):
        target = target.resolve()
    temporary = temporary_of(target)
    with changing(target):
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            sync_folder(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def replace_file(target: Path, data: bytes) -> None:
    """Write a file whole, see replacement()."""
    with replacement(target) as temporary, temporary.open("wb") as file:
        file.write(data)


def left_over(folder: Path) -> list[Path]:
    """What a killed process did not finish in a catalog's folder, where a user may have files of that ending too."""
    return [path for pattern in _LEFT_OVER for path in folder.glob(pattern)]


def remove_left_over(folder: Path) -> None:
    """Delete what a killed process did not finish."""
    with changing(folder):
        for path in left_over(folder):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename or a deletion in a folder last, where the system lets a folder be opened and synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def mount_point(path: bytes) -> bytes:
    """The folder at which the disk of a path begins; what it ends in may be a link or gone."""
    folder = os.path.realpath(os.path.dirname(path))
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return folder


def _sync(file: Path) -> None:
    """Have a file on the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def require_local(folder: Path) -> None:
    """Raises CatalogError for a folder on a network file system."""
    if kind := network_file_system(folder):
        raise CatalogError(
            f"{folder} is on a network file system ({kind}), where locks cannot be trusted. Put the catalog on a "
            "local disk with --catalog; the pictures may stay where they are."
        )


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that a path is on, None for a local one or where it cannot be known.

    mounts: the text of /proc/self/mountinfo (proc(5)).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return None
    full = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
        inside = full == point or full.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    name = kind.removeprefix("fuse.")
    return kind if name in (NETWORK if name == kind else NETWORK_IN_USER_SPACE) else None
