"""The vectors of a model as they are stored, each checked against its checksum when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import CatalogDamaged
from . import vectors
from .connection import CHUNK, IN_ONE_STATEMENT, Connection, in_parts
from .rows import Ids, StoredModel, Vectors
from .sqlite_errors import translated

# so many are looked up one by one; for more it is quicker to read about all of them
FEW_CONTENTS = 100_000

# ids of vectors, the content of each, and the vectors, (N, dim)
Block: TypeAlias = tuple[Ids, list[int], Vectors]


@dataclass(frozen=True, slots=True)
class VectorRows:
    """Reads them. Raises CatalogDamaged for one that is not as it was written."""

    db: Connection

    def of_content(self, content_id: int, model: StoredModel) -> Vectors | None:
        """One content's vector, (dim,), or None where it has none."""
        _, _, rows = self.of([content_id], model)
        return rows[0] if len(rows) else None

    def by_id(self, ids: Sequence[int], model: StoredModel) -> Block:
        """Vector ids that exist, the content of each, and the vectors, (N, dim)."""
        return self._where("vectors.id", ids, model)

    def of(self, contents: Sequence[int], model: StoredModel) -> Block:
        """The same for contents."""
        return self._where("vectors.content_id", contents, model)

    def ids_of(self, contents: Ids, model: StoredModel) -> Ids:
        """Ids of the vectors of some contents, of thousands or millions."""
        if len(contents) <= FEW_CONTENTS:
            sql = "SELECT id FROM vectors WHERE content_id IN ({}) AND model_id = " + str(int(model.row))
            return np.fromiter((row[0] for row in self.db.rows_in(sql, contents.tolist())), np.int64)
        ids, of = self.every(model)
        return ids[np.isin(of, contents)]

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

    def halves(
        self, model: StoredModel, without: frozenset[int] = frozenset()
    ) -> tuple[list[int], npt.NDArray[np.float16]]:
        """Every content with a vector of the model, ordered by digest, and the vectors as they are stored, (N, dim).

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
            unpacked, damaged = vectors.unpack_half(blobs, digests, model.id.dim)
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

    def _where(self, column: str, values: Sequence[int], model: StoredModel) -> Block:
        sql = (
            "SELECT vectors.id, content_id, vector, sha256 FROM vectors "
            f"JOIN contents ON contents.id = content_id WHERE model_id = ? AND {column} IN ({{}})"
        )
        rows = self.db.rows_in(sql, values, [model.row])
        return _joined([self._unpacked(part, model) for part in in_parts(rows, IN_ONE_STATEMENT)], model.id.dim)

    def _unpacked(self, rows: list[Any], model: StoredModel) -> Block:
        ids, contents, blobs, digests = zip(*rows, strict=True)
        unpacked, damaged = vectors.unpack(blobs, digests, model.id.dim)
        self._refuse_damaged(damaged)
        return np.array(ids, np.int64), list(contents), unpacked

    def span(self, model: StoredModel) -> tuple[int, int]:
        """How many vectors the model has, and their highest id."""
        count, last = self.db.row("SELECT count(*), max(id) FROM vectors WHERE model_id = ?", [model.row]) or (0, 0)
        return count, last or 0

    def count_after(self, model: StoredModel, last: int) -> int:
        """How many vectors of the model have an id above `last`."""
        return int(self.db.one("SELECT count(*) FROM vectors WHERE model_id = ? AND id > ?", [model.row, last]))


def _joined(blocks: Sequence[Block], dim: int) -> Block:
    if not blocks:
        return np.empty(0, np.int64), [], np.empty((0, dim), np.float32)
    return (
        np.concatenate([ids for ids, _, _ in blocks]),
        [content for _, contents, _ in blocks for content in contents],
        np.concatenate([rows for _, _, rows in blocks]),
    )
