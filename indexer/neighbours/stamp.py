"""What an index file says of itself, and whether it is what was written.

The file begins as faiss's own index of all rows in float16, bit for bit those of the store, which is exact search. Then
come the ids of the vectors, those of their contents, and a checksum of each row with its ids, so that a row is known to
be what the store held. In a large collection what nominates candidates to compare follows (see nominator.py), and then
a stamp: a line of JSON, its CRC-32 and its length (4 bytes each, little-endian) and MAGIC. A file whose stamp is off is
not used. Files are never changed, and the store names the one that goes with it: an index of another past of a catalog
is none of its own.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..files import changing, remove_left_over
from .choosing import FLAT

MAGIC = b"IDXNBRS4"
PATTERN = "neighbours-*.faiss"
_TRAILER = 4 + 4 + len(MAGIC)
_BLOCK = 1 << 24
# a checksum that takes longer than 50 ms is not worth its time at every opening; crc32 runs at some GB/s
_CHECKED_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an index file says of itself.

    name: by which the store knows it. kind: FLAT or a factory string. covered: vectors in it. last: the highest
    vector id that there was, of any model. recall: as measured; effort, depth: how to search for it; usual: the
    score of a tenth neighbour below which a query is unusual, see NeighbourIndex.nominate(), None where that is not
    asked; fit: see Nominator.fit(). trained: vectors when it was trained. rows, ids, lists, structure: where the
    parts begin. bytes, crc32: of all parts. guard: CRC-32 of what a search follows blindly, see _guarded().
    """

    name: str
    model: str
    kind: str
    dim: int
    covered: int
    last: int
    recall: float
    target: float = 1.0
    effort: int = 0
    depth: int = 0
    usual: float | None = None
    fit: float = 1.0
    trained: int = 0
    rows: int = 0
    ids: int = 0
    lists: int = 0
    structure: int = 0
    bytes: int = 0
    crc32: int = 0
    guard: int = 0


def remove_others(path: Path) -> None:
    """Delete the index files beside the current one, half-written ones too. Who has one of them open keeps it."""
    with changing(path.parent):
        for other in path.parent.glob(PATTERN):
            if other != path:
                other.unlink(missing_ok=True)
    remove_left_over(path.parent)


def path_of(folder: Path, name: str) -> Path:
    """Every index has a file of its own, so that a reader keeps the one that it has opened."""
    return folder / f"neighbours-{name}.faiss"


def find_index(folder: Path, name: str, model: str) -> tuple[Path, Stamp] | None:
    """The index file of a name, if its stamp is sound and of a model. Reads a few bytes, imports no faiss."""
    path = path_of(folder, name)
    stamp = read_stamp(path)
    return (path, stamp) if stamp and (stamp.name, stamp.model) == (name, model) else None


def is_sound(path: Path, stamp: Stamp) -> bool:
    """Whether all that comes before the stamp is what was written, and can be read."""
    try:
        return _checksum(path, (0, stamp.bytes)) == stamp.crc32
    except OSError:
        return False


def is_usable(path: Path, stamp: Stamp, *, checked: bool = False) -> bool:
    """Whether an index file may be searched.

    checked: read it all to see, also where that takes longer than opening should. Otherwise only what is guarded is
    read of a large one: what may be wrong then has no worse end than a neighbour that is missed.
    """
    if checked or stamp.bytes <= _CHECKED_BYTES:
        return is_sound(path, stamp)
    try:
        return _checksum(path, *_guarded(stamp)) == stamp.guard
    except OSError:
        return False


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of an index file, None where the file is cut, foreign or damaged at its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 4096, 0))
            tail = file.read()
    except (OSError, ValueError):  # a name with zeros in it
        return None
    end = len(tail) - _TRAILER
    if end < 0 or not tail.endswith(MAGIC):
        return None
    length = int.from_bytes(tail[end + 4 : end + 8], "little")
    text = tail[max(end - length, 0) : end]
    if len(text) != length or zlib.crc32(text).to_bytes(4, "little") != tail[end : end + 4]:
        return None
    try:
        stamp = Stamp(**json.loads(text))
    except (TypeError, ValueError):  # of an indexer that stamps otherwise: the next build makes it anew
        return None
    return stamp if stamp.bytes + length + _TRAILER == size else None


def append_stamp(path: Path, stamp: Stamp) -> Stamp:
    """End an index file with its stamp. Returns the stamp, filled in."""
    size = path.stat().st_size
    finished = replace(stamp, bytes=size, crc32=_checksum(path, (0, size)))
    finished = replace(finished, guard=_checksum(path, *_guarded(finished)))
    text = json.dumps(asdict(finished)).encode() + b"\n"
    with path.open("ab") as file:
        file.write(text + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little") + MAGIC)
    return finished


def _guarded(stamp: Stamp) -> list[tuple[int, int]]:
    """Where the header of the rows is, and the structure with the sizes of its lists: beginnings and ends."""
    header = (0, stamp.rows)
    return [header] if stamp.kind == FLAT else [header, (stamp.structure, stamp.bytes)]


def _checksum(path: Path, *parts: tuple[int, int]) -> int:
    """CRC-32 of some parts of a file, one after the other."""
    checksum = 0
    with path.open("rb") as file:
        for start, end in parts:
            file.seek(start)
            while start < end and (block := file.read(min(end - start, _BLOCK))):
                checksum = zlib.crc32(block, checksum)
                start += len(block)
    return checksum
