"""Batches one after the other, in order, with the next ones under way: what every kind of device shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor

from ..preprocess import Pixels
from .embedder import Embedded

Finish = Callable[[], Embedded]
"""Waits for a batch that was started."""


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


def in_thread(
    batches: Iterable[Pixels | None], forward: Callable[[Pixels], Embedded], ahead: int
) -> Generator[Embedded | None]:
    """The same with a thread that does the work, for what computes while it is waited for.

    Given up early, it lets the batch that is being computed come to its end, and drops the others.
    """
    thread = ThreadPoolExecutor(1, "embedder")
    try:
        yield from in_order(batches, lambda batch: thread.submit(forward, batch).result, ahead)
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
