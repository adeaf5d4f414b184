"""What SQLite raises, in the words of indexer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CatalogDamaged, CatalogError


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Within, an error of SQLite becomes a CatalogError that names a database and the way out."""
    try:
        yield
    # a damaged schema gets into SQLite's message, and what is no Unicode there makes Python's own error of it
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        text = "text that is no Unicode" if isinstance(error, UnicodeDecodeError) else str(error)
        if any(word in text for word in ("malformed", "not a database", "no Unicode", "Could not decode")):
            raise CatalogDamaged(
                f"{path} is damaged ({text}). Restore a copy, or build a new catalog in another folder."
            ) from error
        if "locked" in text:
            raise CatalogError(f"{path} is busy with another process. Try again when that has ended.") from error
        raise CatalogError(f"{path} cannot be used ({text}). Check the disk and the permissions.") from error
