"""Decoding in processes of their own: a picture that crashes, hangs or bloats its decoder costs only itself.

A worker is a bare Python with Pillow and NumPy. Requests and answers are one line of JSON through its pipes, and raw
bytes in memory that is shared with it: nothing that a taken-over decoder sends is ever executed here. Where many small
files wait, a request is for several of them; if anything goes wrong with it, each of them is tried alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..errors import IndexerError, PictureError
from ..preprocess import Pixels, fit
from ..records import Fingerprint, PictureInfo, Preprocess
from .decode import MAX_PIXELS, decode, load_plugins
from .signature import SIGNATURE_BYTES, seen

if TYPE_CHECKING:
    from PIL.Image import Image

# what a worker runs; tests plant another
BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from indexer.pictures.workers import serve; serve()"
START_SECONDS = 60.0
# so much longer than its limit a worker lives in a picture that its parent, being gone, does not end
GRACE_SECONDS = 5.0
# how long a process that gives no answer may take to be gone
EXIT_SECONDS = 0.5
# bytes of the line that begins a request or an answer
MAX_LINE = 1 << 16
DIGEST_BYTES = 32
# characters of a reason, or of a text that belongs to a picture
MAX_TEXT = 200
# files of one request, and bytes of them where there are several: what a request costs here is then shared by many
GROUP, GROUP_BYTES = 8, 1 << 20
# of the memory that is shared with a worker, what it keeps after a larger file
KEPT_BYTES = 16 << 20
# pixels that are hashed at once: their bytes stay in a core's cache
_HASHED = 1 << 18
# A worker's libraries have no threads. glibc keeps memory for the next picture, and takes pieces of up to 32 MB from
# it (it allows no more): to ask the system for that anew costs a large picture an eighth of its time.
_SETTINGS = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
NOT_STARTED = (
    "A decoding process could not be started. "
    "Check that there is memory and that more processes are allowed (ulimit -u)."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost. megabytes: on top of what a decoder needs at rest."""

    pixels: int = MAX_PIXELS
    seconds: float = 30.0
    megabytes: int = 3072

    @classmethod
    def for_pixels(cls, pixels: int) -> Limits:
        """Enough memory for a JPEG of so many pixels: some 9 bytes each were seen."""
        return cls(pixels, megabytes=max(cls().megabytes, pixels * 12 >> 20))


class Prepared(NamedTuple):
    """A decoded picture, fitted to the model. pixels: uint8 RGB, (height, width, 3).

    decoding, fitting: CPU seconds that its decoder took, and that the rest took.
    """

    pixels: Pixels
    info: PictureInfo
    fingerprint: Fingerprint
    decoding: float = 0.0
    fitting: float = 0.0


class _Job(NamedTuple):
    """One picture to decode."""

    data: bytes
    kind: str
    future: Future[Prepared]

    def settle(self, outcome: Prepared | Exception) -> None:
        """Let those who wait have it."""
        if isinstance(outcome, Prepared):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Decoders:
    """A fixed number of supervised decoding processes, started on first use and started again when one dies.

    One thread talks to all of them: threads for each would wait for one another at every turn.
    """

    def __init__(self, preprocess: Preprocess, count: int, limits: Limits | None = None, exact: bool = True) -> None:
        """count: processes, at least 1. exact: see fit()."""
        self.preprocess = preprocess
        self.count = count
        self.limits = limits or Limits()
        self._workers = [_Worker(preprocess, self.limits, exact) for _ in range(count)]
        self._lock = threading.RLock()  # for what follows
        self._waiting: deque[_Job] = deque()
        self._again: deque[_Job] = deque()  # to be decoded alone; they count as running
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
        job = _Job(data, kind, Future())
        with self._lock:
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

    def _next(self) -> list[_Job]:
        """What to decode next; several jobs only where the others have enough to do without them."""
        if self._again:
            return [self._again.popleft()]
        jobs: list[_Job] = []
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

    def _hear(self, worker: _Worker, ears: selectors.BaseSelector) -> None:
        """Something has come from a worker, or its end."""
        try:
            answer = worker.hear()
            if answer is None:  # there is more to come
                return
            worker.answered(answer)
        except Exception as error:  # no answer, or whatever a process that was taken over can make of one
            self._failed(worker, ears, ended=isinstance(error, EOFError))
        self._go_on(worker, ears)

    def _go_on(self, worker: _Worker, ears: selectors.BaseSelector) -> None:
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

    def _failed(self, worker: _Worker, ears: selectors.BaseSelector, ended: bool) -> None:
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


def _end(worker: _Worker, ears: selectors.BaseSelector) -> None:
    """End a worker's process, and hear of it no more."""
    if worker.process is not None and worker.ear in ears.get_map():
        ears.unregister(worker.ear)
    worker.stop()


class _Worker:
    """One process, and what it is at. All of it happens in the thread of Decoders."""

    def __init__(self, preprocess: Preprocess, limits: Limits, exact: bool) -> None:
        self.settings = {"preprocess": preprocess.to_json(), "limits": asdict(limits), "exact": exact}
        self.shape = (*preprocess.size, 3)
        self.answer_bytes = math.prod(self.shape) + DIGEST_BYTES + SIGNATURE_BYTES
        self.limits = limits
        self.jobs: list[_Job] = []
        self.retried = False  # with these jobs
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False  # it has started
        self.shared = -1
        self.heard = b""
        self.deadline = math.inf  # of the answer that is waited for
        self.late = False

    @property
    def ear(self) -> int:
        """The descriptor that its answers come from."""
        assert self.process and self.process.stdout
        return self.process.stdout.fileno()

    def take(self, jobs: list[_Job]) -> None:
        """Have it do these next."""
        self.jobs, self.retried = jobs, False

    def start(self) -> None:
        """Start a process; it says when it is ready."""
        self.shared = _shared_memory()
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff and friends write there as they like
            env={**os.environ, **_SETTINGS},
            pass_fds=[self.shared],
        )
        self._tell({**self.settings, "shared": self.shared}, START_SECONDS)

    def ask(self) -> None:
        """Have it decode its jobs."""
        data = self.jobs[0].data if len(self.jobs) == 1 else b"".join([job.data for job in self.jobs])
        _put(self.shared, data)
        self._tell({"files": [(len(job.data), job.kind) for job in self.jobs]}, self.limits.seconds)

    def _tell(self, message: dict[str, Any], seconds: float) -> None:
        assert self.process and self.process.stdin
        _send(self.process.stdin, message)
        self.deadline, self.late = time.monotonic() + seconds, False

    def hear(self) -> dict[str, Any] | None:
        """What it has sent: one line of JSON, None while that is not whole.

        Raises EOFError at its end, ValueError and others for what is no message.
        """
        data = os.read(self.ear, MAX_LINE)
        if not data:
            raise EOFError
        self.heard += data
        line, end, rest = self.heard.partition(b"\n")
        if not end:
            if len(line) > MAX_LINE:
                raise ValueError(len(line))
            return None
        self.heard = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def answered(self, answer: dict[str, Any]) -> None:
        """It has started, or its jobs are done. Raises whatever a wrong answer leads to."""
        if self.deadline == math.inf:
            raise ValueError("it was not asked")
        if self.ready:
            outcomes = self._unpacked(answer["answers"], len(self.jobs))
            if sum(len(job.data) for job in self.jobs) > KEPT_BYTES:
                os.ftruncate(self.shared, 0)
            for job, outcome in zip(self.jobs, outcomes, strict=True):
                job.settle(outcome)
            self.jobs = []
        self.ready, self.deadline = True, math.inf

    def _unpacked(self, answers: Sequence[dict[str, Any]], count: int) -> list[Prepared | PictureError]:
        if len(answers) != count:
            raise ValueError(len(answers))
        outcomes: list[Prepared | PictureError] = []
        good = sum("reason" not in answer for answer in answers)
        body = _take(self.shared, good * self.answer_bytes)  # a copy: the worker may go on writing
        start = 0
        for answer in answers:
            _check(answer, self.limits.pixels)
            if "reason" in answer:
                outcomes.append(PictureError(answer["reason"]))
                continue
            known = start + math.prod(self.shape)
            pixels = np.frombuffer(body, np.uint8, known - start, start).reshape(self.shape)
            start += self.answer_bytes
            fingerprint = Fingerprint(body[known : known + DIGEST_BYTES], body[known + DIGEST_BYTES : start])
            decoding, fitting = map(float, answer["seconds"])
            outcomes.append(Prepared(pixels, PictureInfo(**answer["info"]), fingerprint, decoding, fitting))
        return outcomes

    def verdict(self) -> IndexerError:
        """What to say of its jobs where it fails at them."""
        if not self.ready:
            return IndexerError(NOT_STARTED)
        late = f"took longer than {self.limits.seconds:g} s to decode"
        return PictureError(late if self.late else "crashed the decoder")

    def was_killed_by_others(self, ended: bool) -> bool:
        """Whether it was ended by SIGKILL, and not from here."""
        if self.process is None or not ended:
            return False
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)
        return self.process.returncode == -signal.SIGKILL and not self.late

    def kill_if_late(self) -> None:
        """End the process where its answer is overdue; that its pipe closes is heard of then."""
        if self.process is not None and time.monotonic() > self.deadline:
            self.late, self.deadline = True, math.inf
            self.process.kill()

    def stop(self) -> None:
        """End the process and forget it."""
        process, self.process, self.ready, self.late = self.process, None, False, False
        self.heard, self.deadline = b"", math.inf
        if self.shared >= 0:
            os.close(self.shared)
            self.shared = -1
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with suppress(OSError):  # what was buffered for a dead process
                    pipe.close()


def _check(answer: dict[str, Any], pixels: int) -> None:
    """See that the answer for one file is one that can be stored. pixels: that a picture may have.

    Raises ValueError, or whatever a wrong type leads to: a process that was taken over can claim anything.
    """

    def is_text(value: object, least: int = 1) -> bool:  # a lone surrogate, which SQLite would refuse, does not print
        return isinstance(value, str) and least <= len(value) <= MAX_TEXT and value.isprintable()

    def is_whole(value: object, least: int, most: int) -> bool:
        return type(value) is int and least <= value <= most

    if "reason" in answer:
        good = is_text(answer["reason"])
    else:
        texts = dict(answer["info"])
        width, height, shown = texts.pop("width"), texts.pop("height"), texts.pop("shown")
        good = (
            is_whole(width, 1, pixels)
            and is_whole(height, 1, pixels // width)
            and (shown is None or is_whole(shown, 0, 1000))
            and is_text(texts.pop("format"))
            and all(text is None or is_text(text, least=0) for text in texts.values())
            and all(0 <= seconds < math.inf for seconds in answer["seconds"])
        )
    if not good:
        raise ValueError("not of a picture")


def _send(pipe: IO[bytes], message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def _receive(pipe: IO[bytes]) -> dict[str, Any]:
    """One line of JSON. Raises EOFError at the end, ValueError and others for what is no message."""
    line = pipe.readline(MAX_LINE)
    if not line:
        raise EOFError
    message: dict[str, Any] = json.loads(line)
    return message


def _shared_memory() -> int:
    """A file in memory that has no name: nothing of it stays when its processes are gone, however they end.

    It is read and written, not mapped: one that is cut short by a worker that was taken over gives too few bytes, where
    a mapping would end this process.
    """
    if sys.platform == "linux":
        return os.memfd_create("indexer")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _put(shared: int, data: bytes, place: int = 0) -> int:
    """Write it; returns its length."""
    if os.pwrite(shared, data, place) != len(data):
        raise OSError("there is no room for it")
    return len(data)


def _take(shared: int, size: int) -> bytes:
    data = os.pread(shared, size, 0)
    if len(data) != size:
        raise ValueError(len(data))
    return data


def serve(answer: Callable[[bytes, str, Preprocess, Limits, bool], Prepared] | None = None) -> None:
    """The worker's side: answer requests from stdin until it closes. answer: what to do with one, for tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    requests, answering = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a C library prints may mix with the answers
    settings = _receive(requests)
    shared = settings["shared"]
    preprocess, limits = Preprocess.from_json(settings["preprocess"]), Limits(**settings["limits"])
    exact = settings["exact"]
    _prepare_process(limits)
    _send(answering, {})
    while True:
        try:
            request = _receive(requests)
        except EOFError:
            return
        data = _take(shared, sum(size for size, _ in request["files"]))
        answers: list[dict[str, Any]] = []
        room = start = 0
        for size, kind in request["files"]:
            # a worker whose parent is gone must not hang on for ever: the alarm ends it
            _alarm(limits.seconds + GRACE_SECONDS)
            try:
                prepared = (answer or prepare)(data[start : start + size], kind, preprocess, limits, exact)
            except PictureError as error:
                answers.append({"reason": error.reason})
            except MemoryError:
                answers.append({"reason": f"needed more than {limits.megabytes:,} MB to decode"})
            else:
                known = prepared.fingerprint
                room += _put(shared, prepared.pixels.tobytes() + known.pixels + known.signature, room)
                answers.append({"info": asdict(prepared.info), "seconds": (prepared.decoding, prepared.fitting)})
            start += size
        _send(answering, {"answers": answers})
        _alarm(0)


def prepare(data: bytes, kind: str, preprocess: Preprocess, limits: Limits, exact: bool = True) -> Prepared:
    """Decode one picture, fit it, and take its fingerprint. exact: see fit()."""
    started = time.process_time()
    decoded = decode(data, kind, limits.pixels)
    between = time.process_time()
    picture = decoded.picture
    fitted = fit(picture, preprocess, exact)
    look = seen(picture)
    holds = " ".join([*(["colour"] if look.coloured else []), *(decoded.info.holds or "").split()])
    info = replace(decoded.info, shown=round(1000 * look.share), holds=holds)
    known = Fingerprint(_digest(picture), look.signature)
    return Prepared(fitted, info, known, between - started, time.process_time() - between)


def _digest(picture: Image) -> bytes:
    """SHA-256 of the size and the pixels; some rows at a time, since a copy of all of them would not fit the caches."""
    width, height = picture.size
    digest = hashlib.sha256(b"%d x %d\n" % picture.size)
    step = max(_HASHED // width, 1)
    for top in range(0, height, step):
        rows = picture if step >= height else picture.crop((0, top, width, min(top + step, height)))
        digest.update(rows.tobytes())
    return digest.digest()


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _die_with_parent() -> None:
    """Have the system end this process when the one that started it is gone; elsewhere than on Linux the alarm does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)


def _prepare_process(limits: Limits) -> None:
    """Import what decoding needs, then allow so much memory on top."""
    from PIL import Image

    load_plugins()
    _die_with_parent()
    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before the pixels are decoded
    try:
        import resource
        from pathlib import Path

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is nothing to write gigabytes about
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # no such limit on this system
        return
    limit = pages * resource.getpagesize() + (limits.megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
