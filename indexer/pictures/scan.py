"""From a folder to the files in it, and from a file to its bytes and their hash. Standard library only."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from ..errors import PictureError
from ..records import FoundFile, Source, Stamp, Unlisted
from .exclusion import Excludes

MAX_FILE_BYTES = 1 << 30
# a file this close to now may be written again without its times moving (FAT keeps two seconds)
SETTLED_NS = 2_000_000_000
# what a stamp is stored as when it cannot be trusted: no file ever has it, so the next build reads again
UNSETTLED = Stamp(-1, 0, 0)

# a link or a pipe that has taken the file's place is neither followed nor waited for
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

# bytes of a file that are read before it is known what it is: all of a small one, in one go
_FIRST = 1 << 16
# files that go on their way together, since one by one takes longer than looking at them
_LONGEST_RUN = 1000
# what 64 bits hold of nanoseconds since 1970: from 1677 to 2262, and file systems know times beyond
_MOST_NS = (1 << 63) - 1
_facts = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns")
# FoundFile._make() at a third of its cost: millions of files go this way
_found = partial(tuple.__new__, FoundFile)

_Run: TypeAlias = list[FoundFile | Unlisted]

PASSED_OVER = frozenset({b"Thumbs.db", b"desktop.ini", b"@eaDir", b"$RECYCLE.BIN"})

# told by content: (offset, bytes) -> format
_MAGIC = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    *((0, b"P%d" % digit + space, "PPM") for digit in range(1, 7) for space in (b"\n", b" ", b"\r", b"\t", b"#")),
    (0, b"Pf\n", "PPM"),
)
# pictures to a person, but never opened: interpreters, layered documents, camera raw
_REFUSED_MAGIC = (
    (0, b"%!PS", "EPS"),
    (0, b"8BPS", "PSD"),
    (8, b"CR\x02\0", "camera raw"),
    (4, b"ftypcrx ", "camera raw"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"gimp xcf", "XCF"),
    (0, b"PF\n", "PFM in colour"),
    (0, b"\0\0\x01\0", "ICO"),
)
_ENDINGS = frozenset(
    b"jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif heic heif hif ppm pgm pbm pnm pfm mpo".split()
)
_REFUSED_ENDINGS = frozenset(b"eps svg psd jp2 j2k jxl xcf ico tga cr2 cr3 nef arw dng orf rw2 raf pef srw".split())


class Content(NamedTuple):
    """The bytes of a file, read once: what is hashed is what is decoded. kind: the format, told by content."""

    source: Source
    sha256: bytes
    data: bytes
    kind: str


class Refused(NamedTuple):
    """A file that is not decoded. reason None: no picture by content nor by ending, so not worth a line."""

    source: Source
    reason: str | None


def walk(root: bytes, below: bytes = b"", excludes: Excludes | None = None) -> Iterator[FoundFile | Unlisted]:
    """Every regular file below a root (or below one folder of it), ordered by the bytes of its path.

    Hidden files and folders are passed over, and what excludes says; symbolic links are not followed. A folder that
    cannot be listed comes as Unlisted, in its place; so does one that vanishes meanwhile, and a file that cannot be
    looked at.
    """
    return chain.from_iterable(_runs(root, below, excludes))


def _runs(root: bytes, below: bytes, excludes: Excludes | None) -> Iterator[_Run]:
    # one open listing for each folder on the way down; no recursion, since a tree may be deeper than Python's stack
    listings = [_listing(root, below, excludes)]
    while listings:
        for item in listings[-1]:
            if isinstance(item, bytes):
                listings.append(_listing(root, item, excludes))
                break
            yield item
        else:
            listings.pop()


def _listing(root: bytes, below: bytes, excludes: Excludes | None) -> Iterator[_Run | bytes]:
    """The files of one folder, many at a time, and, each in its place, the paths of the folders in it."""
    prefix = below + b"/" if below else b""
    try:
        yield from _shown(os.path.join(root, below) if below else root, prefix, excludes)
    except OSError as error:
        yield [Unlisted(prefix, why(error, "list"))]


def _shown(folder: bytes, prefix: bytes, excludes: Excludes | None) -> Iterator[_Run | bytes]:
    """The same of a folder that can be listed, without what is passed over.

    A folder's name sorts as if it ended in a slash, where its files' paths will: so a walk is ordered by whole paths.
    """
    names = sorted({name for name in os.listdir(folder) if name[:1] != b"." and name not in PASSED_OVER})
    start = os.path.join(folder, b"")
    if excludes is not None:
        names = [name for name in names if not excludes(start, name)]
    folders: list[bytes] = []  # seen, and to come when it is their turn
    by_listing: frozenset[bytes] | None = None
    run: _Run = []
    for name in names:
        while folders and folders[0] < name:
            yield run
            run = []
            yield prefix + heappop(folders)[:-1]
        if len(run) == _LONGEST_RUN:
            yield run
            run = []
        try:
            status = os.lstat(start + name)  # with names from listdir() this is quicker than scandir()
        except FileNotFoundError:  # vanished between the listing and the look
            continue
        except OSError as error:  # a folder that may be listed but not entered: what is in it is not gone
            by_listing = _folders_in(folder) if by_listing is None else by_listing
            if name in by_listing:
                heappush(folders, name + b"/")
            else:
                run.append(Unlisted(prefix + name, why(error)))
            continue
        if stat.S_ISREG(status.st_mode):
            run.append(_found((prefix + name, *compared(status))))
        elif stat.S_ISDIR(status.st_mode):
            heappush(folders, name + b"/")
    yield run
    for path in sorted(folders):
        yield prefix + path[:-1]


def _folders_in(folder: bytes) -> frozenset[bytes]:
    """Names of the folders in another, by its listing alone."""
    with os.scandir(folder) as listing:
        return frozenset(entry.name for entry in listing if entry.is_dir(follow_symlinks=False))


def find(root: bytes, below: bytes = b"", excludes: Excludes | None = None) -> Iterator[FoundFile | Unlisted]:
    """The same where `below` may also be a single file."""
    full = os.path.join(root, below)
    try:
        status = os.lstat(full)
    except OSError as error:
        return iter([Unlisted(below, why(error))])
    if stat.S_ISREG(status.st_mode):
        return iter([FoundFile(below, *stamp_of(status))])
    if stat.S_ISDIR(status.st_mode):
        return walk(root, below, excludes)
    link = stat.S_ISLNK(status.st_mode)
    return iter(
        [Unlisted(below, "a symbolic link, and those are not followed" if link else "neither a file nor a folder")]
    )


def compared(status: os.stat_result) -> tuple[int, int, int]:
    """What of a stat result is compared; a time that the store cannot hold counts as the nearest that it can."""
    size, mtime, ctime = _facts(status)
    if -_MOST_NS <= mtime <= _MOST_NS and -_MOST_NS <= ctime <= _MOST_NS:
        return size, mtime, ctime
    return size, max(-_MOST_NS, min(mtime, _MOST_NS)), max(-_MOST_NS, min(ctime, _MOST_NS))


def stamp_of(status: os.stat_result) -> Stamp:
    """What of a stat result is compared, as it is stored."""
    return Stamp(*compared(status))


def settled(stamp: Stamp) -> Stamp:
    """The stamp to store: of no size, so that none is equal, while a file is so fresh that a change might not show."""
    now = time.time_ns()
    fresh = abs(now - stamp.mtime_ns) < SETTLED_NS or abs(now - stamp.ctime_ns) < SETTLED_NS
    return stamp._replace(size=UNSETTLED.size) if fresh else stamp


def read(source: Source) -> Content | Refused:
    """One file's bytes and their SHA-256, or why it is no picture to decode.

    The file is looked at before and after, so that the stamp belongs to the bytes.
    """
    try:
        with _opened(source.full) as (file, status):
            before = stamp_of(status)
            head = os.read(file, _FIRST)
            kind, reason = identify(head[:32], source.path)
            if kind is None:
                return Refused(source, reason)
            if before.size > MAX_FILE_BYTES:
                return Refused(source, f"larger than {MAX_FILE_BYTES >> 20:,} MB ({before.size >> 20:,} MB)")
            data = head + _read_all(file, before.size - len(head))
            after = stamp_of(os.fstat(file))
    except PermissionError as error:
        return Refused(source, why(error))
    except OSError as error:  # its stamp will be the same when the disk is back, so that must not be remembered
        return Refused(source._replace(stamp=UNSETTLED), why(error))
    if not (before == after == source.stamp) or len(data) != before.size:
        return Refused(source._replace(stamp=UNSETTLED), "changed while it was read")
    return Content(source, hashlib.sha256(data).digest(), data, kind)


def read_path(path: bytes) -> Content:
    """The bytes and the hash of a file that a user names, outside of any root; a symbolic link is followed.

    Raises PictureError.
    """
    try:
        full = os.path.realpath(path)
        status = os.stat(full)
    except (FileNotFoundError, ValueError):  # ValueError: a name with a null byte
        raise PictureError("there is no such file") from None
    except OSError as error:
        raise PictureError(why(error)) from None
    if stat.S_ISDIR(status.st_mode):
        raise PictureError("a folder, not a picture")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("neither a file nor a folder")
    content = read(Source(0, os.path.dirname(full), os.path.basename(full), stamp_of(status)))
    if isinstance(content, Refused):
        raise PictureError(content.reason or "not a picture")
    return content


def digest(path: bytes) -> tuple[str, os.stat_result]:
    """SHA-256 (hex) of any regular file, in bounded memory, and the status that belongs to it.

    Raises PictureError with the reason why it cannot be had.
    """
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise PictureError("it is a symbolic link")
        with _opened(path) as (file, before):
            sha256 = hashlib.sha256()
            while block := os.read(file, 1 << 20):
                sha256.update(block)
            after = os.fstat(file)
    except OSError as error:
        raise PictureError(why(error)) from error
    if stamp_of(before) != stamp_of(after):
        raise PictureError("it changed while it was read")
    return sha256.hexdigest(), after


def identify(head: bytes, path: bytes = b"") -> tuple[str | None, str | None]:
    """What the first 32 bytes say: (format, None) for one that is decoded, else (None, reason).

    The ending only decides whether a file that is no picture deserves a line: (None, None) says that it does not.
    """
    ending = os.path.splitext(path)[1][1:].lower()
    ends_as_picture = ending in _ENDINGS or ending in _REFUSED_ENDINGS
    for offset, magic, refused in _REFUSED_MAGIC:
        if head.startswith(magic, offset) and (refused != "ICO" or ends_as_picture):
            return None, f"{refused} is not a format that indexer opens"
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset) and _is_more_than_text(head, kind):
            return kind, None
    if not ends_as_picture:
        return None, None
    if not head:
        return None, "empty file"
    if ending in _REFUSED_ENDINGS:
        return None, f"{ending.decode().upper()} is not a format that indexer opens"
    return None, "not a picture, whatever its name says"


def _is_more_than_text(head: bytes, kind: str) -> bool:
    """Short magic numbers also begin notes on BMWs, on WEBP, and on P1 to P6."""
    if kind == "BMP":
        return head[6:10] == b"\0\0\0\0"
    if kind == "WEBP":
        return head.startswith(b"RIFF")
    return kind != "PPM" or head[2:3] == b"#" or not head[3:4].isalpha()


@contextmanager
def _opened(path: bytes) -> Iterator[tuple[int, os.stat_result]]:
    """The descriptor of a regular file, to be read, and its status; OSError for what has taken its place."""
    file = os.open(path, _OPEN_FLAGS)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file any more")
        yield file, status
    finally:
        os.close(file)


def _read_all(file: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def why(error: OSError, verb: str = "read") -> str:
    """The reason in words that a person understands."""
    if isinstance(error, PermissionError):
        return f"no permission to {verb} it"
    if isinstance(error, FileNotFoundError):
        return "vanished before it was looked at"
    return f"the system could not {verb} it ({error.strerror or error})"
