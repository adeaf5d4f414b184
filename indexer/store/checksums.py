"""One idea of a checksum for everything that is stored: the CRC-32 of its parts, one after the other.

SQLite does not notice a flipped bit in a row, so every row that costs work to make again carries one.
Source: zlib.crc32, which is that of ISO 3309 and PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

from ..records import Stamp

_LABEL, _PLACE = struct.Struct("<qd"), struct.Struct("<4q")


def checksum(*parts: bytes) -> int:
    """CRC-32 of some bytes and what follows them."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def of_content(sha256: bytes, size: int, values: Sequence[object]) -> int:
    """Of a row of `contents`: the digest, then as text the bytes, width, height, format, taken, camera, shown, holds.

    The last two are left out where they are unknown: format 1 had neither, format 2 not the last.
    """
    values = [*values[:-2], *(value for value in values[-2:] if value is not None)]
    return checksum(sha256, "".join([f"\0{value}" for value in (size, *values)]).encode())


def of_labels(sha256: bytes, labels: Iterable[tuple[int, float]]) -> int:
    """Of the `labels` of one content and model: the digest, then (int64 class, float64 probability) by rank."""
    return checksum(sha256, b"".join([_LABEL.pack(index, probability) for index, probability in labels]))


def of_decision(digests: bytes, decided_ns: int) -> int:
    """Of a row of `decisions`: the digests, then (int64) the time."""
    return checksum(digests, struct.pack("<q", decided_ns))


def of_image(sha256: bytes, root_id: int, path: bytes, stamp: Stamp) -> int:
    """Of a row of `images`: its content's digest, then (int64) root, size, mtime and ctime, then the path."""
    return checksum(sha256, _PLACE.pack(root_id, *stamp) + path)
