"""The vectors of a model, as they are stored, each checked against its checksum when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from ..errors import CatalogDamaged
from ..halves import Half, unit
from . import vectors
from .connection import CHUNK, IN_ONE_STATEMENT, Connection, in_parts
from .rows import Ids, StoredModel, Vectors
from .sqlite_errors import translated

# ids of vectors, the content of each, and the vectors as they are stored, (N, dim)
Block: TypeAlias = tuple[Ids, Ids, Half]


@dataclass(frozen=True, slots=True)
class VectorRows:
    """Reads them. Raises CatalogDamaged for one that is not as it was written."""

    db: Connection

    def of_content(self, content_id: int, model: StoredModel) -> Vectors | None:
        """One content's vector, (dim,), or None where it has none."""
        _, _, rows = self.of([content_id], model)
        return unit(rows)[0] if len(rows) else None

    def of(self, contents: Sequence[int], model: StoredModel) -> Block:
        """The vectors of those contents that have one."""
        sql = (
            "SELECT vectors.id, content_id, vector, sha256 FROM vectors "
            "JOIN contents ON contents.id = content_id WHERE model_id = ? AND content_id IN ({})"
        )
        rows = self.db.rows_in(sql, contents, [model.row])
        return _joined([self._unpacked(part, model) for part in in_parts(rows, IN_ONE_STATEMENT)], model.id.dim)

    def living(self, contents: Ids, model: StoredModel) -> Ids:
        """Ids of the vectors of some contents; nothing else is read of them."""
        sql = "SELECT id FROM vectors WHERE model_id = ? AND content_id IN ({})"
        return np.fromiter((row[0] for row in self.db.rows_in(sql, contents.tolist(), [model.row])), np.int64)

    def every(self, model: StoredModel) -> tuple[Ids, Ids]:
        """Ids of all vectors of the model, ascending, and the content of each."""
        with translated(self.db.path):  # not rows(): millions of rows go this way
            # unordered, this is read from an index; ordered, SQLite would go through the table, vectors and all
            rows = self.db.sqlite.execute("SELECT id, content_id FROM vectors WHERE model_id = ?", [model.row])
            pairs = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0])]
        return pairs[:, 0], pairs[:, 1]

    def blocks(self, model: StoredModel, after: int = 0) -> Iterator[Block]:
        """Every vector of the model with an id above `after`, in blocks ordered by id: ids, contents, (N, dim)."""
        while True:
            sql = (
                "SELECT vectors.id, content_id, vector, sha256 FROM vectors "
                "JOIN contents ON contents.id = content_id WHERE vectors.id > ? AND model_id = ? "
                "ORDER BY vectors.id LIMIT ?"
            )
            rows = self.db.all(sql, [after, model.row, CHUNK])
            if not rows:
                return
            yield self._unpacked(rows, model)
            after = rows[-1][0]

    def by_digest(self, model: StoredModel, without: frozenset[int] = frozenset()) -> tuple[list[int], Half]:
        """Every content with a vector of the model, ordered by digest, and the vectors, (N, dim).

        without: contents that are left out.
        """
        rows = self.db.rows(
            "SELECT content_id, vector, sha256 FROM vectors JOIN contents ON contents.id = content_id "
            "WHERE model_id = ? ORDER BY sha256",
            [model.row],
        )
        contents: list[int] = []
        halves = np.empty((self.span(model)[0], model.id.dim), np.float16)  # no page is real until it is filled
        for part in in_parts(rows, CHUNK):
            numbers, blobs, digests = zip(*part, strict=True)
            unpacked, damaged = vectors.unpack(blobs, digests, model.id.dim)
            self._refuse_damaged(damaged)
            chosen = [i for i, number in enumerate(numbers) if number not in without]
            halves[len(contents) : len(contents) + len(chosen)] = unpacked[chosen]
            contents.extend(numbers[i] for i in chosen)
        return contents, halves[: len(contents)]

    def _refuse_damaged(self, damaged: list[int]) -> None:
        if damaged:
            raise CatalogDamaged(
                f"{len(damaged)} vectors in {self.db.path} are damaged. "
                "Find and mend them with: indexer verify --repair."
            )

    def _unpacked(self, rows: list[Any], model: StoredModel) -> Block:
        ids, contents, blobs, digests = zip(*rows, strict=True)
        unpacked, damaged = vectors.unpack(blobs, digests, model.id.dim)
        self._refuse_damaged(damaged)
        return np.array(ids, np.int64), np.array(contents, np.int64), unpacked

    def span(self, model: StoredModel) -> tuple[int, int]:
        """How many vectors the model has, and the highest id of all vectors, also those of other models.

        What comes after that is found at once; after the model's own highest id, other models' might be gone through.
        """
        sql = "SELECT count(*), (SELECT max(id) FROM vectors) FROM vectors WHERE model_id = ?"
        count, last = self.db.row(sql, [model.row]) or (0, 0)
        return count, last or 0

    def count_after(self, model: StoredModel, last: int) -> int:
        """How many vectors of the model have an id above `last`."""
        return int(self.db.one("SELECT count(*) FROM vectors WHERE model_id = ? AND id > ?", [model.row, last]))


def _joined(blocks: Sequence[Block], dim: int) -> Block:
    if not blocks:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, dim), np.float16)
    ids, contents, rows = zip(*blocks, strict=True)
    return np.concatenate(ids), np.concatenate(contents), np.concatenate(rows)
