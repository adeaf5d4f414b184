"""Duplicates, looked for beside what else is asked, and what was chosen to be done with them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from threading import Event, Lock
from typing import Any, Self

from ..catalog import Catalog
from ..errors import IndexerError
from ..records import Action, DuplicatesReport, Progress


class Round:
    """One search for duplicates, and what was chosen for the images that it found."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """options: as of Catalog.duplicates(). Use Review.look()."""
        self.id = token_hex(8)
        """By which what comes back is known to be about these groups."""
        self.options = options
        self.progress = Progress("compare")
        self.actions: dict[str, Action] = {}
        """What was chosen, by path; for other images it is what the report proposes."""
        self.report: Future[DuplicatesReport] = Future()
        self._said: dict[tuple[str, str], Action] = {}  # by page and path
        self._ended = Event()

    def choose(self, page: str, paths: Sequence[str], action: Action, was: str | None = None) -> None:
        """What a page says of some images. was: what it said when it was made; None for what is asked for just now.

        It may have lain open while something was chosen on another: where it says what it said before, that stands.
        """
        for path in paths:
            if was is None or action != self._said.get((page, path), was):
                self.actions[path] = self._said[page, path] = action

    def search(self, open_catalog: Callable[[], Catalog]) -> None:
        """Fill in the report, or why there is none."""
        try:
            self._note(self.progress)
            with open_catalog() as catalog:
                self.report.set_result(catalog.duplicates(**self.options, progress=self._note))
        except BaseException as error:
            if not isinstance(error, IndexerError | CancelledError):
                logging.getLogger(__name__).exception("Looking for duplicates failed")
            self.report.set_exception(error)

    @property
    def is_over(self) -> bool:
        """Whether there is a report, or an error in its place; one that was ended is not."""
        return self.report.done() and not isinstance(self.report.exception(), CancelledError)

    def end(self) -> None:
        """Have the search stop as soon as it can."""
        self._ended.set()

    def plan(self) -> bytes:
        """What was found and chosen, as a plan. Raises InvalidArgument where a group would keep nothing."""
        with tempfile.TemporaryDirectory(prefix="indexer-") as folder:
            file = Path(folder) / "plan.json"
            Catalog.plan(self.report.result(), file, self.actions)
            return file.read_bytes()

    def _note(self, progress: Progress) -> None:
        if self._ended.is_set():
            raise CancelledError
        self.progress = progress


class Review:
    """The round that was begun last. All who ask the server share it."""

    def __init__(self, open_catalog: Callable[[], Catalog]) -> None:
        """open_catalog: opens it for reading, in a thread of its own."""
        self._open = open_catalog
        self.round: Round | None = None
        self._beginning = Lock()
        self._thread = ThreadPoolExecutor(1, "duplicates")

    def look(self, options: Mapping[str, Any]) -> None:
        """Begin a round in the place of the one before."""
        with self._beginning:
            self._end()
            self.round = Round(options)
            self._thread.submit(self.round.search, self._open)

    def stop(self) -> None:
        """End the round, and forget it."""
        with self._beginning:
            self._end()
            self.round = None

    def _end(self) -> None:
        if self.round is not None:
            self.round.end()

    def __enter__(self) -> Self:
        """Stop searching at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop searching, and wait until that is so."""
        with self._beginning:
            self._end()
            self._thread.shutdown(cancel_futures=True)
