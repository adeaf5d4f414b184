"""How catalog.sqlite came to its present format, one numbered step a function; store.FORMAT is the last of them.

The README's Format section says it in prose.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from sqlite_utils import Migrations

if TYPE_CHECKING:
    from sqlite_utils import Database

migrations = Migrations("indexer")


@migrations()
def m001_first_format(db: Database) -> None:
    """Everything that the first released version stores."""
    db.table("meta").create({"key": str, "value": str}, pk="key")
    db.table("meta").insert_all([{"key": "uuid", "value": str(uuid.uuid4())}, {"key": "generation", "value": "0"}])
    db.table("roots").create({"id": int, "path": bytes}, pk="id", not_null={"path"})
    db.table("roots").create_index(["path"], unique=True)
    db.table("models").create(
        {
            "id": int,
            "key": str,
            "name": str,
            "source": str,
            "weights": str,
            "preprocess": str,
            "pooling": str,
            "numerics": str,
            "dim": int,
            "current": int,
        },
        pk="id",
        not_null={"key", "name", "source", "weights", "preprocess", "pooling", "numerics", "dim", "current"},
    )
    db.table("models").create_index(["key"], unique=True)
    db.table("classes").create(
        {"model_id": int, "class": int, "name": str, "description": str},
        pk=("model_id", "class"),
        foreign_keys=[("model_id", "models", "id")],
    )
    db.table("contents").create(
        {
            "id": int,
            "sha256": bytes,
            "bytes": int,
            "width": int,
            "height": int,
            "format": str,
            "taken": str,
            "camera": str,
            "checksum": int,
        },
        pk="id",
        not_null={"sha256", "bytes", "width", "height", "format", "checksum"},
    )
    db.table("contents").create_index(["sha256"], unique=True)
    # what follows needs clauses that sqlite-utils has no words for: AUTOINCREMENT and WITHOUT ROWID
    for statement in _TABLES:
        db.execute(statement)
    db.create_view("pictures", _PICTURES)


@migrations()
def m002_shown(db: Database) -> None:
    """How much of a picture lies within its borders; NULL for what was read before."""
    db.execute("ALTER TABLE contents ADD COLUMN shown INTEGER")


@migrations()
def m003_holds(db: Database) -> None:
    """What a picture holds that another version of it may lack; NULL for what was read before."""
    db.execute("ALTER TABLE contents ADD COLUMN holds TEXT")


_STAMP = "size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL"
_TABLES = (
    f"""CREATE TABLE images (
        id INTEGER PRIMARY KEY, root_id INTEGER NOT NULL REFERENCES roots(id), path BLOB NOT NULL,
        content_id INTEGER NOT NULL REFERENCES contents(id), {_STAMP}, generation INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    "CREATE UNIQUE INDEX idx_images_root_id_path ON images (root_id, path)",
    "CREATE INDEX idx_images_content_id ON images (content_id)",
    """CREATE TABLE fingerprints (
        content_id INTEGER PRIMARY KEY REFERENCES contents(id), pixels BLOB NOT NULL, signature BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    "CREATE INDEX idx_fingerprints_pixels ON fingerprints (pixels)",
    # ids are never used twice: the neighbour index names vectors by them
    """CREATE TABLE vectors (
        id INTEGER PRIMARY KEY AUTOINCREMENT, content_id INTEGER NOT NULL REFERENCES contents(id),
        model_id INTEGER NOT NULL REFERENCES models(id), vector BLOB NOT NULL,
        labels_checksum INTEGER NOT NULL
    )""",
    "CREATE UNIQUE INDEX idx_vectors_content_id_model_id ON vectors (content_id, model_id)",
    """CREATE TABLE labels (
        content_id INTEGER NOT NULL REFERENCES contents(id), model_id INTEGER NOT NULL REFERENCES models(id),
        rank INTEGER NOT NULL, class INTEGER NOT NULL, probability REAL NOT NULL,
        PRIMARY KEY (content_id, model_id, rank)
    ) WITHOUT ROWID""",
    f"""CREATE TABLE skips (
        root_id INTEGER NOT NULL REFERENCES roots(id), path BLOB NOT NULL, {_STAMP},
        reason TEXT, tried_with TEXT NOT NULL, PRIMARY KEY (root_id, path)
    ) WITHOUT ROWID""",
    # what somebody has looked at and found to be no duplicates: the digests of the images' contents, in order
    """CREATE TABLE decisions (
        id INTEGER PRIMARY KEY, digests BLOB NOT NULL UNIQUE, decided_ns INTEGER NOT NULL, checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE calibrations (
        model_id INTEGER PRIMARY KEY REFERENCES models(id), report TEXT NOT NULL, checksum INTEGER NOT NULL
    )""",
)

# what a condition does not ask for is not looked up: a join would be, for every image that passes
_PICTURES = """
SELECT images.id AS image_id, images.content_id AS content_id,
    CAST(roots.path || '/' || images.path AS TEXT) AS path,
    contents.bytes AS bytes, contents.width AS width, contents.height AS height, lower(contents.format) AS format,
    contents.taken AS taken, contents.camera AS camera, lower(hex(contents.sha256)) AS sha256,
    images.mtime_ns / 1000000000.0 AS modified,
    (SELECT description FROM models JOIN labels ON labels.content_id = images.content_id AND labels.model_id = models.id
        JOIN classes ON classes.model_id = models.id AND classes.class = labels.class WHERE current = 1 AND rank = 1
    ) AS label,
    (SELECT probability FROM models JOIN labels ON labels.content_id = images.content_id AND labels.model_id = models.id
        WHERE current = 1 AND rank = 1) AS probability
FROM images
JOIN roots ON roots.id = images.root_id
JOIN contents ON contents.id = images.content_id
"""
