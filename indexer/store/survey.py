"""What a build has found out by comparing folders with the store, kept in temporary tables: millions of files fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import Source, Stamp
from .connection import IN_ONE_STATEMENT, Connection
from .sqlite_errors import translated

# so many that no row is left over for a statement of its own
_FLUSH = 2 * IN_ONE_STATEMENT
_TODO = "INSERT INTO temp.todo (root_id, path, size, mtime_ns, ctime_ns, image_id) VALUES {}"
_GONE = "INSERT OR IGNORE INTO temp.gone VALUES {}"
_GONE_SKIPS = "INSERT INTO temp.gone_skips VALUES {}"
_LIVES_ON = "EXISTS (SELECT 1 FROM images AS other WHERE other.content_id = images.content_id AND other.generation > ?)"


class Survey:
    """Files to read, and images and skips whose files are gone. Ends with the connection, or with the next one."""

    def __init__(self, db: Connection) -> None:
        """Starts empty."""
        self._db = db
        self._waiting: dict[str, list[tuple[object, ...]]] = {_TODO: [], _GONE: [], _GONE_SKIPS: []}
        self.gone_by_root: dict[int | None, int] = {}
        with translated(db.path):
            db.sqlite.executescript(
                """
                DROP TABLE IF EXISTS temp.todo; DROP TABLE IF EXISTS temp.gone; DROP TABLE IF EXISTS temp.gone_skips;
                CREATE TEMP TABLE todo (id INTEGER PRIMARY KEY, root_id INTEGER, path BLOB,
                    size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, image_id INTEGER);
                CREATE TEMP TABLE gone (image_id INTEGER PRIMARY KEY);
                CREATE TEMP TABLE gone_skips (root_id INTEGER, path BLOB);
                """
            )

    def add_todo(self, root_id: int | None, path: bytes, stamp: Stamp, image_id: int | None) -> None:
        """A file to read; image_id where the store knows an older state of it."""
        self._add(_TODO, (root_id, path, *stamp, image_id))

    def add_gone(self, root_id: int | None, path: bytes, image_id: int | None) -> None:
        """An image, or (image_id None) a skip, whose file is gone."""
        if image_id is None:
            self._add(_GONE_SKIPS, (root_id, path))
        else:
            self._add(_GONE, (image_id,))
            self.gone_by_root[root_id] = self.gone_by_root.get(root_id, 0) + 1

    def counts(self) -> tuple[int, int, int]:
        """New files, files that the store knows an older state of, images that are gone."""
        self._flush()
        ((new, known),) = self._db.all("SELECT count(*) - count(image_id), count(image_id) FROM temp.todo")
        return new, known, int(self._db.all("SELECT count(*) FROM temp.gone")[0][0])

    def gone_skips(self) -> int:
        """Skips whose files are gone."""
        self._flush()
        return int(self._db.all("SELECT count(*) FROM temp.gone_skips")[0][0])

    def todo(self, roots: dict[int, bytes]) -> Iterator[tuple[Source, int | None]]:
        """The files to read, in the order in which they were found."""
        self._flush()
        last = 0
        while rows := self._db.all(
            "SELECT id, root_id, path, size, mtime_ns, ctime_ns, image_id FROM temp.todo "
            "WHERE id > ? ORDER BY id LIMIT ?",
            [last, _FLUSH],
        ):
            last = rows[-1][0]
            for _, root_id, path, size, mtime, ctime, image_id in rows:
                yield Source(root_id, roots[root_id], path, Stamp(size, mtime, ctime)), image_id

    def moved(self, since: int) -> int:
        """How many of the surveyed gone images live on under another path that was added since a generation."""
        self._flush()
        return int(
            self._db.one(
                """SELECT coalesce(sum(min(gone, added)), 0) FROM
                (SELECT content_id, count(*) AS gone FROM images JOIN temp.gone ON image_id = id GROUP BY content_id)
                JOIN (SELECT content_id, count(*) AS added FROM images WHERE generation > ? GROUP BY content_id)
                USING (content_id)""",
                [since],
            )
        )

    def moved_by_root(self, since: int) -> dict[int, int]:
        """Root id -> surveyed gone images whose content was added under another path since a generation."""
        self._flush()
        return dict(
            self._db.rows(
                # CROSS: begin with what is gone, which is mostly nothing, and not with every image
                f"SELECT root_id, count(*) FROM temp.gone CROSS JOIN images ON image_id = id WHERE {_LIVES_ON} "
                "GROUP BY root_id",
                [since],
            )
        )

    def spare(self, root_id: int, since: int) -> None:
        """Take the images of a root off the surveyed gone ones, but for those that have moved."""
        self._flush()
        with translated(self._db.path):
            self._db.sqlite.execute(
                "DELETE FROM temp.gone WHERE image_id IN "
                f"(SELECT id FROM images WHERE root_id = ? AND NOT {_LIVES_ON})",
                [root_id, since],
            )

    def finish(self, left: Sequence[int] = ()) -> None:
        """Forget the surveyed images and skips that are gone, then every content that no image holds any more.

        That is the last that a build changes, so it is noted that it came to its end.
        left: ids of roots that are not there any more; those of which nothing is known now are forgotten.
        """
        self._flush()
        with self._db.writing():
            self._db.sqlite.execute("DELETE FROM images WHERE id IN (SELECT image_id FROM temp.gone)")
            self._db.sqlite.execute(
                "DELETE FROM skips WHERE (root_id, path) IN (SELECT root_id, path FROM temp.gone_skips)"
            )
            self._db.sqlite.execute(
                "CREATE TEMP TABLE orphans AS SELECT id FROM contents WHERE id NOT IN (SELECT content_id FROM images)"
            )
            for table in ("labels", "vectors", "fingerprints"):
                self._db.sqlite.execute(f"DELETE FROM {table} WHERE content_id IN (SELECT id FROM temp.orphans)")
            self._db.sqlite.execute("DELETE FROM contents WHERE id IN (SELECT id FROM temp.orphans)")
            self._db.sqlite.execute("DROP TABLE temp.orphans")
            self._db.sqlite.executemany(
                "DELETE FROM roots WHERE id = ? AND NOT EXISTS (SELECT 1 FROM images WHERE root_id = roots.id) "
                "AND NOT EXISTS (SELECT 1 FROM skips WHERE root_id = roots.id)",
                [(root_id,) for root_id in left],
            )
            self._db.sqlite.execute(
                "INSERT OR REPLACE INTO meta VALUES ('finished', ?)", [str(self._db.generation + 1)]
            )

    def _add(self, statement: str, row: tuple[object, ...]) -> None:
        """Have a row wait until there are many: one at a time takes twenty times as long."""
        rows = self._waiting[statement]
        rows.append(row)
        if len(rows) >= _FLUSH:
            self._write(statement, rows)

    def _flush(self) -> None:
        for statement, rows in self._waiting.items():
            self._write(statement, rows)

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        self._db.many(statement, rows)
        rows.clear()
