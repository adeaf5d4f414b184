"""Commits in the background: a build goes on while what came before is written and synced."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .rows import Entry, Refusal, StoredModel
from .store import Store


class Writer:
    """Commits one stretch of files at a time, in a thread and over a connection of its own.

    Used by one thread. After a commit that failed nothing is written any more: later files may rest on earlier ones.
    """

    def __init__(self, store: Store) -> None:
        """store: whose file is written to; it sees what has been committed."""
        self._path = store.path
        self._own: Store | None = None
        self._thread = ThreadPoolExecutor(1, "writer")
        self._under_way: Future[None] | None = None
        self._files = 0
        self._failed = False

    def pending(self) -> int:
        """Files that are being committed; raises what went wrong with them."""
        if self._under_way is None or self._under_way.done():
            self.wait()
            return 0
        return self._files

    def commit(self, entries: Sequence[Entry], refusals: Sequence[Refusal], model: StoredModel | None) -> None:
        """Begin with Store.commit(), when the commit before has ended; raises what went wrong with that one."""
        self.wait()
        if not self._failed:
            self._files = len(entries) + len(refusals)
            self._under_way = self._thread.submit(self._commit, entries, refusals, model)

    def wait(self) -> None:
        """Until everything is committed; raises what went wrong."""
        under_way = self._under_way
        if under_way is None:
            return
        try:
            under_way.result()
        except Exception:
            self._failed = True
            raise
        finally:
            if under_way.done():  # and the wait was not broken off
                self._under_way = None

    def close(self) -> None:
        """Wait, and close the connection."""
        try:
            self.wait()
        finally:
            self._thread.submit(self._close).result()  # SQLite wants it closed by the thread that opened it
            self._thread.shutdown()

    def _commit(self, entries: Sequence[Entry], refusals: Sequence[Refusal], model: StoredModel | None) -> None:
        if self._own is None:
            self._own = Store(self._path)
        self._own.commit(entries, refusals, model)

    def _close(self) -> None:
        if self._own is not None:
            self._own.close()
