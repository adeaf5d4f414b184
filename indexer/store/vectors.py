"""A vector as a blob and back: little-endian float16, then a CRC-32 over it and its content's digest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..halves import Half, have_direction, unit
from .checksums import checksum

CHECKSUM_BYTES = 4
STORED = np.dtype("<f2")
# the CRC-32 of anything that is followed by its own CRC-32: so a blob is checked whole, without a copy of its parts
_RESIDUE = 0x2144DF1C


def pack(rows: Sequence[npt.NDArray[np.float32]], digests: Sequence[bytes]) -> list[bytes]:
    """The blobs of some vectors. A digest goes into the checksum, so that a blob in another's row is found out.

    Raises ValueError for a vector without a direction, which must never enter the store.
    """
    # numpy.stack would let other threads run at every row, and wait for them
    stacked = np.frombuffer(b"".join([row.data for row in rows]), np.float32).reshape(len(rows), len(rows[0]))
    if not have_direction(stacked).all():
        raise ValueError("a vector that is zero or not finite cannot be stored")
    halves = [half.tobytes() for half in stacked.astype(STORED)]
    return [half + _checksum(half, digest) for half, digest in zip(halves, digests, strict=True)]


def size_of(dim: int) -> int:
    """Bytes of a blob."""
    return dim * STORED.itemsize + CHECKSUM_BYTES


def unpack(blobs: Sequence[bytes], digests: Sequence[bytes], dim: int) -> tuple[Half, list[int]]:
    """Vectors of blobs, (N, dim) float16, and the places of those that are damaged.

    Float16 rounds the length of a unit vector by up to 0.05 %: halves.unit() puts it right, so that score 1 means same.
    """
    size = size_of(dim)
    damaged = [i for i, (blob, digest) in enumerate(zip(blobs, digests, strict=True)) if not intact(blob, digest, size)]
    sound = [bytes(size) if i in set(damaged) else blob for i, blob in enumerate(blobs)] if damaged else blobs
    rows = np.frombuffer(b"".join(sound), np.uint8).reshape(-1, size)[:, :-CHECKSUM_BYTES]
    return np.ascontiguousarray(rows).view(STORED).reshape(-1, dim), damaged


def as_stored(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a search would compare: a picture that was never stored is compared as if it were."""
    return unit(vectors.astype(STORED))


def intact(blob: bytes, sha256: bytes, size: int) -> bool:
    """Whether a blob of so many bytes is what was written for this content."""
    return len(blob) == size and checksum(sha256, blob) == _RESIDUE


def _checksum(data: bytes, sha256: bytes) -> bytes:
    return checksum(sha256, data).to_bytes(CHECKSUM_BYTES, "little")
