"""An open catalog.sqlite: its format, its transactions, and statements whose errors are translated.

The one door to sqlite-utils.
"""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from ..errors import CatalogError, CatalogLocked, CatalogNotFound, WrongFormat
from ..files import network_file_system, replacement
from . import handles, seal
from .sqlite_errors import code_of, damaged, missing, translated

# 'IDXR': what `file` and SQLite tools show for a catalog
APPLICATION_ID = 0x49445852
FORMAT = 3
# by what SQLite says that it cannot make its log files
_NO_ROOM = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)
BUSY_SECONDS = 60.0
_RETRY_SECONDS = 0.01
LOG_PAGES = 16384
# values that one statement takes; SQLite allowed 999 for a long time
IN_ONE_STATEMENT = 900
# rows that are read at once where a whole table streams by
CHUNK = 8192

_INDEX_NAME = re.compile("[0-9a-f]{16}")
State: TypeAlias = tuple[int, ...]


class Connection:
    """An open catalog.sqlite."""

    def __init__(self, path: Path, *, readonly: bool = False, making: bool = False) -> None:
        """Opens it, and migrates it unless readonly; making: it may be new."""
        self.path = path
        self.readonly = readonly
        self._in_snapshot = False
        self._open(making)
        self.path = Path(os.path.abspath(path))  # whatever becomes of the current folder

    def _open(self, making: bool = False) -> None:
        with ExitStack() as undo, translated(self.path):
            if self._is_lost():
                raise damaged(self.path, "it was sealed, and nothing of it is there")
            try:
                self._inode = handles.hold(self.path, making=making)
            except OSError as error:
                raise CatalogError(
                    f"{self.path} cannot be opened ({error.strerror}). Check the disk and the permissions."
                ) from error
            undo.callback(handles.let_go, self._inode)
            # _as_it_was: the state of a file that is read without locks, None where there are locks
            connected = _connect_readonly(self.path) if self.readonly else (_connect(self.path), None)
            self.sqlite, self._as_it_was = connected
            undo.callback(self.sqlite.close)
            with self._unchanged():
                self._prepare(making)
            self._undo = undo.pop_all()

    def _prepare(self, making: bool) -> None:
        self.sqlite.execute("PRAGMA synchronous = FULL")
        self.sqlite.execute("PRAGMA foreign_keys = ON")
        self.sqlite.execute("PRAGMA cache_size = -16384")  # KiB; more makes nothing faster
        # pages: SQLite's 1,000 would have every commit of a build also write to the file itself, and sync it
        self.sqlite.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if not self._is_empty():
            self._check_format()
        elif making:
            self._use_log()
        else:  # whoever was making it was killed before the first commit
            folder = self.path.parent
            raise CatalogNotFound(f"The catalog in {folder} was never finished. Make it: indexer build FOLDER.")
        if self.readonly:
            read_as_present(self.sqlite)
            self.sqlite.execute("PRAGMA query_only = ON")
        else:
            self._migrate()

    def _use_log(self) -> None:
        """For this SQLite does not wait by itself until another process that makes the same catalog has done so."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.sqlite.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Close the file; SQLite folds its write-ahead log in."""
        with translated(self.path):
            self.sqlite.close()  # refused in another thread; what keeps its locks has to stay until it is closed
        self._undo.close()

    # -- reading without locks -------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Open a file anew that is read without locks, and that somebody has changed."""
        if self._as_it_was is None or (_state_of(self.path) == self._as_it_was and not has_log(self.path)):
            return
        old = self.sqlite, self._as_it_was, self._inode, self._undo
        try:
            self._open()
        except BaseException:
            self.sqlite, self._as_it_was, self._inode, self._undo = old
            raise
        old[-1].close()

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """What is read within comes from one state of the file, also without locks. Raises CatalogLocked otherwise."""
        before = self._as_it_was
        refusal = f"The catalog {self.path.parent} was being built while it was read. Try again."

        def changed() -> bool:
            return before is not None and _state_of(self.path) != before

        try:
            yield
        except Exception as error:  # a mixture of two states may raise anything
            if changed():
                raise CatalogLocked(refusal) from error
            raise
        if changed():
            raise CatalogLocked(refusal)

    def _reading(self) -> AbstractContextManager[None]:
        return translated(self.path) if self._as_it_was is None or self._in_snapshot else self._reading_unlocked()

    @contextmanager
    def _reading_unlocked(self) -> Iterator[None]:
        self._renew()
        with self._unchanged(), translated(self.path):
            yield

    # -- format ----------------------------------------------------------------------------------------------------

    def _is_lost(self) -> bool:
        """Whether only the seal is left of a catalog, which a new one must not take the place of."""
        if not os.path.exists(self.path.with_name(seal.FILE)):
            return False
        try:
            return not os.path.getsize(self.path)
        except FileNotFoundError:
            return True

    def _is_empty(self) -> bool:
        return bool(self.one("PRAGMA schema_version") == 0)

    def _check_format(self) -> None:
        application, found = self.one("PRAGMA application_id"), self.one("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise WrongFormat(f"{self.path} is not a catalog. Give --catalog the folder of one, or build a new one.")
        if found > FORMAT:
            raise WrongFormat(f"{self.path} has format {found}; this indexer knows up to {FORMAT}. Upgrade indexer.")

    def _migrate(self) -> None:
        if self.format == FORMAT:
            return
        from sqlite_utils import Database  # a tenth of a second, which most openings need not wait for

        from .migrations import migrations

        with self.writing():
            found = self.format  # another process may have been here first
            if found:
                self._check_format()
            if 0 < found < FORMAT:
                self._copy(found)
            if found < FORMAT:
                migrations.apply(Database(self.sqlite))
                self.sqlite.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self.sqlite.execute(f"PRAGMA user_version = {FORMAT}")

    def _copy(self, found: int) -> None:
        """A whole copy, before a migration changes anything; one that is there already stays."""
        for number in itertools.count():
            target = self.path.with_name(f"catalog.format-{found}{f'-{number}' if number else ''}.sqlite")
            if not target.exists():
                break
            if self._is_state_of(target):  # of a migration that failed
                return
        with replacement(target) as temporary:
            temporary.unlink(missing_ok=True)
            # over another connection: SQLite copies nothing over one that writes
            with closing(_connect_as(self.path, "ro")) as source, closing(sqlite3.connect(temporary)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")
                source.backup(copy)

    def _is_state_of(self, copy: Path) -> bool:
        sql = "SELECT value FROM meta WHERE key IN ('uuid', 'generation') ORDER BY key"
        with suppress(sqlite3.Error), closing(_connect_as(copy, "ro&immutable=1")) as opened:
            return opened.execute(sql).fetchall() == self.sqlite.execute(sql).fetchall()
        return False

    @property
    def format(self) -> int:
        """The number of the file's format."""
        return int(self.one("PRAGMA user_version"))

    @property
    def uuid(self) -> str:
        """Made when the catalog was created, and never changed."""
        return str(self.one("SELECT value FROM meta WHERE key = 'uuid'"))

    @property
    def generation(self) -> int:
        """How many transactions have been committed."""
        return int(self.one("SELECT value FROM meta WHERE key = 'generation'"))

    @property
    def finished(self) -> int:
        """The generation in which the last build came to its end; what is newer comes from builds that did not."""
        row = self.row("SELECT value FROM meta WHERE key = 'finished'")
        return int(row[0]) if row else 0

    @property
    def neighbours(self) -> str:
        """The name of the neighbour index that goes with this generation; empty where there is none that can be one."""
        row = self.row("SELECT value FROM meta WHERE key = 'neighbours'")
        return row[0] if row and isinstance(row[0], str) and _INDEX_NAME.fullmatch(row[0]) else ""

    def interrupt(self) -> None:
        """End the statement that is running, if there is one; from another thread."""
        self.sqlite.interrupt()

    @property
    def is_in_place(self) -> bool:
        """Whether no repair, and nobody else, has put another file in the place of this one, or taken it away."""
        return handles.inode_of(self.path) == self._inode

    def require_in_place(self) -> None:
        """Raises CatalogError where it is not in its place: what is written is lost."""
        if not self.is_in_place:
            raise CatalogError(f"{self.path} was replaced since it was opened. Open the catalog again.")

    # -- statements --------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, which makes the next generation, or nothing at all."""
        with translated(self.path):
            self.require_in_place()
            if not self.readonly:
                seal.break_it(self.path)
            self.sqlite.execute("BEGIN IMMEDIATE")  # a lock taken at the start cannot fail half-way
            try:
                yield
                self.sqlite.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
                self.sqlite.commit()
            except BaseException:
                self.sqlite.rollback()
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything that is read within comes from one generation."""
        self._renew()
        with self._unchanged(), translated(self.path):
            self.sqlite.execute("BEGIN")
            self._in_snapshot = True
            try:
                yield
            finally:
                self._in_snapshot = False
                self.sqlite.rollback()

    def rows(self, sql: str, values: Any = ()) -> Iterator[Any]:
        """Rows of a statement, as they come."""
        with self._reading():
            yield from self.sqlite.execute(sql, values)

    def all(self, sql: str, values: Any = ()) -> list[Any]:
        """All its rows, so that it has ended."""
        with self._reading():
            return self.sqlite.execute(sql, values).fetchall()

    def row(self, sql: str, values: Any = ()) -> Any:
        """Its first row, or None."""
        with self._reading():
            return self.sqlite.execute(sql, values).fetchone()

    def one(self, sql: str, values: Any = ()) -> Any:
        """The first value of its first row, which is always there."""
        row = self.row(sql, values)
        if row is None:
            raise missing(self.path)
        return row[0]

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement with VALUES {} over all rows, many at a time: SQLite lets other threads run meanwhile.

        Statements are of a few lengths only, since sqlite3 keeps the last hundred of them.
        """
        if not rows:
            return
        width = len(rows[0])
        one, at_once = f"({','.join('?' * width)})", IN_ONE_STATEMENT // width
        with translated(self.path):
            start = 0
            while left := len(rows) - start:
                part = rows[start : start + (at_once if left >= at_once else 1 << left.bit_length() - 1)]
                self.sqlite.execute(sql.format(",".join([one] * len(part))), list(itertools.chain.from_iterable(part)))
                start += len(part)

    def rows_in(self, sql: str, values: Sequence[Any], first: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows of a statement with an IN ({}) of any length."""
        for start in range(0, len(values), IN_ONE_STATEMENT):
            part = values[start : start + IN_ONE_STATEMENT]
            yield from self.all(sql.format(",".join("?" * len(part))), [*first, *part])


def in_parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The same rows in lists of some size."""
    part: list[Any] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def read_as_present(conn: sqlite3.Connection) -> None:
    """Have a file of an older format look like one of the present format, for somebody who must not change it.

    A temporary view goes before the table of the same name.
    """
    columns = {name for (name,) in conn.execute("SELECT name FROM pragma_table_info('contents')")}
    missing = [f"NULL AS {name}" for name in ("shown", "holds") if name not in columns]
    if columns and missing:
        conn.execute(f"CREATE TEMP VIEW contents AS SELECT *, {', '.join(missing)} FROM main.contents")


def has_log(database: Path) -> bool:
    """Whether SQLite's log holds anything that may not be in the file yet; whoever leaves last deletes the log."""
    try:
        return database.with_name(database.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _connect_readonly(path: Path) -> tuple[sqlite3.Connection, State | None]:
    """A connection that changes nothing, and the state of the file where that is read without locks.

    Where the folder can be written it is an ordinary one, which tidies SQLite's log files up when it closes. Otherwise
    SQLite can only use log files that somebody else has made, and without them must take the file for one that never
    changes; the same goes for a disk that is too full for them. Whoever reads so has to look at the file's state.
    """
    state = _state_of(path)  # before a log is looked for: whoever changes the file makes one first
    writable = os.access(path.parent, os.W_OK) and os.access(path, os.W_OK) and not network_file_system(path)
    if writable or path.with_name(path.name + "-wal").exists():
        conn = _connect_as(path, "rw" if writable else "ro")
        try:
            conn.execute("PRAGMA schema_version")
            return conn, None
        except sqlite3.Error as error:
            conn.close()
            if code_of(error) not in _NO_ROOM or has_log(path):
                raise
    return _connect_as(path, "ro&immutable=1"), state


def _state_of(path: Path) -> State:
    """What changes with every change of a file; nothing for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _connect_as(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.resolve()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
