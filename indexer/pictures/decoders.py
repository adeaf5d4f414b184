"""Decoding in processes of their own: a picture that crashes, hangs or bloats its decoder costs only itself.

A worker is a bare Python with Pillow and NumPy. Requests and answers are one line of JSON through its pipes, and raw
bytes in memory that is shared with it: nothing that a taken-over decoder sends is ever executed here. Where many small
files wait, a request is for several of them; if anything goes wrong with it, each of them is tried alone.
"""

from __future__ import annotations

import itertools
import math
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Self

import numpy as np

from ..errors import PictureError
from ..preprocess import Pixels
from ..records import Preprocess
from .prepare import Limits, Prepared
from .worker import Job, Worker

# files of one request, and bytes of them where there are several: what a request costs here is then shared by many
GROUP, GROUP_BYTES = 8, 1 << 20


class Decoders:
    """A fixed number of supervised decoding processes, started on first use and started again when one dies.

    One thread talks to all of them: threads for each would wait for one another at every turn.
    """

    def __init__(
        self, preprocess: Preprocess, count: int, limits: Limits | None = None, exact: bool = True, stretch: int = 1
    ) -> None:
        """count: processes, at least 1. exact: see fit(). stretch: so many pictures lie in one array, as submitted."""
        self.preprocess = preprocess
        self.count = count
        self.limits = limits or Limits()
        self._workers = [Worker(preprocess, self.limits, exact) for _ in range(count)]
        self._lock = threading.RLock()  # for what follows
        self._rows = _rows((stretch, *preprocess.size, 3))
        self._waiting: deque[Job] = deque()
        self._again: deque[Job] = deque()  # to be decoded alone; they count as running
        self._thread: threading.Thread | None = None
        # Set: a worker is free and nothing waits, so that a new job has to ring. Not set: all are at work, or the
        # thread looks again before it sleeps, also where what it has just handed out came to nothing at once.
        self._asleep = False
        self._closing = False
        self._ear, self._bell = -1, -1

    def submit(self, data: bytes, kind: str) -> Future[Prepared]:
        """Decode one picture.

        The future's error is a PictureError, or an IndexerError where no decoding process can be started.
        """
        with self._lock:
            job = Job(data, kind, Future(), next(self._rows))
            if self._closing:
                job.future.cancel()
                return job.future
            self._waiting.append(job)
            if self._thread is None:
                self._ear, self._bell = os.pipe()
                self._thread = threading.Thread(target=self._serve, name="decoders", daemon=True)
                self._thread.start()
            elif self._asleep:
                self._wake()
        return job.future

    def close(self) -> None:
        """Drop what is not started and end the processes, also one in the middle of a picture."""
        with self._lock:
            self._closing = True
            if self._thread is None:
                return
            self._wake()
        self._thread.join()
        with self._lock:
            if self._ear >= 0:
                os.close(self._ear)
                os.close(self._bell)
                self._ear, self._bell = -1, -1

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()

    def _wake(self) -> None:
        self._asleep = False
        if self._bell >= 0:
            os.write(self._bell, b"!")

    def _serve(self) -> None:
        """The life of the thread: it hands out jobs, hears what comes of them, and ends what is late."""
        dropped: Exception = PictureError("not reached before the end")
        try:
            with selectors.DefaultSelector() as ears:
                ears.register(self._ear, selectors.EVENT_READ)
                while self._hand_out(ears):
                    for key, _ in ears.select(self._patience()):
                        if key.data is None:
                            os.read(self._ear, 64)
                        else:
                            self._hear(key.data, ears)
                    for worker in self._workers:
                        worker.kill_if_late()
        except Exception as error:  # a bug must not leave anyone waiting
            dropped = error
        finally:
            with self._lock:
                self._closing = True
                for job in self._waiting:
                    job.future.cancel()
            for job in itertools.chain(self._again, *(worker.jobs for worker in self._workers)):
                if not job.future.done():
                    job.settle(dropped)
            for worker in self._workers:
                worker.stop()

    def _hand_out(self, ears: selectors.BaseSelector) -> bool:
        """Give every worker that is free something to do while there is any; False at the end.

        Those that run come first.
        """
        free = sorted((worker for worker in self._workers if not worker.jobs), key=lambda w: w.process is None)
        for worker in free:
            with self._lock:
                if self._closing:
                    return False
                jobs = self._next()
                self._asleep = not jobs
            if not jobs:
                break
            worker.take(jobs)
            self._go_on(worker, ears)
        return not self._closing

    def _next(self) -> list[Job]:
        """What to decode next; several jobs only where the others have enough to do without them."""
        if self._again:
            return [self._again.popleft()]
        jobs: list[Job] = []
        most = min(max(len(self._waiting) // (2 * self.count), 1), GROUP)
        held = 0
        while self._waiting and len(jobs) < most:
            held += len(self._waiting[0].data)
            if jobs and held > GROUP_BYTES:
                break
            job = self._waiting.popleft()
            if job.future.set_running_or_notify_cancel():
                jobs.append(job)
        return jobs

    def _patience(self) -> float | None:
        """Seconds until the first worker is late, None where none is at work, 0 where a free one may have work."""
        with self._lock:
            if not self._asleep and not all(worker.jobs for worker in self._workers):
                return 0.0
        first = min(worker.deadline for worker in self._workers)
        return None if first == math.inf else max(first - time.monotonic(), 0.0)

    def _hear(self, worker: Worker, ears: selectors.BaseSelector) -> None:
        """Something has come from a worker, or its end."""
        try:
            answer = worker.hear()
            if answer is None:  # there is more to come
                return
            worker.answered(answer)
        except Exception as error:  # no answer, or whatever a process that was taken over can make of one
            self._failed(worker, ears, ended=isinstance(error, EOFError))
        self._go_on(worker, ears)

    def _go_on(self, worker: Worker, ears: selectors.BaseSelector) -> None:
        """Have a worker do what is next for its jobs: start, or decode."""
        while worker.jobs and worker.deadline == math.inf:
            if worker.process is not None and worker.process.poll() is not None:  # ended since its last answer
                _end(worker, ears)
            try:
                if worker.process is None:
                    worker.start()
                    ears.register(worker.ear, selectors.EVENT_READ, worker)
                else:
                    worker.ask()
            except Exception as error:
                self._failed(worker, ears, ended=isinstance(error, BrokenPipeError))

    def _failed(self, worker: Worker, ears: selectors.BaseSelector, ended: bool) -> None:
        """A worker did not do what it should: end it, and see what becomes of its jobs.

        A process that something else has killed (the system, out of memory) says nothing of the picture: once more.
        ended: it ended by itself, or soon will.
        """
        verdict, once_more = worker.verdict(), worker.was_killed_by_others(ended) and not worker.retried
        _end(worker, ears)
        if len(worker.jobs) > 1 and isinstance(verdict, PictureError):
            self._again.extend(worker.jobs)  # whichever of them it was
            worker.jobs = []
        elif once_more:
            worker.retried = True
        else:
            for job in worker.jobs:
                job.settle(verdict)
            worker.jobs = []


def _rows(shape: tuple[int, ...]) -> Iterator[Pixels]:
    """Room for one picture after the other, in arrays of some shape."""
    while True:
        yield from np.empty(shape, np.uint8)


def _end(worker: Worker, ears: selectors.BaseSelector) -> None:
    """End a worker's process, and hear of it no more."""
    if worker.process is not None and worker.ear in ears.get_map():
        ears.unregister(worker.ear)
    worker.stop()
