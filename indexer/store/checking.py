"""What of catalog.sqlite is not as it was written: every row that carries a checksum is compared with it."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CatalogDamaged
from ..records import ModelId, Preprocess, Stamp
from . import checksums, vectors
from .store import Store


def problems(store: Store) -> Iterator[str]:
    """SQLite's own check, rows that refer to nothing, model ids, and the checksum of every row, a problem a line."""
    with store.snapshot():
        yield from (row[0] for row in store.rows("PRAGMA integrity_check") if row[0] != "ok")
        yield from (f"a row of {row[0]} refers to nothing" for row in store.rows("PRAGMA foreign_key_check"))
        sizes: dict[int, int] = {}
        yield from _models(store, sizes)
        yield from _contents(store)
        yield from _vectors(store, sizes)
        yield from _images(store)
        yield from _what_people_said(store)


def _models(store: Store, sizes: dict[int, int]) -> Iterator[str]:
    """Fills in how many bytes a vector of each model has."""
    sql = "SELECT id, key, name, weights, preprocess, dim, pooling, numerics FROM models"
    for row, key, name, weights, preprocess, dim, pooling, numerics in store.rows(sql):
        sizes[row] = vectors.size_of(dim)
        if ModelId(name, weights, Preprocess.from_json(preprocess), dim, pooling, numerics).key != key:
            yield f"model {key} is not what its id says"


def _contents(store: Store) -> Iterator[str]:
    sql = "SELECT id, sha256, bytes, width, height, format, taken, camera, shown, holds, checksum FROM contents"
    for number, digest, size, *values, found in store.rows(sql):
        if checksums.of_content(digest, size, values) != found:
            yield f"content {number} is damaged"
    sql = (
        "SELECT contents.id, pixels, signature, fingerprints.checksum, sha256 FROM contents "
        "LEFT JOIN fingerprints ON content_id = contents.id"
    )
    for number, pixels, signature, found, digest in store.rows(sql):
        if found is None or checksums.checksum(digest, pixels, signature) != found:
            yield f"the fingerprint of content {number} is damaged"


def _vectors(store: Store, sizes: dict[int, int]) -> Iterator[str]:
    labels = "SELECT class, probability FROM labels WHERE content_id = ? AND model_id = ? ORDER BY rank"
    sql = (
        "SELECT vectors.id, content_id, model_id, vector, labels_checksum, sha256 FROM vectors "
        "JOIN contents ON contents.id = content_id"
    )
    for number, content, model, blob, found, digest in store.rows(sql):
        if not vectors.intact(blob, digest, sizes.get(model, -1)):
            yield f"vector {number} is damaged"
        if checksums.of_labels(digest, store.rows(labels, (content, model))) != found:
            yield f"the labels of vector {number} are damaged"


def _images(store: Store) -> Iterator[str]:
    sql = (
        "SELECT images.id, sha256, root_id, path, size, mtime_ns, ctime_ns, images.checksum FROM images "
        "JOIN contents ON contents.id = content_id"
    )
    for number, digest, root, path, *stamp, found in store.rows(sql):
        if checksums.of_image(digest, root, path, Stamp(*stamp)) != found:
            yield f"image {number} is damaged"


def _what_people_said(store: Store) -> Iterator[str]:
    """Decisions, what was calibrated, and what to leave out: none can be made again from the pictures alone."""
    try:
        _ = store.exclude
    except CatalogDamaged:
        yield "what builds leave out is damaged"
    for number, digests, decided, found in store.rows("SELECT id, digests, decided_ns, checksum FROM decisions"):
        if checksums.of_decision(digests, decided) != found:
            yield f"decision {number} is damaged"
    for row, report, found in store.rows("SELECT model_id, report, checksum FROM calibrations"):
        if checksums.checksum(report.encode()) != found:
            yield f"the calibration of model {row} is damaged"
