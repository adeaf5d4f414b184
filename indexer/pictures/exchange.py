"""How a decoding process and its parent speak: lines of JSON through pipes, raw bytes in memory that they share."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

# bytes of the line that begins a request or an answer
MAX_LINE = 1 << 16


def send(pipe: IO[bytes], message: dict[str, Any]) -> None:
    """One line of JSON."""
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def receive(pipe: IO[bytes]) -> dict[str, Any]:
    """One line of JSON. Raises EOFError at the end, ValueError and others for what is no message."""
    line = pipe.readline(MAX_LINE)
    if not line:
        raise EOFError
    message: dict[str, Any] = json.loads(line)
    return message


def shared_memory() -> int:
    """A file in memory that has no name: nothing of it stays when its processes are gone, however they end.

    It is read and written, not mapped: one that is cut short by a worker that was taken over gives too few bytes, where
    a mapping would end this process.
    """
    if sys.platform == "linux":
        return os.memfd_create("indexer")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def put(shared: int, data: bytes, place: int = 0) -> int:
    """Write it; returns its length. Raises OSError where there is no room."""
    if os.pwrite(shared, data, place) != len(data):
        raise OSError("there is no room for it")
    return len(data)


def take_into(shared: int, rooms: Sequence[bytearray | memoryview]) -> None:
    """Fill one room after the other with its first bytes, in one go. Raises ValueError where there are fewer."""
    size = sum(memoryview(room).nbytes for room in rooms)
    if size and os.preadv(shared, rooms, 0) != size:
        raise ValueError(size)


def take(shared: int, size: int) -> bytes:
    """Read its first bytes. Raises ValueError where there are fewer."""
    data = os.pread(shared, size, 0)
    if len(data) != size:
        raise ValueError(len(data))
    return data
