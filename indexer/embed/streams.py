"""Batches one after the other, in order, with the next ones under way: what every kind of device shares."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor

from ..preprocess import Pixels
from .embedder import Embedded

Finish = Callable[[], Embedded]
"""Waits for a batch that was started."""

# given_up: of the stream that a thread computes for
_here = threading.local()


def in_order(
    batches: Iterable[Pixels | None], start: Callable[[Pixels], Finish], ahead: int
) -> Generator[Embedded | None]:
    """What comes of each batch; None for None.

    start: begins with a batch. ahead: so many are under way before the oldest is waited for, at least 1.
    """
    under_way: deque[Finish | None] = deque()
    for batch in batches:
        under_way.append(None if batch is None else start(batch))
        if len(under_way) == ahead:
            finish = under_way.popleft()
            yield finish() if finish else None
    for finish in under_way:
        yield finish() if finish else None


def in_threads(
    batches: Iterable[Pixels | None],
    forward: Callable[[Pixels], Embedded],
    threads: int = 1,
    begin: Callable[[], object] = lambda: None,
) -> Generator[Embedded | None]:
    """The same with threads that do the work, for what computes while it is waited for.

    threads: so many batches are computed at a time, and one more waits. begin: called first in each of them.
    Given up early, it drops what waits, and what is computed ends where it next asks wanted().
    """
    given_up = threading.Event()

    def begun() -> None:
        _here.given_up = given_up
        begin()

    pool = ThreadPoolExecutor(threads, "embedder", begun)
    try:
        yield from in_order(batches, lambda batch: pool.submit(forward, batch).result, threads + 1)
    finally:
        given_up.set()
        pool.shutdown(wait=True, cancel_futures=True)


def wanted() -> None:
    """Raises CancelledError where this thread computes for a stream that was given up."""
    if (given_up := getattr(_here, "given_up", None)) and given_up.is_set():
        raise CancelledError
