"""What a build has found out by comparing folders with the store, kept in temporary tables: millions of files fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..records import Source, Stamp
from .sqlite_errors import translated

_FLUSH = 2000


class Survey:
    """Files to read, and images and skips whose files are gone. Ends with the connection, or with the next one."""

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        """Starts empty. path: of the database, for what goes wrong."""
        self._conn = conn
        self._path = path
        self._waiting: list[tuple[object, ...]] = []
        self.gone_by_root: dict[int, int] = {}
        conn.executescript(
            """
            DROP TABLE IF EXISTS temp.todo; DROP TABLE IF EXISTS temp.gone; DROP TABLE IF EXISTS temp.gone_skips;
            CREATE TEMP TABLE todo (id INTEGER PRIMARY KEY, root_id INTEGER, path BLOB,
                size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, image_id INTEGER);
            CREATE TEMP TABLE gone (image_id INTEGER PRIMARY KEY);
            CREATE TEMP TABLE gone_skips (root_id INTEGER, path BLOB);
            """
        )

    def add_todo(self, root_id: int, path: bytes, stamp: Stamp, image_id: int | None) -> None:
        """A file to read; image_id where the store knows an older state of it."""
        self._waiting.append((root_id, path, *stamp, image_id))
        if len(self._waiting) >= _FLUSH:
            self._flush()

    def add_gone(self, root_id: int, path: bytes, image_id: int | None) -> None:
        """An image, or (image_id None) a skip, whose file is gone."""
        if image_id is None:
            self._rows("INSERT INTO temp.gone_skips VALUES (?, ?)", [root_id, path])
        else:
            self._rows("INSERT OR IGNORE INTO temp.gone VALUES (?)", [image_id])
            self.gone_by_root[root_id] = self.gone_by_root.get(root_id, 0) + 1

    def counts(self) -> tuple[int, int, int]:
        """New files, files that the store knows an older state of, images that are gone."""
        self._flush()
        ((new, known),) = self._rows("SELECT count(*) - count(image_id), count(image_id) FROM temp.todo")
        return new, known, int(self._rows("SELECT count(*) FROM temp.gone")[0][0])

    def gone_skips(self) -> int:
        """Skips whose files are gone."""
        return int(self._rows("SELECT count(*) FROM temp.gone_skips")[0][0])

    def todo(self, roots: dict[int, bytes]) -> Iterator[tuple[Source, int | None]]:
        """The files to read, in the order in which they were found."""
        self._flush()
        last = 0
        while rows := self._rows(
            "SELECT id, root_id, path, size, mtime_ns, ctime_ns, image_id FROM temp.todo "
            "WHERE id > ? ORDER BY id LIMIT ?",
            [last, _FLUSH],
        ):
            last = rows[-1][0]
            for _, root_id, path, size, mtime, ctime, image_id in rows:
                yield Source(root_id, roots[root_id], path, Stamp(size, mtime, ctime)), image_id

    def _flush(self) -> None:
        with translated(self._path):
            self._conn.executemany(
                "INSERT INTO temp.todo (root_id, path, size, mtime_ns, ctime_ns, image_id) VALUES (?, ?, ?, ?, ?, ?)",
                self._waiting,
            )
        self._waiting.clear()

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with translated(self._path):
            return self._conn.execute(sql, values).fetchall()
