"""What SQLite raises, in the words of indexer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CatalogDamaged, CatalogError, CatalogLocked

MEND = "Mend it with: indexer verify --repair."


def code_of(error: sqlite3.Error) -> int | None:
    """SQLite's result code, without what extends it; None for what Python raised itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Within, an error of SQLite becomes a CatalogError that names a database and the way out."""
    try:
        yield
    # a damaged schema gets into SQLite's message, and what is no Unicode there makes Python's own error of it
    except (sqlite3.Error, UnicodeDecodeError) as error:
        text = "text that is no Unicode" if isinstance(error, UnicodeDecodeError) else str(error)
        if any(word in text for word in ("malformed", "not a database", "no Unicode", "Could not decode")):
            raise damaged(path, text) from error
        if "same thread" in text:
            raise CatalogError(
                f"{path} was opened in another thread. Open a catalog in each thread that uses it: Catalog.open()."
            ) from error
        if "closed database" in text:
            raise CatalogError(f"{path} was closed. Open the catalog again.") from error
        if "locked" in text or "locking protocol" in text:
            raise CatalogLocked(f"{path} is busy with another process. Try again when that has ended.") from error
        raise CatalogError(f"{path} cannot be used ({text}). Check the disk and the permissions.") from error


def missing(path: Path) -> CatalogDamaged:
    """What to raise where a row is gone, or holds what nobody has written."""
    return damaged(path, "rows are missing or harmed")


def damaged(path: Path, what: str) -> CatalogDamaged:
    """What to raise where a file is not what was written."""
    return CatalogDamaged(f"{path} is damaged ({what}). {MEND} Restore a copy where that cannot.")
