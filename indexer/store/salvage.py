"""What a damaged catalog.sqlite still says: every row whose checksum holds goes into a new file."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from ..errors import CatalogDamaged
from ..files import changing, remove_left_over, replacement, sync_folder
from ..records import ModelId, Preprocess, Stamp
from . import checksums, exclude, seal, vectors
from .connection import APPLICATION_ID, FORMAT, read_as_present
from .sqlite_errors import translated
from .store import FILE, Store

# a folder, in which the new file is made
WORKSHOP = ".indexer-salvage.tmp"
_STEP = 500


@dataclass(frozen=True, slots=True)
class Salvaged:
    """model: what the current one was loaded from. lost: what cannot be made again, in words."""

    model: str | None
    lost: tuple[str, ...]


def salvage(folder: Path) -> Salvaged:
    """Put a new file of what is sound in the damaged one in its place.

    Roots, the current model, the uuid and what to leave out also come from the seal, if that is sound. Contents without
    a sound vector keep their images, so that the next build embeds them again; images without a sound row are found
    again by it. Nothing has changed until the new file is complete, so a repair that is killed can be run again. The
    old file stays beside it where something of it is lost, or it does not say that it is a catalog. Raises
    CatalogDamaged where there is nothing to start from.
    """
    path, workshop = folder / FILE, folder / WORKSHOP
    sealed = None
    with suppress(ValueError):
        sealed = seal.read(path)
    remove_left_over(folder)
    with changing(workshop):
        workshop.mkdir()
    new = Store.create(workshop)
    try:
        with translated(workshop / FILE):
            recognised, lost = _copy(path, new, sealed)
        model, roots = new.model(), new.roots()
    finally:
        new.close()
    if sealed is None and not roots:
        remove_left_over(folder)
        raise CatalogDamaged(
            f"Nothing of {path} can be read, nor of its seal. Restore a copy, or build a new catalog in another folder."
        )
    if path.exists() and path.stat().st_size and (lost or not recognised):
        _keep(path)
    with changing(path):
        for extra in ("-wal", "-shm"):  # a log of the old file must never meet the new one
            path.with_name(FILE + extra).unlink(missing_ok=True)
        os.replace(workshop / FILE, path)
        sync_folder(folder)
    remove_left_over(folder)
    return Salvaged(model.source if model else sealed.model if sealed else None, tuple(lost))


def kept(folder: Path) -> list[Path]:
    """What repairs have put aside."""
    return sorted(folder.glob("catalog.before-repair*.sqlite"))


def _keep(path: Path) -> None:
    """Put a file, and its log, aside under a name of its own, where it is also in its place until another is.

    That of a repair which was killed stays what it is.
    """
    for number in itertools.count():
        target = path.with_name(f"catalog.before-repair{f'-{number}' if number else ''}.sqlite")
        if not target.exists():
            break
        if target.samefile(path):
            return
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        with replacement(target) as temporary:
            shutil.copyfile(path, temporary)
    log = path.with_name(f"{FILE}-wal")
    if log.exists():
        with changing(log):
            os.replace(log, target.with_name(f"{target.name}-wal"))


def _copy(damaged: Path, new: Store, sealed: seal.Seal | None) -> tuple[bool, list[str]]:
    """Whether the damaged file says that it is a catalog, and what of it is lost."""
    target = new.sqlite
    target.execute("BEGIN IMMEDIATE")
    try:
        # where there is no file, of one that is empty
        with closing(sqlite3.connect(damaged if damaged.exists() else ":memory:", isolation_level=None)) as old:
            old.text_factory = bytes  # damaged text need not be Unicode
            recognised = _is_ours(old)
            with suppress(sqlite3.Error):
                read_as_present(old)
            _copy_rows(old, target, sealed)
            lost = _copy_told(old, target, sealed.told if sealed else None)
    except BaseException:
        target.rollback()
        raise
    target.commit()
    return recognised, lost


def _is_ours(old: sqlite3.Connection) -> bool:
    try:
        ((application,),), ((version,),) = (
            old.execute(f"PRAGMA {name}").fetchall() for name in ("application_id", "user_version")
        )
    except sqlite3.Error:
        return False
    return bool(application == APPLICATION_ID and 0 < version <= FORMAT)


def _copy_rows(old: sqlite3.Connection, target: sqlite3.Connection, sealed: seal.Seal | None) -> None:
    roots = {number: path.encode("utf-8", "surrogateescape") for number, path in sealed.roots} if sealed else {}
    roots = roots or dict(_rows(old, "roots", "path"))
    target.executemany("INSERT INTO roots (id, path) VALUES (?, ?)", roots.items())
    models = {row[0]: row for row in _rows(old, "models", _MODEL) if _sound_model(row)}
    for row in models.values():
        target.execute(f"INSERT INTO models (id, {_MODEL}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _texts(row))
    with suppress(sqlite3.Error):
        for model, number, name, text in old.execute("SELECT model_id, class, name, description FROM classes"):
            if model in models:
                target.execute("INSERT OR IGNORE INTO classes VALUES (?, ?, ?, ?)", _texts((model, number, name, text)))
    digests = {}
    for number, digest, size, *rest, found in _rows(old, "contents", _CONTENT):
        values = _texts(tuple(rest))
        if isinstance(digest, bytes) and isinstance(size, int) and checksums.of_content(digest, size, values) == found:
            digests[number] = digest
            target.execute(
                f"INSERT OR IGNORE INTO contents (id, {_CONTENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, digest, size, *values, found),
            )
    fingerprinted = _copy_fingerprints(old, target, digests)
    _copy_vectors(old, target, fingerprinted, {number: int(row[8]) for number, row in models.items()})
    for number, root, path, content, size, mtime, ctime, _, found in _rows(old, "images", _IMAGE):
        try:
            sound = root in roots and found == checksums.of_image(
                digests[content], root, path, Stamp(size, mtime, ctime)
            )
        except Exception:  # noqa: S112 - a damaged row may hold anything
            continue
        if sound:
            target.execute(
                f"INSERT OR IGNORE INTO images (id, {_IMAGE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, root, path, content, size, mtime, ctime, 0, found),
            )


def _copy_told(old: sqlite3.Connection, target: sqlite3.Connection, told: seal.Told | None) -> list[str]:
    """What no picture tells: decisions, calibrations, what to leave out, the uuid. Returns what of it is lost."""
    decisions = calibrations = 0
    for number, members, decided, found in _rows(old, "decisions", "digests, decided_ns, checksum"):
        if isinstance(members, bytes) and isinstance(decided, int) and checksums.of_decision(members, decided) == found:
            sql = "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?)"
            decisions += target.execute(sql, (number, members, decided, found)).rowcount
    models = {number for (number,) in target.execute("SELECT id FROM models")}
    for model, _, report, found in _rows(old, "calibrations", "model_id, report, checksum", id="model_id"):
        if model in models and isinstance(report, bytes) and checksums.checksum(report) == found:
            sql = "INSERT OR IGNORE INTO calibrations VALUES (?, ?, ?)"
            calibrations += target.execute(sql, (model, report.decode(), found)).rowcount
    lost = [
        *_missing(old, "decisions", "decisions about groups", decisions, told.decisions if told else None),
        *_missing(old, "calibrations", "calibrations", calibrations, told.calibrations if told else None),
    ]
    patterns = told.exclude if told else _sound_exclude(old)
    if patterns is None:
        lost.append("what builds leave out, if anything: say it anew with indexer build --exclude")
    elif patterns:
        target.execute("INSERT INTO meta (key, value) VALUES ('exclude', ?)", [exclude.pack(patterns)])
    identity = told.uuid if told else _sound_uuid(old)
    if identity is None:
        lost.append("what plans know the catalog by: make those that were written before anew")
    else:
        target.execute("UPDATE meta SET value = ? WHERE key = 'uuid'", [identity])
    return lost


def _missing(old: sqlite3.Connection, table: str, name: str, copied: int, told: int | None) -> Iterator[str]:
    """How many rows are lost, in words. told: how many there were, if that is known."""
    if told is None:
        try:
            ((told,),) = old.execute(f"SELECT count(*) FROM {table}")
        except sqlite3.Error:
            yield f"{name}, if there were any"
            return
    if told > copied:
        yield f"{told - copied:,} of {told:,} {name}"


def _sound_exclude(old: sqlite3.Connection) -> tuple[str, ...] | None:
    """What builds leave out, None where that cannot be told."""
    try:
        rows = old.execute("SELECT value FROM meta WHERE key = 'exclude'").fetchall()
        return exclude.unpack(rows[0][0]) if rows else ()
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _sound_uuid(old: sqlite3.Connection) -> str | None:
    try:
        ((value,),) = old.execute("SELECT value FROM meta WHERE key = 'uuid'")
        text = str(value, "ascii")
        return text if str(UUID(text)) == text else None
    except (sqlite3.Error, ValueError, TypeError):
        return None


def _copy_fingerprints(
    old: sqlite3.Connection, target: sqlite3.Connection, digests: dict[int, bytes]
) -> dict[int, bytes]:
    """Returns the contents whose fingerprint is sound; the vector of another is left out, so that it is read again."""
    sound = {}
    columns = "content_id, pixels, signature, checksum"
    for number, _, pixels, signature, found in _rows(old, "fingerprints", columns, id="content_id"):
        digest = digests.get(number)
        blobs = isinstance(pixels, bytes) and isinstance(signature, bytes)
        if digest is not None and blobs and checksums.checksum(digest, pixels, signature) == found:
            sound[number] = digest
            target.execute("INSERT INTO fingerprints VALUES (?, ?, ?, ?)", (number, pixels, signature, found))
    return sound


def _copy_vectors(
    old: sqlite3.Connection, target: sqlite3.Connection, digests: dict[int, bytes], dims: dict[int, int]
) -> None:
    """Vectors whose own checksum and whose labels' checksum hold, with those labels."""
    for number, content, model, blob, found in _rows(old, "vectors", _VECTOR):
        digest, dim = digests.get(content), dims.get(model)
        if digest is None or dim is None or not isinstance(blob, bytes):
            continue
        labels: list[tuple[Any, ...]] = []
        with suppress(sqlite3.Error):
            sql = "SELECT class, probability FROM labels WHERE content_id = ? AND model_id = ? ORDER BY rank"
            labels = old.execute(sql, (content, model)).fetchall()
        try:
            sound = checksums.of_labels(digest, labels) == found
        except Exception:  # noqa: S112 - as above
            continue
        if sound and vectors.intact(blob, digest, vectors.size_of(dim)):
            target.execute(
                f"INSERT OR IGNORE INTO vectors (id, {_VECTOR}) VALUES (?, ?, ?, ?, ?)",
                (number, content, model, blob, found),
            )
            target.executemany(
                "INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?, ?)",
                [(content, model, rank, index, p) for rank, (index, p) in enumerate(labels, 1)],
            )


_MODEL = "key, name, source, weights, preprocess, pooling, numerics, dim, current"
_CONTENT = "sha256, bytes, width, height, format, taken, camera, shown, holds, checksum"
_IMAGE = "root_id, path, content_id, size, mtime_ns, ctime_ns, generation, checksum"
_VECTOR = "content_id, model_id, vector, labels_checksum"


def _sound_model(row: tuple[Any, ...]) -> bool:
    """Whether a model's key is that of its fields."""
    try:
        _, key, name, _, weights, preprocess, pooling, numerics, dim, _ = _texts(row)
        return bool(ModelId(name, weights, Preprocess.from_json(preprocess), dim, pooling, numerics).key == key)
    except Exception:  # a damaged row may hold anything
        return False


def _rows(old: sqlite3.Connection, table: str, columns: str, id: str = "id") -> Iterator[tuple[Any, ...]]:
    """The rows of a table that can still be read, by ascending id; what lies behind an unreadable page is left out."""
    last = -1
    while True:
        sql = f"SELECT {id}, {columns} FROM {table} WHERE {id} > ? ORDER BY {id} LIMIT {_STEP}"
        try:
            rows = old.execute(sql, (last,)).fetchall()
        except sqlite3.Error:
            rows = list(_one_by_one(old, sql, last))
        if not rows:
            return
        yield from rows
        last = rows[-1][0]


def _one_by_one(old: sqlite3.Connection, sql: str, last: int) -> Iterator[tuple[Any, ...]]:
    cursor = None
    with suppress(sqlite3.Error):
        cursor = old.execute(sql, (last,))
        while (row := cursor.fetchone()) is not None:
            yield row


def _texts(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bytes that came out of TEXT columns as text again."""
    return tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row)
