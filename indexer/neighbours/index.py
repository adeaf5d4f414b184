"""The neighbour index: one FAISS file that can be thrown away and rebuilt from the store. The one door to faiss.

It nominates; scores are always computed from the stored vectors. The file is faiss's own, followed by a stamp: a line
of JSON, its CRC-32 and its length (4 bytes each, little-endian) and MAGIC. The stamp says which vectors are covered,
and of which catalog and model; a file whose stamp is off is not used. Files are never changed: a new one takes the old
one's place.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CatalogError
from ..files import changing, replacement

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

MAGIC = b"IDXNBRS1"
PATTERN = "neighbours-*.faiss"
_TRAILER = 4 + 4 + len(MAGIC)
_BLOCK = 1 << 24
# a checksum that takes longer than 50 ms is not worth its time at every opening; crc32 runs at some GB/s
_CHECKED_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an index file says of itself.

    covered: vectors in it. last: the highest vector id that it was built from. bytes, crc32: of faiss's part.
    """

    catalog: str
    model: str
    kind: str
    dim: int
    covered: int
    last: int
    recall: float
    bytes: int = 0
    crc32: int = 0


class NeighbourIndex:
    """An open index file."""

    def __init__(self, index: Any, stamp: Stamp) -> None:
        """Use open_index()."""
        self._index = index
        self.stamp = stamp

    def search(self, queries: Vectors, k: int, allowed: Ids | None = None) -> tuple[Vectors, Ids]:
        """The k best vector ids for each query, best first: scores (N, k) and ids (N, k).

        queries: float32, (N, dim), unit rows. allowed: the only ids that may come.
        Where there are fewer than k, the ids at the end are -1 and the scores -inf.
        """
        import faiss

        k = min(k, self.stamp.covered)
        if k < 1:
            empty = np.empty((len(queries), 0), np.float32)
            return empty, empty.astype(np.int64)
        parameters = None
        if allowed is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(allowed))  # type: ignore[call-arg]
        scores, ids = self._index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
        scores[ids < 0] = -np.inf  # faiss pads with its own idea of nothing
        return scores, ids


def write_index(folder: Path, blocks: Iterable[tuple[Ids, Vectors]], stamp: Stamp) -> Stamp:
    """Build the index of some vectors and put it in the place of an older one.

    blocks: vector ids and float32 unit rows. The stamp's sizes are filled in.
    The new file is complete and on the disk before it gets its name, so a crash leaves the old one or the new one.
    Raises CatalogError where the disk refuses, or there is not enough memory.
    """
    import faiss

    target = path_of(folder, stamp)
    try:
        flat = faiss.IndexScalarQuantizer(stamp.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexIDMap2(flat)
        for ids, rows in blocks:
            index.add_with_ids(rows, ids)
        with replacement(target) as temporary:
            # faiss's own writer does not notice when its last bytes are refused
            with temporary.open("wb") as file:
                faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
            finished = _append_stamp(temporary, stamp, index.ntotal)
    except (RuntimeError, MemoryError) as error:  # what faiss raises
        text = str(error).strip().splitlines() or ["out of memory"]
        raise CatalogError(
            f"{target} cannot be made: {text[0]}. Check the disk and the memory, and try again."
        ) from error
    remove_others(target)
    return finished


def remove_others(path: Path) -> None:
    """Delete the index files beside the current one, half-written ones too. Who has one of them open keeps it."""
    with changing(path.parent):
        for other in [*path.parent.glob(PATTERN), *path.parent.glob("neighbours-*.tmp")]:
            if other != path:
                other.unlink(missing_ok=True)


def path_of(folder: Path, stamp: Stamp) -> Path:
    """Every set of vectors has a file name of its own, so that a reader keeps the file that it has opened."""
    return folder / f"neighbours-{zlib.crc32(stamp.model.encode()):08x}-{stamp.last:012d}-{stamp.covered:012d}.faiss"


def find_index(folder: Path, catalog: str, model: str) -> tuple[Path, Stamp] | None:
    """The newest index file of a catalog and model whose stamp is sound. Reads a few bytes, imports no faiss."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        stamp = read_stamp(path)
        if stamp and stamp.catalog == catalog and stamp.model == model:
            return path, stamp
    return None


def open_index(path: Path, stamp: Stamp, *, checked: bool = False) -> NeighbourIndex | None:
    """Map an index file for searching, or None where it is damaged.

    checked: read it all to see, also where that takes longer than opening should.
    """
    import faiss

    try:
        if (checked or stamp.bytes <= _CHECKED_BYTES) and not is_sound(path, stamp):
            return None
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, OSError):  # also where a build has just put another in its place
        return None
    if index.ntotal != stamp.covered or index.d != stamp.dim:
        return None
    return NeighbourIndex(index, stamp)


def is_sound(path: Path, stamp: Stamp) -> bool:
    """Whether faiss's part of the file is what was written, and can be read."""
    try:
        return _checksum(path, stamp.bytes) == stamp.crc32
    except OSError:
        return False


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of an index file, None where the file is cut, foreign or damaged at its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 4096, 0))
            tail = file.read()
    except OSError:
        return None
    end = len(tail) - _TRAILER
    if end < 0 or not tail.endswith(MAGIC):
        return None
    length = int.from_bytes(tail[end + 4 : end + 8], "little")
    text = tail[max(end - length, 0) : end]
    if len(text) != length or zlib.crc32(text).to_bytes(4, "little") != tail[end : end + 4]:
        return None
    stamp = Stamp(**json.loads(text))
    return stamp if stamp.bytes + length + _TRAILER == size else None


def _append_stamp(path: Path, stamp: Stamp, covered: int) -> Stamp:
    size = path.stat().st_size
    finished = Stamp(**{**asdict(stamp), "covered": covered, "bytes": size, "crc32": _checksum(path, size)})
    text = json.dumps(asdict(finished)).encode() + b"\n"
    with path.open("ab") as file:
        file.write(text + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little") + MAGIC)
        file.flush()
        os.fsync(file.fileno())
    return finished


def _checksum(path: Path, size: int) -> int:
    checksum = 0
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            checksum = zlib.crc32(block, checksum)
            size -= len(block)
    return checksum
