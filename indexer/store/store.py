"""Images, contents, vectors, labels and skips in one SQLite file: the truth.

Every method that changes something is one transaction; a process killed at any instant leaves the last one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..errors import CatalogDamaged, CatalogError, CatalogNotFound
from ..files import require_local
from ..records import Fingerprint, ModelId, PictureInfo, Preprocess, Skipped, Source, Stamp
from . import checksums, exclude, seal, vectors
from .connection import BUSY_SECONDS, Connection
from .fingerprint_rows import FingerprintRows
from .image_rows import ImageRows
from .rows import Entry, Known, Refusal, StoredModel, has_vector
from .sqlite_errors import translated
from .vector_rows import VectorRows

FILE = "catalog.sqlite"
# a reader may take its time, and a build should not wait for it: the next one seals as well
SEAL_SECONDS = 5.0


class Store(Connection):
    """An open catalog.sqlite: what a build asks and writes.

    What was written is read through images, vectors and fingerprints.
    """

    @property
    def images(self) -> ImageRows:
        """Images, and the contents they hold."""
        return ImageRows(self)

    @property
    def vectors(self) -> VectorRows:
        """The vectors of a model."""
        return VectorRows(self)

    @property
    def fingerprints(self) -> FingerprintRows:
        """What tells copies from pictures that are merely alike."""
        return FingerprintRows(self)

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
        if not cls.exists(folder):
            raise CatalogNotFound(f"There is no catalog in {folder}. Make one with: indexer build FOLDER.")
        return cls(folder / FILE, readonly=readonly)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds a catalog, or what is left of one."""
        return _is_there(folder / FILE) or _is_there(folder / seal.FILE)

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
            busy, _, _ = self.sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._wait_for_others(BUSY_SECONDS)
            if not busy:
                model = self.model()
                told = seal.Told(self.uuid, self.exclude, self.count("decisions"), self.count("calibrations"))
                seal.make(self.path, self.roots(), model.source if model else None, told)

    def _wait_for_others(self, seconds: float) -> None:
        """How long to wait from now on where another process is in the way."""
        self.sqlite.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")

    # -- roots -----------------------------------------------------------------------------------------------------

    def roots(self) -> dict[bytes, int]:
        """Every root's absolute path and id."""
        return dict(self.rows("SELECT path, id FROM roots ORDER BY path"))

    def add_root(self, path: bytes) -> int:
        """The id of a new root. Roots below it become part of it: their images keep everything but their root."""
        self.sqlite.create_function("image_checksum", 6, _image_checksum_of, deterministic=True)
        with self.writing():
            root_id = int(self.sqlite.execute("INSERT INTO roots (path) VALUES (?)", [path]).lastrowid or 0)
            for below, old in self.roots().items():
                if below != path and below.startswith(path.rstrip(b"/") + b"/"):
                    prefix = below[len(path.rstrip(b"/")) + 1 :] + b"/"
                    for table in ("images", "skips"):
                        self.sqlite.execute(
                            f"UPDATE {table} SET root_id = ?, path = CAST(? || path AS BLOB) WHERE root_id = ?",
                            [root_id, prefix, old],
                        )
                    self.sqlite.execute("DELETE FROM roots WHERE id = ?", [old])
            self.sqlite.execute(
                "UPDATE images SET checksum = image_checksum("
                "(SELECT sha256 FROM contents WHERE id = content_id), root_id, path, size, mtime_ns, ctime_ns) "
                "WHERE root_id = ?",
                [root_id],
            )
            return root_id

    # -- the model -------------------------------------------------------------------------------------------------

    def model(self) -> StoredModel | None:
        """The model that the catalog works with, None before the first vector."""
        row = self.row(
            "SELECT id, name, weights, preprocess, dim, pooling, numerics, source FROM models WHERE current = 1"
        )
        if row is None:
            return None
        number, name, weights, preprocess, dim, pooling, numerics, source = row
        id = ModelId(name, weights, Preprocess.from_json(preprocess), dim, pooling, numerics)
        return StoredModel(number, id, source)

    def require_model(self) -> StoredModel:
        """The same. Raises CatalogError before the first vector."""
        model = self.model()
        if model is None:
            raise CatalogError("The catalog holds no vectors yet. Fill it with: indexer build FOLDER.")
        return model

    def use_model(self, id: ModelId, source: str, classes: Sequence[tuple[str, str]]) -> StoredModel:
        """Make a model the current one; its row and its classes are added where they are new."""
        current = self.model()
        if current is not None and (current.id, current.source) == (id, source):
            return current
        with self.writing():
            self.sqlite.execute(
                "INSERT INTO models (key, name, source, weights, preprocess, pooling, numerics, dim, current) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE SET source = excluded.source",
                [id.key, id.name, source, id.weights, id.preprocess.to_json(), id.pooling, id.numerics, id.dim],
            )
            row = self.one("SELECT id FROM models WHERE key = ?", [id.key])
            self.sqlite.execute("UPDATE models SET current = (id = ?)", [row])
            self.sqlite.executemany(
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
        inside = "root_id = :root"
        if below:  # as a range, so that SQLite looks at no more of the root; "a-b" lies between "a" and "a/"
            inside += " AND path >= :below AND path < :high AND (path = :below OR path >= :low)"
        current = has_vector("images.content_id", ":model")
        if model and not below and self._all_have_vectors(model):
            current = "1"  # mostly so, and counting is quicker than looking for each
        sql = f"""SELECT path, size, mtime_ns, ctime_ns, images.id, NULL, {current}
            FROM images WHERE {inside}
            UNION ALL SELECT path, size, mtime_ns, ctime_ns, NULL, reason, reason IS NULL OR tried_with IN (
                SELECT value FROM json_each(:tried_with))
            FROM skips WHERE {inside}
            ORDER BY path"""
        values = {
            "root": root_id,
            "below": below,
            "low": below + b"/",
            "high": below + b"0",  # "0" follows "/"
            "model": model.row if model else None,
            "tried_with": json.dumps(sorted(tried_with)),
        }
        known = partial(tuple.__new__, Known)  # what Known._make() does, at a third of its cost
        with translated(self.path):  # not rows(): millions of rows go this way
            yield from map(known, self.sqlite.execute(sql, values))

    def _all_have_vectors(self, model: StoredModel) -> bool:
        return self.vectors.span(model)[0] == int(self.one("SELECT count(*) FROM contents"))

    def with_vector(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of some contents that have a vector of the model that the catalog works with."""
        sql = (
            "SELECT sha256 FROM contents JOIN vectors ON vectors.content_id = contents.id "
            "WHERE vectors.model_id = (SELECT id FROM models WHERE current = 1) AND sha256 IN ({})"
        )
        return {digest for (digest,) in self.rows_in(sql, digests)}

    # -- what a build writes ---------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], refusals: Sequence[Refusal], model: StoredModel | None) -> None:
        """Store a stretch of files whole: contents, vectors, labels, images and skips in one transaction."""
        if not entries and not refusals:
            return
        with self.writing():
            generation = self.generation + 1
            self._insert_contents([entry for entry in entries if entry.info is not None])
            ids = self._ids([entry.sha256 for entry in entries])
            self._insert_fingerprints(entries, ids)
            fresh = [entry for entry in entries if entry.vector is not None]
            if fresh:
                assert model is not None
                self._insert_vectors(fresh, ids, model.row)
            self.many(
                "INSERT INTO images (root_id, path, content_id, size, mtime_ns, ctime_ns, generation, checksum) "
                "VALUES {} ON CONFLICT (root_id, path) DO UPDATE SET "
                "content_id = excluded.content_id, size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "ctime_ns = excluded.ctime_ns, checksum = excluded.checksum",
                [(*_place(e.source), ids[e.sha256], *e.source.stamp, generation, _image_checksum(e)) for e in entries],
            )
            if self.row("SELECT 1 FROM skips LIMIT 1"):
                self.sqlite.executemany(
                    "DELETE FROM skips WHERE root_id = ? AND path = ?", [_place(e.source) for e in entries]
                )
            self.many(
                "INSERT OR REPLACE INTO skips (root_id, path, size, mtime_ns, ctime_ns, reason, tried_with) VALUES {}",
                [(*_place(r.source), *r.source.stamp, r.reason, r.tried_with) for r in refusals],
            )
            self.sqlite.executemany(
                "DELETE FROM images WHERE root_id = ? AND path = ?", [_place(r.source) for r in refusals]
            )

    def _ids(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Of contents that are there, their ids; as one value, since sqlite3 lets other threads run at every row."""
        sql = "SELECT group_concat(hex(sha256) || ' ' || id, ' ') FROM contents WHERE sha256 IN ({})"
        found = [word for (text,) in self.rows_in(sql, digests) for word in (text or "").split()]
        return dict(zip(map(bytes.fromhex, found[::2]), map(int, found[1::2]), strict=True))

    def _insert_contents(self, entries: Sequence[Entry]) -> None:
        # what an older indexer did not look for is added
        self.many(
            "INSERT INTO contents "
            "(sha256, bytes, width, height, format, taken, camera, shown, holds, checksum) VALUES {} "
            "ON CONFLICT (sha256) DO UPDATE SET width = excluded.width, height = excluded.height, "
            "format = excluded.format, taken = excluded.taken, camera = excluded.camera, shown = excluded.shown, "
            "holds = excluded.holds, checksum = excluded.checksum WHERE contents.holds IS NULL",
            [_content(e.sha256, e.size, e.info) for e in entries if e.info],
        )

    def _insert_fingerprints(self, entries: Sequence[Entry], ids: dict[bytes, int]) -> None:
        self.many(
            "INSERT OR IGNORE INTO fingerprints (content_id, pixels, signature, checksum) VALUES {}",
            [_fingerprint(ids[e.sha256], e.sha256, e.fingerprint) for e in entries if e.fingerprint],
        )

    def _insert_vectors(self, entries: Sequence[Entry], ids: dict[bytes, int], model: int) -> None:
        # a content may come twice; what is there stays, labels too, since the vector's row has their checksum
        digests = [e.sha256 for e in entries]
        blobs = vectors.pack([e.vector for e in entries if e.vector is not None], digests)
        self.many(
            "INSERT OR IGNORE INTO vectors (content_id, model_id, vector, labels_checksum) VALUES {}",
            [
                (ids[e.sha256], model, blob, checksums.of_labels(e.sha256, e.labels))
                for e, blob in zip(entries, blobs, strict=True)
            ],
        )
        self.many(
            "INSERT OR IGNORE INTO labels (content_id, model_id, rank, class, probability) VALUES {}",
            [
                (ids[e.sha256], model, rank, index, probability)
                for e in entries
                for rank, (index, probability) in enumerate(e.labels, 1)
            ],
        )

    def use_neighbours(self, name: str) -> None:
        """Have another neighbour index go with what is stored."""
        with self.writing():
            self.sqlite.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('neighbours', ?)", [name])
            self.sqlite.execute(  # where a build has come to its end, it still has
                "UPDATE meta SET value = value + 1 WHERE key = 'finished' "
                "AND value = (SELECT value FROM meta WHERE key = 'generation')"
            )

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of what builds leave out. Raises CatalogDamaged where that is not as it was written."""
        row = self.row("SELECT value FROM meta WHERE key = 'exclude'")
        try:
            return exclude.unpack(row[0]) if row else ()
        except (ValueError, KeyError, TypeError):
            raise CatalogDamaged(
                f"What builds leave out is damaged in {self.path}. Mend it with: indexer verify --repair; "
                "then say it anew with: indexer build --exclude."
            ) from None

    def remember_exclude(self, patterns: Sequence[str]) -> None:
        """Have builds leave out what fits these."""
        with self.writing():
            value = exclude.pack(patterns)
            self.sqlite.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('exclude', ?)", [value])

    # -- what people said ------------------------------------------------------------------------------------------

    def decide(self, digests: bytes, now_ns: int) -> None:
        """Remember that images of these contents are no duplicates: 32 bytes each, in order, as often as there are."""
        with self.writing():
            self.sqlite.execute(
                "INSERT OR IGNORE INTO decisions (digests, decided_ns, checksum) VALUES (?, ?, ?)",
                [digests, now_ns, checksums.of_decision(digests, now_ns)],
            )

    def forget_decisions(self) -> int:
        """Forget everything that was decided; returns how much that was."""
        count = int(self.one("SELECT count(*) FROM decisions"))
        if count:
            with self.writing():
                self.sqlite.execute("DELETE FROM decisions")
        return count

    def decisions(self) -> list[bytes]:
        """Everything that was decided."""
        return [digests for (digests,) in self.rows("SELECT digests FROM decisions ORDER BY id")]

    def keep_calibration(self, model: StoredModel, report: str) -> None:
        """Store what a calibration of a model found, as JSON; it takes the place of an earlier one."""
        with self.writing():
            self.sqlite.execute(
                "INSERT OR REPLACE INTO calibrations (model_id, report, checksum) VALUES (?, ?, ?)",
                [model.row, report, checksums.checksum(report.encode())],
            )

    def calibration(self, model: StoredModel) -> str | None:
        """What the last calibration of a model found, None where there was none or it is damaged."""
        row = self.row("SELECT report, checksum FROM calibrations WHERE model_id = ?", [model.row])
        return row[0] if row and checksums.checksum(row[0].encode()) == row[1] else None

    # -- the rest --------------------------------------------------------------------------------------------------

    def skips(self) -> Iterator[Skipped]:
        """Every listed skip, ordered by path."""
        rows = self.rows(
            "SELECT roots.path, skips.path, reason FROM skips JOIN roots ON roots.id = root_id "
            "WHERE reason IS NOT NULL ORDER BY roots.path, skips.path"
        )
        for root, path, reason in rows:
            yield Skipped(os.fsdecode(os.path.join(root, path)), reason)

    def count(self, table: str) -> int:
        """Rows of a table; of 'skips', those that are listed."""
        where = " WHERE reason IS NOT NULL" if table == "skips" else ""
        return int(self.one(f"SELECT count(*) FROM {table}{where}"))

    def remove_without_vector(self) -> list[bytes]:
        """Forget the images that the current model has no vector for; returns their absolute paths."""
        where = (
            "content_id NOT IN (SELECT content_id FROM vectors JOIN models ON models.id = model_id WHERE current = 1)"
        )
        gone = [
            os.path.join(root, path)
            for root, path in self.rows(
                f"SELECT roots.path, images.path FROM images JOIN roots ON roots.id = root_id WHERE {where}"
            )
        ]
        if gone:
            with self.writing():
                self.sqlite.execute(f"DELETE FROM images WHERE {where}")
        return gone


def _is_there(path: Path) -> bool:
    """Whether a path is a file's. Raises CatalogError where that cannot be seen."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise CatalogError(
            f"{path} cannot be reached ({error.strerror}). Check the disk and the permissions."
        ) from error


def _place(source: Source) -> tuple[int, bytes]:
    return source.root_id, source.path


def _content(sha256: bytes, size: int, info: PictureInfo) -> tuple[object, ...]:
    # not dataclasses.astuple, which copies deeply: a third of a commit was that
    values = info.width, info.height, info.format, info.taken, info.camera, info.shown, info.holds
    return sha256, size, *values, checksums.of_content(sha256, size, values)


def _fingerprint(content: int, sha256: bytes, known: Fingerprint) -> tuple[object, ...]:
    return content, known.pixels, known.signature, checksums.checksum(sha256, known.pixels, known.signature)


def _image_checksum(entry: Entry) -> int:
    return checksums.of_image(entry.sha256, *_place(entry.source), entry.source.stamp)


def _image_checksum_of(sha256: bytes, root_id: int, path: bytes, size: int, mtime_ns: int, ctime_ns: int) -> int:
    return checksums.of_image(sha256, root_id, path, Stamp(size, mtime_ns, ctime_ns))
