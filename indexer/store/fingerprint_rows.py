"""What tells copies from pictures that are merely alike: a hash of the pixels, and a signature, for each content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import CatalogDamaged
from ..records import Fingerprint
from . import checksums
from .connection import CHUNK, Connection, in_parts


@dataclass(frozen=True, slots=True)
class FingerprintRows:
    """Reads them."""

    db: Connection

    def of(self, contents: Sequence[int]) -> dict[int, Fingerprint]:
        """Content id -> fingerprint. Raises CatalogDamaged for one that is not as it was written."""
        sql = (
            "SELECT content_id, pixels, signature, fingerprints.checksum, sha256 FROM fingerprints "
            "JOIN contents ON contents.id = content_id WHERE content_id IN ({})"
        )
        found = {}
        for number, pixels, signature, checksum, digest in self.db.rows_in(sql, contents):
            if checksums.checksum(digest, pixels, signature) != checksum:
                raise CatalogDamaged(
                    f"A fingerprint in {self.db.path} is damaged. Find and mend it with: indexer verify --repair."
                )
            found[number] = Fingerprint(pixels, signature)
        return found

    def same_pixels(self) -> list[tuple[int, ...]]:
        """Contents of different bytes that show the same picture: their ids by digest, one tuple a picture."""
        rows = self.db.rows(
            "SELECT pixels, content_id FROM fingerprints JOIN contents ON contents.id = content_id WHERE pixels IN "
            "(SELECT pixels FROM fingerprints GROUP BY pixels HAVING count(*) > 1) ORDER BY pixels, sha256"
        )
        return [tuple(number for _, number in same) for _, same in groupby(rows, key=lambda row: row[0])]

    def contents_by(self, key: Literal["pixels", "sha256"]) -> Iterator[tuple[bytes, int]]:
        """What every content shows, or its digest, and the content, ordered."""
        if key == "pixels":
            return self.db.rows("SELECT pixels, content_id FROM fingerprints ORDER BY pixels, content_id")
        return self.db.rows("SELECT sha256, id FROM contents ORDER BY sha256")

    def signatures(self) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Contents by digest and their signatures as they are stored, (N, bytes), in blocks."""
        rows = self.db.rows(
            "SELECT content_id, signature FROM contents JOIN fingerprints ON content_id = contents.id ORDER BY sha256"
        )
        for part in in_parts(rows, CHUNK):
            numbers, blobs = zip(*part, strict=True)
            yield list(numbers), np.frombuffer(b"".join(blobs), np.uint8).reshape(len(blobs), -1)
