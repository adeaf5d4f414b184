"""What the threads of a web server ask: a catalog, which is for one thread, and thumbnails of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache
from threading import Timer
from typing import Self, TypeVar

from ..catalog import Catalog
from ..errors import PictureError, WrongModel
from ..records import ImageRecord
from .review import Review

THUMBNAIL = 320
# of some 15 KB
_KEPT = 2000
# seconds for a condition; others wait meanwhile
PATIENCE = 30.0

T = TypeVar("T")


class Clerk:
    """A thread that has the catalog open, and answers one question at a time."""

    def __init__(self, open_catalog: Callable[[], Catalog]) -> None:
        """open_catalog: opens it for reading. Raises what that does."""
        self._open = open_catalog
        with ExitStack() as opened:
            self._thread = opened.enter_context(ThreadPoolExecutor(1, "catalog"))
            self._catalog = self._thread.submit(open_catalog).result()
            self._ending = opened.pop_all()

    def ask(self, question: Callable[[Catalog], T]) -> T:
        """What the catalog answers."""
        return self._thread.submit(self._answer, question).result()

    def close(self) -> None:
        """End the thread, and a condition that it may be looking at."""
        self._catalog.interrupt()
        self._thread.submit(lambda: self._catalog.close()).result()
        self._ending.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()

    def _answer(self, question: Callable[[Catalog], T]) -> T:
        if not self._catalog.is_in_place:
            self._reopen()
        alarm = Timer(PATIENCE, self._interrupt)
        alarm.start()
        try:
            return question(self._catalog)
        except WrongModel:  # a build went over to another one since ours was loaded
            self._reopen()
            return question(self._catalog)
        finally:
            alarm.cancel()
            alarm.join()  # the catalog may be closed next

    def _interrupt(self) -> None:
        self._catalog.interrupt()

    def _reopen(self) -> None:
        before, self._catalog = self._catalog, self._open()
        before.close()


class Desk:
    """Two clerks, of whom one may be busy with the model for long, and what finds duplicates and makes thumbnails."""

    def __init__(self, open_catalog: Callable[[], Catalog]) -> None:
        """open_catalog: see Clerk."""
        with ExitStack() as opened:
            self.ask = opened.enter_context(Clerk(open_catalog)).ask
            """For what is in the catalog."""
            self.ask_for_new = opened.enter_context(Clerk(open_catalog)).ask
            """For pictures that may have to go through the model."""
            self.review = opened.enter_context(Review(open_catalog))
            """For duplicates."""
            self._thumbnails = opened.enter_context(Catalog.thumbnails(THUMBNAIL))
            self._ending = opened.pop_all()
        self.thumbnail = lru_cache(_KEPT)(self._thumbnail)
        """A JPEG of some files of the same bytes. Raises PictureError."""

    def thumbnail_of(self, path: str) -> bytes:
        """A JPEG of a file that is in no catalog. Raises PictureError."""
        return self._thumbnails.of(path)

    def close(self) -> None:
        """End the threads and the decoders."""
        self._ending.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()

    def _thumbnail(self, copies: tuple[ImageRecord, ...]) -> bytes:
        return first_of(copies, self._thumbnails.of)


def first_of(copies: Sequence[ImageRecord], get: Callable[[ImageRecord], bytes]) -> bytes:
    """What is had of the first file for which it can be had. copies: files of the same bytes. Raises PictureError."""
    for image in copies[:-1]:
        with suppress(PictureError):
            return get(image)
    return get(copies[-1])
