"""Images, contents, vectors, labels and skips in one SQLite file: the truth. The one door to sqlite-utils.

Every method that changes something is one transaction; a process killed at any instant leaves the last one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from ..errors import CatalogDamaged, CatalogError, CatalogNotFound, WrongFormat
from ..files import network_file_system, require_local
from ..records import Fingerprint, ImageRecord, Label, ModelId, PictureInfo, Preprocess, Skipped, Source, Stamp
from . import checksums, filters, handles, seal, vectors
from .sqlite_errors import translated
from .survey import Survey

FILE = "catalog.sqlite"
# 'IDXR': what `file` and SQLite tools show for a catalog
APPLICATION_ID = 0x49445852
FORMAT = 2
# rows that are read at once where a whole table streams by
CHUNK = 8192
# so many are looked up one by one; for more it is quicker to read about all of them
FEW_CONTENTS = 100_000
BUSY_SECONDS = 60.0
# a reader may take its time, and a build should not wait for it: the next one seals as well
SEAL_SECONDS = 5.0
LOG_PAGES = 16384
_SQL_VARIABLES = 900  # SQLite allowed 999 in one statement for a long time

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The model that a catalog's vectors are of, and what it was loaded from."""

    row: int
    id: ModelId
    source: str


class Known(NamedTuple):
    """What the store knows of one file; it begins as a FoundFile does.

    reason None and image_id None: ignored. current: nothing is left to do.
    """

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    image_id: int | None
    reason: str | None
    current: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to store. info, fingerprint and vector are None where the content has them already.

    size: bytes. labels: (class index, probability), best first.
    """

    source: Source
    sha256: bytes
    size: int = 0
    info: PictureInfo | None = None
    fingerprint: Fingerprint | None = None
    vector: Vectors | None = None
    labels: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One file that is not indexed. reason None: it is no picture. tried_with: what would have to change."""

    source: Source
    reason: str | None
    tried_with: str


@dataclass(frozen=True, slots=True)
class Passing:
    """What a filter lets through: ids of contents and of images, both ascending, each once."""

    contents: Ids
    images: Ids


class Store:
    """An open catalog.sqlite."""

    def __init__(self, path: Path, *, readonly: bool = False, making: bool = False) -> None:
        """Use open() or create()."""
        self.path = path
        self.readonly = readonly
        with ExitStack() as undo, translated(path):
            try:
                inode = handles.hold(path, making=making)
            except OSError as error:
                raise CatalogError(
                    f"{path} cannot be opened ({error.strerror}). Check the disk and the permissions."
                ) from error
            undo.callback(handles.let_go, inode)
            self._conn = _connect_readonly(path) if readonly else _connect(path)
            undo.callback(self._conn.close)
            self._prepare(making)
            self._undo = undo.pop_all()

    def _prepare(self, making: bool) -> None:
        self._conn.create_function("image_checksum", 6, _sql_image_checksum, deterministic=True)
        self._conn.execute("PRAGMA synchronous = FULL")
        self._conn.execute("PRAGMA foreign_keys = ON")
        self._conn.execute("PRAGMA cache_size = -16384")  # KiB; more makes nothing faster
        # pages: SQLite's 1,000 would have every commit of a build also write to the file itself, and sync it
        self._conn.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if not self._is_empty():
            self._check_format()
        elif making:
            self._conn.execute("PRAGMA journal_mode = WAL")
        else:  # whoever was making it was killed before the first commit
            folder = self.path.parent
            raise CatalogNotFound(f"The catalog in {folder} was never finished. Make it: indexer build FOLDER.")
        if self.readonly:
            read_as_present(self._conn)
            self._conn.execute("PRAGMA query_only = ON")
        else:
            self._migrate()

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A new store in a folder; an existing one is opened. Raises CatalogError on a network file system."""
        require_local(folder)
        return cls(folder / FILE, making=True)

    @classmethod
    def open(cls, folder: Path, *, readonly: bool = False) -> Store:
        """The store of a folder.

        Raises CatalogNotFound, WrongFormat or CatalogDamaged.
        """
        path = folder / FILE
        if not path.is_file():
            raise CatalogNotFound(f"There is no catalog in {folder}. Make one with: indexer build FOLDER.")
        return cls(path, readonly=readonly)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds a catalog, or what is left of one."""
        return (folder / FILE).exists() or (folder / seal.FILE).exists()

    def close(self) -> None:
        """Close the file; SQLite folds its write-ahead log in."""
        self._undo.close()

    @property
    def is_sealed(self) -> bool:
        """Whether the last build has come to its end."""
        return self.path.with_name(seal.FILE).exists()

    def seal(self) -> None:
        """Note what every page of the file looks like, unless somebody is still reading an older state of it."""
        if self.is_sealed:
            return
        with translated(self.path):
            self._wait_for_others(SEAL_SECONDS)
            busy, _, _ = self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._wait_for_others(BUSY_SECONDS)
            if not busy:
                model = self.model()
                seal.make(self.path, self.roots(), model.source if model else None)

    def _wait_for_others(self, seconds: float) -> None:
        """How long to wait from now on where another process is in the way."""
        self._conn.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")

    # -- format ----------------------------------------------------------------------------------------------------

    def _is_empty(self) -> bool:
        return bool(self._one("PRAGMA schema_version") == 0)

    def _check_format(self) -> None:
        application, found = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise WrongFormat(f"{self.path} is not a catalog. Give --catalog the folder of one, or build a new one.")
        if found > FORMAT:
            raise WrongFormat(
                f"{self.path} has format {found}; this indexer knows up to {FORMAT}. "
                "Upgrade: pip install --upgrade indexer."
            )

    def _migrate(self) -> None:
        found = self.format
        if found == FORMAT:
            return
        from sqlite_utils import Database  # a tenth of a second, which most openings need not wait for

        from .migrations import migrations

        if found:
            self._copy_to(self.path.with_name(f"catalog.format-{found}.sqlite"))
        with self._writing():
            migrations.apply(Database(self._conn))
            self._conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._conn.execute(f"PRAGMA user_version = {FORMAT}")

    def _copy_to(self, target: Path) -> None:
        """A whole copy, before a migration changes anything."""
        copy = sqlite3.connect(target)
        try:
            self._conn.backup(copy)
        finally:
            copy.close()

    @property
    def format(self) -> int:
        """The number of the file's format."""
        return int(self._one("PRAGMA user_version"))

    @property
    def uuid(self) -> str:
        """Made when the catalog was created, and never changed."""
        return str(self._one("SELECT value FROM meta WHERE key = 'uuid'"))

    @property
    def generation(self) -> int:
        """How many transactions have been committed."""
        return int(self._one("SELECT value FROM meta WHERE key = 'generation'"))

    @property
    def finished(self) -> int:
        """The generation in which the last build came to its end; what is newer comes from builds that did not."""
        row = self._row("SELECT value FROM meta WHERE key = 'finished'")
        return int(row[0]) if row else 0

    # -- roots -----------------------------------------------------------------------------------------------------

    def roots(self) -> dict[bytes, int]:
        """Every root's absolute path and id."""
        return dict(self._rows("SELECT path, id FROM roots ORDER BY path"))

    def add_root(self, path: bytes) -> int:
        """The id of a new root. Roots below it become part of it: their images keep everything but their root."""
        with self._writing():
            root_id = int(self._conn.execute("INSERT INTO roots (path) VALUES (?)", [path]).lastrowid or 0)
            for below, old in self.roots().items():
                if below != path and below.startswith(path.rstrip(b"/") + b"/"):
                    prefix = below[len(path.rstrip(b"/")) + 1 :] + b"/"
                    for table in ("images", "skips"):
                        self._conn.execute(
                            f"UPDATE {table} SET root_id = ?, path = CAST(? || path AS BLOB) WHERE root_id = ?",
                            [root_id, prefix, old],
                        )
                    self._conn.execute("DELETE FROM roots WHERE id = ?", [old])
            self._conn.execute(
                "UPDATE images SET checksum = image_checksum("
                "(SELECT sha256 FROM contents WHERE id = content_id), root_id, path, size, mtime_ns, ctime_ns) "
                "WHERE root_id = ?",
                [root_id],
            )
            return root_id

    # -- the model -------------------------------------------------------------------------------------------------

    def model(self) -> StoredModel | None:
        """The model that the catalog works with, None before the first vector."""
        row = self._row(
            "SELECT id, name, weights, preprocess, dim, pooling, numerics, source FROM models WHERE current = 1"
        )
        if row is None:
            return None
        number, name, weights, preprocess, dim, pooling, numerics, source = row
        id = ModelId(name, weights, Preprocess.from_json(preprocess), dim, pooling, numerics)
        return StoredModel(number, id, source)

    def use_model(self, id: ModelId, source: str, classes: Sequence[tuple[str, str]]) -> StoredModel:
        """Make a model the current one; its row and its classes are added where they are new."""
        current = self.model()
        if current is not None and (current.id, current.source) == (id, source):
            return current
        with self._writing():
            self._conn.execute(
                "INSERT INTO models (key, name, source, weights, preprocess, pooling, numerics, dim, current) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE SET source = excluded.source",
                [id.key, id.name, source, id.weights, id.preprocess.to_json(), id.pooling, id.numerics, id.dim],
            )
            row = self._one("SELECT id FROM models WHERE key = ?", [id.key])
            self._conn.execute("UPDATE models SET current = (id = ?)", [row])
            self._conn.executemany(
                "INSERT OR IGNORE INTO classes (model_id, class, name, description) VALUES (?, ?, ?, ?)",
                [(row, index, name, text) for index, (name, text) in enumerate(classes)],
            )
        return StoredModel(row, id, source)

    # -- what a build asks -----------------------------------------------------------------------------------------

    def known(self, root_id: int, below: bytes, model: StoredModel | None, tried_with: set[str]) -> Iterator[Known]:
        """Every image, skip and ignored file of a root below a path (or that path itself), ordered by path.

        An image is current if its content has a vector of the model; a skip if nothing has changed in what it was
        tried with.
        """
        low, high = (below + b"/", below + b"0") if below else (b"", None)  # "0" follows "/"
        inside = "root_id = :root AND (path = :below OR (path >= :low AND (:high IS NULL OR path < :high)))"
        sql = f"""SELECT path, size, mtime_ns, ctime_ns, images.id, NULL, EXISTS (
                SELECT 1 FROM vectors WHERE vectors.content_id = images.content_id AND model_id = :model)
            FROM images WHERE {inside}
            UNION ALL SELECT path, size, mtime_ns, ctime_ns, NULL, reason, reason IS NULL OR tried_with IN (
                SELECT value FROM json_each(:tried_with))
            FROM skips WHERE {inside}
            ORDER BY path"""
        values = {
            "root": root_id,
            "below": below,
            "low": low,
            "high": high,
            "model": model.row if model else None,
            "tried_with": json.dumps(sorted(tried_with)),
        }
        known = partial(tuple.__new__, Known)  # what Known._make() does, at a third of its cost
        with translated(self.path):  # not _rows(): millions of rows go this way
            yield from map(known, self._conn.execute(sql, values))

    def with_vector(self, digests: Sequence[bytes], model: StoredModel | None) -> set[bytes]:
        """Those of some contents that have a vector of the model."""
        if model is None:
            return set()
        sql = (
            "SELECT sha256 FROM contents JOIN vectors ON vectors.content_id = contents.id "
            "WHERE vectors.model_id = ? AND sha256 IN ({})"
        )
        return {digest for (digest,) in self._rows_in(sql, digests, [model.row])}

    # -- what a build writes ---------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], refusals: Sequence[Refusal], model: StoredModel | None) -> None:
        """Store a stretch of files whole: contents, vectors, labels, images and skips in one transaction."""
        if not entries and not refusals:
            return
        with self._writing():
            generation = self.generation + 1
            self._insert_contents([entry for entry in entries if entry.info is not None])
            ids = dict(
                self._rows_in("SELECT sha256, id FROM contents WHERE sha256 IN ({})", [e.sha256 for e in entries])
            )
            self._insert_fingerprints(entries, ids)
            fresh = [entry for entry in entries if entry.vector is not None]
            if fresh:
                assert model is not None
                self._insert_vectors(fresh, ids, model.row)
            self._conn.executemany(
                "INSERT INTO images (root_id, path, content_id, size, mtime_ns, ctime_ns, generation, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (root_id, path) DO UPDATE SET "
                "content_id = excluded.content_id, size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "ctime_ns = excluded.ctime_ns, checksum = excluded.checksum",
                [(*_place(e.source), ids[e.sha256], *e.source.stamp, generation, _image_checksum(e)) for e in entries],
            )
            self._conn.executemany(
                "DELETE FROM skips WHERE root_id = ? AND path = ?", [_place(e.source) for e in entries]
            )
            self._conn.executemany(
                "INSERT OR REPLACE INTO skips (root_id, path, size, mtime_ns, ctime_ns, reason, tried_with) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*_place(r.source), *r.source.stamp, r.reason, r.tried_with) for r in refusals],
            )
            self._conn.executemany(
                "DELETE FROM images WHERE root_id = ? AND path = ?", [_place(r.source) for r in refusals]
            )

    def _insert_contents(self, entries: Sequence[Entry]) -> None:
        self._conn.executemany(
            "INSERT OR IGNORE INTO contents (sha256, bytes, width, height, format, taken, camera, shown, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_content(e.sha256, e.size, e.info) for e in entries if e.info],
        )

    def _insert_fingerprints(self, entries: Sequence[Entry], ids: dict[bytes, int]) -> None:
        self._conn.executemany(
            "INSERT OR IGNORE INTO fingerprints (content_id, pixels, signature, checksum) VALUES (?, ?, ?, ?)",
            [_fingerprint(ids[e.sha256], e.sha256, e.fingerprint) for e in entries if e.fingerprint],
        )

    def _insert_vectors(self, entries: Sequence[Entry], ids: dict[bytes, int], model: int) -> None:
        digests = [e.sha256 for e in entries]
        blobs = vectors.pack([e.vector for e in entries if e.vector is not None], digests)
        self._conn.executemany(
            "INSERT OR IGNORE INTO vectors (content_id, model_id, vector, labels_checksum) VALUES (?, ?, ?, ?)",
            [
                (ids[e.sha256], model, blob, checksums.of_labels(e.sha256, e.labels))
                for e, blob in zip(entries, blobs, strict=True)
            ],
        )
        self._conn.executemany(
            "INSERT OR REPLACE INTO labels (content_id, model_id, rank, class, probability) VALUES (?, ?, ?, ?, ?)",
            [
                (ids[e.sha256], model, rank, index, probability)
                for e in entries
                for rank, (index, probability) in enumerate(e.labels, 1)
            ],
        )

    def survey(self) -> Survey:
        """A new, empty survey; there is one at a time."""
        with translated(self.path):
            return Survey(self._conn, self.path)

    def digests(self, image_ids: Sequence[int]) -> dict[int, bytes]:
        """Image id -> SHA-256 of its content."""
        sql = "SELECT images.id, sha256 FROM images JOIN contents ON contents.id = content_id WHERE images.id IN ({})"
        return dict(self._rows_in(sql, image_ids))

    def moved(self, since: int) -> int:
        """How many of the surveyed gone images live on under another path that was added since a generation."""
        return int(
            self._one(
                """SELECT coalesce(sum(min(gone, added)), 0) FROM
                (SELECT content_id, count(*) AS gone FROM images JOIN temp.gone ON image_id = id GROUP BY content_id)
                JOIN (SELECT content_id, count(*) AS added FROM images WHERE generation > ? GROUP BY content_id)
                USING (content_id)""",
                [since],
            )
        )

    def moved_by_root(self, since: int) -> dict[int, int]:
        """Root id -> surveyed gone images whose content was added under another path since a generation."""
        return dict(
            self._rows(
                # CROSS: begin with what is gone, which is mostly nothing, and not with every image
                f"SELECT root_id, count(*) FROM temp.gone CROSS JOIN images ON image_id = id WHERE {_LIVES_ON} "
                "GROUP BY root_id",
                [since],
            )
        )

    def spare(self, root_id: int, since: int) -> None:
        """Take the images of a root off the surveyed gone ones, but for those that have moved."""
        with translated(self.path):
            self._conn.execute(
                "DELETE FROM temp.gone WHERE image_id IN "
                f"(SELECT id FROM images WHERE root_id = ? AND NOT {_LIVES_ON})",
                [root_id, since],
            )

    def count_in_root(self, root_id: int) -> int:
        """Images of a root."""
        return int(self._one("SELECT count(*) FROM images WHERE root_id = ?", [root_id]))

    def finish(self) -> None:
        """Forget the surveyed images and skips that are gone, then every content that no image holds any more.

        That is the last that a build changes, so it is noted that it came to its end.
        """
        with self._writing():
            self._conn.execute("DELETE FROM images WHERE id IN (SELECT image_id FROM temp.gone)")
            self._conn.execute("DELETE FROM skips WHERE (root_id, path) IN (SELECT root_id, path FROM temp.gone_skips)")
            self._conn.execute(
                "CREATE TEMP TABLE orphans AS SELECT id FROM contents WHERE id NOT IN (SELECT content_id FROM images)"
            )
            for table in ("labels", "vectors", "fingerprints"):
                self._conn.execute(f"DELETE FROM {table} WHERE content_id IN (SELECT id FROM temp.orphans)")
            self._conn.execute("DELETE FROM contents WHERE id IN (SELECT id FROM temp.orphans)")
            self._conn.execute("DROP TABLE temp.orphans")
            self._conn.execute("INSERT OR REPLACE INTO meta VALUES ('finished', ?)", [str(self.generation + 1)])

    # -- what a query asks -----------------------------------------------------------------------------------------

    def content_of(self, sha256: bytes) -> int | None:
        """The id of the content with these bytes."""
        row = self._row("SELECT id FROM contents WHERE sha256 = ?", [sha256])
        return row[0] if row else None

    def place_of(self, full: bytes) -> tuple[int, int] | None:
        """(image id, content id) of the image at an absolute path."""
        for root, root_id in self.roots().items():
            prefix = root.rstrip(b"/") + b"/"
            if full.startswith(prefix):
                row = self._row(
                    "SELECT id, content_id FROM images WHERE root_id = ? AND path = ?", [root_id, full[len(prefix) :]]
                )
                if row:
                    return row[0], row[1]
        return None

    def vector_of(self, content_id: int, model: StoredModel) -> Vectors | None:
        """One content's vector, (dim,), or None where it has none."""
        found = self._vectors_where("vectors.content_id IN ({}) AND vectors.model_id = ?", [content_id], model)
        for _, _, rows in found:
            return rows[0] if len(rows) else None
        return None

    def vectors_by_id(self, ids: Sequence[int], model: StoredModel) -> tuple[npt.NDArray[np.int64], list[int], Vectors]:
        """Vector ids that exist, the content of each, and the vectors, (N, dim)."""
        found = list(self._vectors_where("vectors.id IN ({}) AND vectors.model_id = ?", ids, model))
        return _joined(found, model.id.dim)

    def vectors_of(
        self, contents: Sequence[int], model: StoredModel
    ) -> tuple[npt.NDArray[np.int64], list[int], Vectors]:
        """The same for contents."""
        found = list(self._vectors_where("vectors.content_id IN ({}) AND vectors.model_id = ?", contents, model))
        return _joined(found, model.id.dim)

    def vector_ids_of(self, contents: Ids, model: StoredModel) -> Ids:
        """Ids of the vectors of some contents, of thousands or millions."""
        if len(contents) <= FEW_CONTENTS:
            sql = "SELECT id FROM vectors WHERE content_id IN ({}) AND model_id = " + str(int(model.row))
            return np.fromiter((row[0] for row in self._rows_in(sql, contents.tolist())), np.int64)
        with translated(self.path):  # not _rows(): millions of rows go this way
            rows = self._conn.execute("SELECT id, content_id FROM vectors WHERE model_id = ?", [model.row])
            pairs = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 2)
        return pairs[:, 0][np.isin(pairs[:, 1], contents)]

    def vectors(self, model: StoredModel, after: int = 0) -> Iterator[tuple[npt.NDArray[np.int64], list[int], Vectors]]:
        """Every vector of the model with an id above `after`, in blocks ordered by id: ids, contents, (N, dim)."""
        while True:
            sql = (
                "SELECT vectors.id, content_id, vector, sha256 FROM vectors "
                "JOIN contents ON contents.id = content_id WHERE vectors.id > ? AND model_id = ? "
                "ORDER BY vectors.id LIMIT ?"
            )
            rows = self._all(sql, [after, model.row, CHUNK])
            if not rows:
                return
            yield self._unpacked(rows, model)
            after = rows[-1][0]

    def half_vectors(
        self, model: StoredModel, without: frozenset[int] = frozenset()
    ) -> tuple[list[int], npt.NDArray[np.float16]]:
        """Every content with a vector of the model, ordered by digest, and the vectors as they are stored, (N, dim).

        without: contents that are left out.
        """
        rows = self._rows(
            "SELECT content_id, vector, sha256 FROM vectors JOIN contents ON contents.id = content_id "
            "WHERE model_id = ? ORDER BY sha256",
            [model.row],
        )
        contents: list[int] = []
        halves = np.empty((self.vector_span(model)[0], model.id.dim), np.float16)  # no page is real until it is filled
        for part in _parts(rows, CHUNK):
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
                f"{len(damaged)} vectors in {self.path} are damaged. Find and mend them with: indexer verify --repair."
            )

    def _vectors_where(
        self, where: str, values: Sequence[int], model: StoredModel
    ) -> Iterator[tuple[npt.NDArray[np.int64], list[int], Vectors]]:
        sql = (
            "SELECT vectors.id, content_id, vector, sha256 FROM vectors "
            f"JOIN contents ON contents.id = content_id WHERE {where}"
        )
        for start in range(0, len(values), _SQL_VARIABLES):
            part = [int(value) for value in values[start : start + _SQL_VARIABLES]]
            rows = self._all(sql.format(",".join("?" * len(part))), [*part, model.row])
            if rows:
                yield self._unpacked(rows, model)

    def _unpacked(self, rows: list[Any], model: StoredModel) -> tuple[npt.NDArray[np.int64], list[int], Vectors]:
        ids, contents, blobs, digests = zip(*rows, strict=True)
        unpacked, damaged = vectors.unpack(blobs, digests, model.id.dim)
        self._refuse_damaged(damaged)
        return np.array(ids, np.int64), list(contents), unpacked

    def vector_span(self, model: StoredModel) -> tuple[int, int]:
        """How many vectors the model has, and their highest id."""
        count, last = self._row("SELECT count(*), max(id) FROM vectors WHERE model_id = ?", [model.row]) or (0, 0)
        return count, last or 0

    def count_after(self, model: StoredModel, last: int) -> int:
        """How many vectors of the model have an id above `last`."""
        return int(self._one("SELECT count(*) FROM vectors WHERE model_id = ? AND id > ?", [model.row, last]))

    def images_where(self, condition: str | None, label: str | None) -> Passing | None:
        """What a filter lets through, None without a filter.

        Raises InvalidArgument for a condition that is none, or a label that the model does not know.
        """
        pairs = filters.images_where(self._conn, condition) if condition is not None else None
        if label is not None:
            with translated(self.path):
                labelled = filters.images_labelled(self._conn, label)
            pairs = labelled if pairs is None else pairs[np.isin(pairs[:, 1], labelled[:, 1])]
        return None if pairs is None else Passing(_ascending(pairs[:, 0]), _ascending(pairs[:, 1]))

    def images_of(self, contents: Sequence[int]) -> dict[int, list[int]]:
        """Content id -> ids of its images."""
        found: dict[int, list[int]] = {}
        sql = "SELECT content_id, id FROM images WHERE content_id IN ({}) ORDER BY content_id, id"
        for content, image in self._rows_in(sql, contents):
            found.setdefault(content, []).append(image)
        return found

    def paths_of(self, contents: Sequence[int]) -> dict[int, list[str]]:
        """Content id -> absolute paths of its images."""
        found: dict[int, list[str]] = {}
        sql = (
            "SELECT content_id, roots.path, images.path FROM images JOIN roots ON roots.id = root_id "
            "WHERE content_id IN ({}) ORDER BY content_id, images.id"
        )
        for content, root, path in self._rows_in(sql, contents):
            found.setdefault(content, []).append(os.fsdecode(os.path.join(root, path)))
        return found

    # -- what duplicates ask and leave -----------------------------------------------------------------------------

    def fingerprints(self, contents: Sequence[int]) -> dict[int, Fingerprint]:
        """Content id -> fingerprint. Raises CatalogDamaged for one that is not as it was written."""
        sql = (
            "SELECT content_id, pixels, signature, fingerprints.checksum, sha256 FROM fingerprints "
            "JOIN contents ON contents.id = content_id WHERE content_id IN ({})"
        )
        found = {}
        for number, pixels, signature, checksum, digest in self._rows_in(sql, contents):
            if checksums.checksum(digest, pixels, signature) != checksum:
                raise CatalogDamaged(
                    f"A fingerprint in {self.path} is damaged. Find and mend it with: indexer verify --repair."
                )
            found[number] = Fingerprint(pixels, signature)
        return found

    def same_pixels(self) -> list[tuple[int, ...]]:
        """Contents of different bytes that show the same picture: their ids by digest, one tuple a picture."""
        rows = self._rows(
            "SELECT pixels, content_id FROM fingerprints JOIN contents ON contents.id = content_id WHERE pixels IN "
            "(SELECT pixels FROM fingerprints GROUP BY pixels HAVING count(*) > 1) ORDER BY pixels, sha256"
        )
        return [tuple(number for _, number in same) for _, same in groupby(rows, key=lambda row: row[0])]

    def contents_by(self, key: Literal["pixels", "sha256"]) -> Iterator[tuple[bytes, int]]:
        """What every content shows, or its digest, and the content, ordered."""
        if key == "pixels":
            return self._rows("SELECT pixels, content_id FROM fingerprints ORDER BY pixels, content_id")
        return self._rows("SELECT sha256, id FROM contents ORDER BY sha256")

    def signatures(self) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Contents by digest and their signatures as they are stored, (N, bytes), in blocks."""
        rows = self._rows(
            "SELECT content_id, signature FROM contents JOIN fingerprints ON content_id = contents.id ORDER BY sha256"
        )
        for part in _parts(rows, CHUNK):
            numbers, blobs = zip(*part, strict=True)
            yield list(numbers), np.frombuffer(b"".join(blobs), np.uint8).reshape(len(blobs), -1)

    def repeated(self) -> list[int]:
        """Contents that more than one image holds."""
        rows = self._rows("SELECT content_id FROM images GROUP BY content_id HAVING count(*) > 1 ORDER BY content_id")
        return [number for (number,) in rows]

    def decide(self, digests: bytes, now_ns: int) -> None:
        """Remember that images of these contents are no duplicates: 32 bytes each, in order, as often as there are."""
        with self._writing():
            self._conn.execute(
                "INSERT OR IGNORE INTO decisions (digests, decided_ns, checksum) VALUES (?, ?, ?)",
                [digests, now_ns, checksums.of_decision(digests, now_ns)],
            )

    def decisions(self) -> list[bytes]:
        """Everything that was decided."""
        return [digests for (digests,) in self._rows("SELECT digests FROM decisions ORDER BY id")]

    def keep_calibration(self, model: StoredModel, report: str) -> None:
        """Store what a calibration of a model found, as JSON; it takes the place of an earlier one."""
        with self._writing():
            self._conn.execute(
                "INSERT OR REPLACE INTO calibrations (model_id, report, checksum) VALUES (?, ?, ?)",
                [model.row, report, checksums.checksum(report.encode())],
            )

    def calibration(self, model: StoredModel) -> str | None:
        """What the last calibration of a model found, None where there was none or it is damaged."""
        row = self._row("SELECT report, checksum FROM calibrations WHERE model_id = ?", [model.row])
        return row[0] if row and checksums.checksum(row[0].encode()) == row[1] else None

    # -- reading back ----------------------------------------------------------------------------------------------

    def images(self) -> Iterator[ImageRecord]:
        """Every image with what is known of it, ordered by path."""
        for block in self.image_blocks(_SQL_VARIABLES):
            for _, image in block:
                yield image

    def image_blocks(self, size: int) -> Iterator[list[tuple[int, ImageRecord]]]:
        """The same with content ids, in blocks of some size."""
        for part in _parts(self._rows(f"SELECT {_IMAGE} ORDER BY roots.path, images.path"), size):
            records = self._records(part)
            yield [(row[1], records[row[0]]) for row in part]

    def images_by_id(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Image id -> record."""
        return self._records(list(self._rows_in(f"SELECT {_IMAGE} WHERE images.id IN ({{}})", ids)))

    def image_at(self, full: bytes) -> ImageRecord | None:
        """The image at an absolute path."""
        place = self.place_of(full)
        return self.images_by_id([place[0]])[place[0]] if place else None

    def _records(self, rows: list[Any]) -> dict[int, ImageRecord]:
        labels = self.labels_of([row[1] for row in rows])
        records = {}
        for image, content, root, path, digest, size, width, height, format, taken, camera, modified, shown in rows:
            full = os.fsdecode(os.path.join(root, path))
            found = labels.get(content, ())
            records[image] = ImageRecord(
                full, digest.hex(), size, width, height, format, taken, camera, found, modified, shown
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
        for content, text, index, probability in self._rows_in(sql, contents):
            found[content] = (*found.get(content, ()), Label(text, index, probability))
        return found

    def skips(self) -> Iterator[Skipped]:
        """Every listed skip, ordered by path."""
        rows = self._rows(
            "SELECT roots.path, skips.path, reason FROM skips JOIN roots ON roots.id = root_id "
            "WHERE reason IS NOT NULL ORDER BY roots.path, skips.path"
        )
        for root, path, reason in rows:
            yield Skipped(os.fsdecode(os.path.join(root, path)), reason)

    def count(self, table: str) -> int:
        """Rows of 'images', 'contents', 'vectors', or listed 'skips'."""
        where = " WHERE reason IS NOT NULL" if table == "skips" else ""
        return int(self._one(f"SELECT count(*) FROM {table}{where}"))

    # -- repairing -------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection itself, for the store's own tools."""
        return self._conn

    def remove_without_vector(self) -> list[bytes]:
        """Forget the images that the current model has no vector for; returns their absolute paths."""
        where = (
            "content_id NOT IN (SELECT content_id FROM vectors JOIN models ON models.id = model_id WHERE current = 1)"
        )
        gone = [
            os.path.join(root, path)
            for root, path in self._rows(
                f"SELECT roots.path, images.path FROM images JOIN roots ON roots.id = root_id WHERE {where}"
            )
        ]
        if gone:
            with self._writing():
                self._conn.execute(f"DELETE FROM images WHERE {where}")
        return gone

    # -- plumbing --------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with translated(self.path):
            if not self.readonly:
                seal.break_it(self.path)
            self._conn.execute("BEGIN IMMEDIATE")  # a lock taken at the start cannot fail half-way
            try:
                yield
                self._conn.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
                self._conn.commit()
            except BaseException:
                self._conn.rollback()
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything that is read within comes from one generation."""
        with translated(self.path):
            self._conn.execute("BEGIN")
            try:
                yield
            finally:
                self._conn.rollback()

    def _rows(self, sql: str, values: Any = ()) -> Iterator[Any]:
        with translated(self.path):
            yield from self._conn.execute(sql, values)

    def _all(self, sql: str, values: Any = ()) -> list[Any]:
        with translated(self.path):
            return self._conn.execute(sql, values).fetchall()

    def _row(self, sql: str, values: Any = ()) -> Any:
        with translated(self.path):
            return self._conn.execute(sql, values).fetchone()

    def _one(self, sql: str, values: Any = ()) -> Any:
        return self._row(sql, values)[0]

    def _rows_in(self, sql: str, values: Sequence[Any], first: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows of a statement with an IN ({}) of any length."""
        for start in range(0, len(values), _SQL_VARIABLES):
            part = values[start : start + _SQL_VARIABLES]
            yield from self._all(sql.format(",".join("?" * len(part))), [*first, *part])


_LIVES_ON = "EXISTS (SELECT 1 FROM images AS other WHERE other.content_id = images.content_id AND other.generation > ?)"
_IMAGE = (
    "images.id, content_id, roots.path, images.path, "
    "sha256, bytes, width, height, format, taken, camera, mtime_ns, shown "
    "FROM images JOIN roots ON roots.id = root_id JOIN contents ON contents.id = content_id"
)


def read_as_present(conn: sqlite3.Connection) -> None:
    """Have a file of an older format look like one of the present format, for somebody who must not change it.

    A temporary view goes before the table of the same name.
    """
    columns, shown = conn.execute("SELECT count(*), sum(name = 'shown') FROM pragma_table_info('contents')").fetchone()
    if columns and not shown:
        conn.execute("CREATE TEMP VIEW contents AS SELECT *, NULL AS shown FROM main.contents")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing.

    Where the folder can be written it is an ordinary one, which tidies SQLite's log files up when it closes. On a disk
    that cannot be written, or a network file system, nobody builds, so there is no log to look for and nothing to lock.
    The same goes for a disk that is too full for SQLite's empty log files.
    """
    log = path.with_name(path.name + "-wal")
    writable = os.access(path.parent, os.W_OK) and os.access(path, os.W_OK) and not network_file_system(path)
    if writable:
        conn = _connect_as(path, "rw")
        try:
            conn.execute("PRAGMA schema_version")
            return conn
        except sqlite3.OperationalError:
            conn.close()
            if log.exists() and log.stat().st_size:
                raise
    return _connect_as(path, "ro" if log.exists() and not writable else "ro&immutable=1")


def _connect_as(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.resolve()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _ascending(ids: Ids) -> Ids:
    """In order, each once. np.unique() hashes, which takes fifty times as long for half a million."""
    ordered = np.sort(ids)
    each: Ids = ordered[np.diff(ordered, prepend=-1) != 0]
    return each


def _place(source: Source) -> tuple[int, bytes]:
    return source.root_id, source.path


def _content(sha256: bytes, size: int, info: PictureInfo) -> tuple[object, ...]:
    # not dataclasses.astuple, which copies deeply: a third of a commit was that
    values = info.width, info.height, info.format, info.taken, info.camera, info.shown
    return sha256, size, *values, checksums.of_content(sha256, size, values)


def _fingerprint(content: int, sha256: bytes, known: Fingerprint) -> tuple[object, ...]:
    return content, known.pixels, known.signature, checksums.checksum(sha256, known.pixels, known.signature)


def _image_checksum(entry: Entry) -> int:
    return checksums.of_image(entry.sha256, *_place(entry.source), entry.source.stamp)


def _sql_image_checksum(sha256: bytes, root_id: int, path: bytes, size: int, mtime_ns: int, ctime_ns: int) -> int:
    return checksums.of_image(sha256, root_id, path, Stamp(size, mtime_ns, ctime_ns))


def _parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _joined(
    blocks: Sequence[tuple[npt.NDArray[np.int64], list[int], Vectors]], dim: int
) -> tuple[npt.NDArray[np.int64], list[int], Vectors]:
    if not blocks:
        return np.empty(0, np.int64), [], np.empty((0, dim), np.float32)
    return (
        np.concatenate([ids for ids, _, _ in blocks]),
        [content for _, contents, _ in blocks for content in contents],
        np.concatenate([rows for _, _, rows in blocks]),
    )
