"""Images, what is known of them, and the contents they hold."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import ImageRecord, Label
from . import filters
from .connection import CHUNK, IN_ONE_STATEMENT, Connection, in_parts
from .rows import Ids, Passing, StoredModel, has_vector
from .sqlite_errors import missing, translated

_IMAGE = (
    "images.id, content_id, roots.path, images.path, "
    "sha256, bytes, width, height, format, taken, camera, mtime_ns, shown, holds "
    "FROM images JOIN roots ON roots.id = root_id JOIN contents ON contents.id = content_id"
)


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Reads them. Iterates over every image, ordered by path."""

    db: Connection

    def content_of(self, sha256: bytes) -> int | None:
        """The id of the content with these bytes."""
        row = self.db.row("SELECT id FROM contents WHERE sha256 = ?", [sha256])
        return row[0] if row else None

    def place_of(self, full: bytes) -> tuple[int, int] | None:
        """(image id, content id) of the image at an absolute path."""
        for root, root_id in self.db.rows("SELECT path, id FROM roots"):
            if not isinstance(root, bytes):
                raise missing(self.db.path)
            if place := _below(root, full):
                row = self.db.row(
                    "SELECT id, content_id FROM images WHERE root_id = ? AND path = ?", [root_id, place[1]]
                )
                if row:
                    return row[0], row[1]
        return None

    def where(self, condition: str | None, label: str | None) -> Passing | None:
        """What a filter lets through, None without a filter.

        Raises InvalidArgument for a condition that is none, or a label that the model does not know.
        """
        with translated(self.db.path):
            pairs = filters.images_where(self.db.sqlite, condition) if condition is not None else None
            labelled = filters.images_labelled(self.db.sqlite, label) if label is not None else None
        if labelled is not None:
            pairs = labelled if pairs is None else pairs[np.isin(pairs[:, 1], labelled[:, 1])]
        return None if pairs is None else Passing(_ascending(pairs[:, 0]), _ascending(pairs[:, 1]))

    def of(self, contents: Sequence[int]) -> dict[int, list[int]]:
        """Content id -> ids of its images."""
        found: dict[int, list[int]] = {}
        sql = "SELECT content_id, id FROM images WHERE content_id IN ({}) ORDER BY content_id, id"
        for content, image in self.db.rows_in(sql, contents):
            found.setdefault(content, []).append(image)
        return found

    def paths_of(self, contents: Sequence[int]) -> dict[int, list[str]]:
        """Content id -> absolute paths of its images."""
        found: dict[int, list[str]] = {}
        sql = (
            "SELECT content_id, roots.path, images.path FROM images JOIN roots ON roots.id = root_id "
            "WHERE content_id IN ({}) ORDER BY content_id, images.id"
        )
        for content, root, path in self.db.rows_in(sql, contents):
            found.setdefault(content, []).append(os.fsdecode(os.path.join(root, path)))
        return found

    def repeated(self, model: StoredModel) -> list[int]:
        """Contents that more than one image holds, of those with a vector of the model."""
        sql = (
            f"SELECT content_id FROM images WHERE {has_vector('images.content_id')} "
            "GROUP BY content_id HAVING count(*) > 1 ORDER BY content_id"
        )
        return [number for (number,) in self.db.rows(sql, [model.row])]

    def digests(self, image_ids: Sequence[int]) -> dict[int, bytes]:
        """Image id -> SHA-256 of its content."""
        sql = "SELECT images.id, sha256 FROM images JOIN contents ON contents.id = content_id WHERE images.id IN ({})"
        return dict(self.db.rows_in(sql, image_ids))

    def count_in(self, root_id: int) -> int:
        """Images of a root."""
        return int(self.db.one("SELECT count(*) FROM images WHERE root_id = ?", [root_id]))

    def __iter__(self) -> Iterator[ImageRecord]:
        """By root, then path."""
        for block in self.blocks(IN_ONE_STATEMENT):
            for _, image in block:
                yield image

    def blocks(self, size: int) -> Iterator[list[tuple[int, ImageRecord]]]:
        """Every image with the id of its content, by root, then path, in blocks of some size."""
        for part in in_parts(self.db.rows(f"SELECT {_IMAGE} ORDER BY roots.path, images.path"), size):
            records = self._records(part)
            yield [(row[1], records[row[0]]) for row in part]

    def after(self, full: bytes, count: int, passing: Ids | None = None) -> list[ImageRecord]:
        """The next images beyond an absolute path, in the order of iteration. passing: the only ones, ascending ids."""
        with closing(self._ids_after(full, passing)) as found:
            ids = list(islice(found, count))
        records = self.by_id(ids)
        return [records[image] for image in ids]

    def _ids_after(self, full: bytes, passing: Ids | None) -> Generator[int, None, None]:
        roots = self.db.all("SELECT path, id FROM roots ORDER BY path")
        if not all(isinstance(root, bytes) for root, _ in roots):
            raise missing(self.db.path)
        last, within = next((place for root, _ in roots if (place := _below(root, full))), (full, b""))
        for root, root_id in roots:
            if root < last:
                continue
            sql = "SELECT id FROM images WHERE root_id = ? AND path > ? ORDER BY path"
            for part in in_parts(self.db.rows(sql, [root_id, within if root == last else b""]), CHUNK):
                ids = np.array(part, np.int64)[:, 0]
                yield from (ids if passing is None else ids[_among(ids, passing)]).tolist()

    def by_id(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Image id -> record; for ids of this state of the catalog. Raises CatalogDamaged where one is not whole."""
        found = self._those(ids)
        if len(found) < len(set(ids)):
            raise missing(self.db.path)
        return found

    def _those(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        return self._records(list(self.db.rows_in(f"SELECT {_IMAGE} WHERE images.id IN ({{}})", ids)))

    def at(self, full: bytes) -> ImageRecord | None:
        """The image at an absolute path."""
        place = self.place_of(full)
        return self._those([place[0]]).get(place[0]) if place else None

    def _records(self, rows: list[Any]) -> dict[int, ImageRecord]:
        labels = self.labels_of([row[1] for row in rows])
        records = {}
        for image, content, root, path, digest, size, width, height, format, taken, camera, modified, *seen in rows:
            if not all(isinstance(value, bytes) for value in (root, path, digest)):
                raise missing(self.db.path)
            full = os.fsdecode(os.path.join(root, path))
            found = labels.get(content, ())
            records[image] = ImageRecord(
                full, digest.hex(), size, width, height, format, taken, camera, found, modified, *seen
            )
        return records

    def labels_of(self, contents: Sequence[int]) -> dict[int, tuple[Label, ...]]:
        """Content id -> its labels by the current model, best first."""
        found: dict[int, tuple[Label, ...]] = {}
        sql = (
            "SELECT content_id, description, labels.class, probability FROM labels "
            "JOIN models ON models.id = labels.model_id AND current = 1 "
            "JOIN classes ON classes.model_id = labels.model_id AND classes.class = labels.class "
            "WHERE content_id IN ({}) ORDER BY content_id, rank"
        )
        for content, text, index, probability in self.db.rows_in(sql, contents):
            found[content] = (*found.get(content, ()), Label(text, index, probability))
        return found


def _below(root: bytes, full: bytes) -> tuple[bytes, bytes] | None:
    """The root, and a path as seen from there; None for one that lies elsewhere."""
    prefix = root.rstrip(b"/") + b"/"
    return (root, full[len(prefix) :]) if full.startswith(prefix) else None


def _among(ids: Ids, passing: Ids) -> npt.NDArray[np.bool_]:
    """Which of some ids pass. passing: ascending, so that it need not be gone through."""
    if not len(passing):
        return np.zeros(len(ids), np.bool_)
    marked: npt.NDArray[np.bool_] = passing[np.searchsorted(passing, ids).clip(max=len(passing) - 1)] == ids
    return marked


def _ascending(ids: Ids) -> Ids:
    """In order, each once. np.unique() hashes, which takes fifty times as long for half a million."""
    ordered = np.sort(ids)
    each: Ids = ordered[np.diff(ordered, prepend=-1) != 0]
    return each
