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
from .rows import StoredModel, has_vector


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

    def same_pixels(self, model: StoredModel) -> list[tuple[int, ...]]:
        """Contents of different bytes that show the same picture: their ids by digest, one tuple a picture.

        Here and in what follows only contents with a vector of the model count: a change of models may be half done.
        """
        rows = self.db.rows(
            "SELECT pixels, content_id FROM fingerprints JOIN contents ON contents.id = content_id WHERE pixels IN "
            f"(SELECT pixels FROM fingerprints GROUP BY pixels HAVING count(*) > 1) AND {has_vector('contents.id')} "
            "ORDER BY pixels, sha256",
            [model.row],
        )
        alike = (tuple(number for _, number in same) for _, same in groupby(rows, key=lambda row: row[0]))
        return [same for same in alike if len(same) > 1]

    def contents_by(self, key: Literal["pixels", "sha256"], model: StoredModel) -> Iterator[tuple[bytes, int]]:
        """What every content shows, or its digest, and the content, ordered."""
        table, content = ("fingerprints", "content_id") if key == "pixels" else ("contents", "id")
        where = has_vector(f"{table}.{content}")
        sql = f"SELECT {key}, {content} FROM {table} WHERE {where} ORDER BY {key}, {content}"
        return self.db.rows(sql, [model.row])

    def signatures(self) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Contents by digest and their signatures as they are stored, (N, bytes), in blocks."""
        rows = self.db.rows(
            "SELECT content_id, signature FROM contents JOIN fingerprints ON content_id = contents.id ORDER BY sha256"
        )
        for part in in_parts(rows, CHUNK):
            numbers, blobs = zip(*part, strict=True)
            yield list(numbers), np.frombuffer(b"".join(blobs), np.uint8).reshape(len(blobs), -1)
