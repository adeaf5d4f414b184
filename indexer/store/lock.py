"""One builder at a time. The lock is the kernel's, so that of a process that died is free at once."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CatalogError, CatalogLocked
from ..files import changing, require_local

FILE = "build.lock"
_RETRY_SECONDS = 0.2


@contextmanager
def building(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a catalog's lock; with wait, for as long as it takes to get it.

    Raises CatalogLocked, naming the holder, and CatalogError on a network file system.
    """
    require_local(folder)
    try:
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CatalogError(f"{folder} cannot be written ({error.strerror}). Choose another with --catalog.") from error
    try:
        with changing(folder / FILE):
            _acquire(handle, folder, wait)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):  # the lock is the kernel's; the name is for people
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # which lets the lock go


def vouch(folder: Path) -> None:
    """Note, while holding the lock, that what earlier builds have left was checked: readers need not do so again."""
    path = folder / FILE
    with suppress(OSError, ValueError):  # then they do
        text = json.dumps({**json.loads(path.read_text()), "checked": True})
        with path.open("r+b", buffering=0) as file:  # never empty: whoever is refused meanwhile wants to know by whom
            file.write(text.encode())
            file.truncate()


def vouched(folder: Path) -> bool:
    """Whether a build that is running on this machine has done so."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads((folder / FILE).read_text())
        if holder["checked"] and holder["host"] == socket.gethostname():
            os.kill(holder["pid"], 0)  # raises where there is no such process
            return True
    return False


def _acquire(handle: int, folder: Path, wait: bool) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait:
                raise CatalogLocked(_refusal(handle, folder)) from None
            time.sleep(_RETRY_SECONDS)


def _refusal(handle: int, folder: Path) -> str:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"The catalog {folder} is being built by {who}. Wait for it with --wait, or stop that process."
