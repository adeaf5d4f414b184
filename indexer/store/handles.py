"""Reading a database's file beside SQLite without taking its locks away.

POSIX locks belong to a process and a file: when any descriptor of a file is closed, every lock of the process on it is
gone. SQLite then holds none, another process takes itself for the last user, and deletes the log that this one goes on
writing to. So there is one descriptor for all, which is kept for as long as a Store of this process has the file open.
Source: https://www.sqlite.org/howtocorrupt.html, 2.2.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Inode = tuple[int, int]

_guard = threading.Lock()
_users: Counter[Inode] = Counter()
_kept: dict[Inode, list[int]] = {}


def hold(path: Path, *, making: bool = False) -> Inode:
    """Note that a file is about to be opened; it is made where it is missing. Raises OSError."""
    with _guard:
        inode = _inode(os.stat(path)) if path.exists() or not making else None
        if inode is None or inode not in _users:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_CREAT if making else 0), 0o644)
            inode = _inode(os.fstat(handle))
            _kept.setdefault(inode, []).append(handle)
        _users[inode] += 1
        return inode


def let_go(inode: Inode) -> None:
    """Note that it has been closed; the last one closes the descriptor."""
    with _guard:
        _users[inode] -= 1
        if not _users[inode]:
            del _users[inode]
            for handle in _kept.pop(inode):
                os.close(handle)


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """A descriptor to read a file with, at a place of one's own (os.pread)."""
    inode = hold(path)
    try:
        yield _kept[inode][0]
    finally:
        let_go(inode)


def inode_of(path: Path) -> Inode | None:
    """Which file is at a path now, None for none."""
    try:
        return _inode(os.stat(path))
    except OSError:
        return None


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino
