"""Decoding in processes of their own: a picture that crashes, hangs or bloats its decoder costs only itself.

A worker is a bare Python with Pillow and NumPy. Requests and answers are one line of JSON through its pipes, and raw
bytes in memory that is shared with it: nothing that a taken-over decoder sends is ever executed here. Where many small
files wait, a request is for several of them; if anything goes wrong with it, each of them is tried alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
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
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import IndexerError, PictureError
from ..preprocess import Pixels, fit
from ..records import Fingerprint, PictureInfo, Preprocess
from .decode import MAX_PIXELS, decode, load_plugins
from .signature import SIGNATURE_BYTES, signature_and_share

# what a worker runs; tests plant another
BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from indexer.pictures.workers import serve; serve()"
START_SECONDS = 60.0
# how often the watch looks
TICK_SECONDS = 0.1
# so much longer than its limit a worker lives in a picture that its parent, being gone, does not end
GRACE_SECONDS = 5.0
# how long a process that gives no answer may take to be gone
EXIT_SECONDS = 0.5
# bytes of the line that begins a request or an answer
MAX_LINE = 1 << 16
DIGEST_BYTES = 32
# files of one request, and bytes of them where there are several: what a request costs here is then shared by many
GROUP, GROUP_BYTES = 8, 1 << 20
# of the memory that is shared with a worker, what it keeps after a larger file
KEPT_BYTES = 16 << 20
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
    """A fixed number of supervised decoding processes, started on first use and started again when one dies."""

    def __init__(self, preprocess: Preprocess, count: int, limits: Limits | None = None) -> None:
        """count: processes, at least 1."""
        self.preprocess = preprocess
        self.count = count
        self.limits = limits or Limits()
        self._workers = [_Worker(preprocess, self.limits) for _ in range(count)]
        self._threads: list[threading.Thread] = []
        self._waiting: deque[_Job] = deque()
        self._free = 0  # threads that wait for a job
        self._changed = threading.Condition()
        self._closing, self._closed = threading.Event(), threading.Event()
        self._watch = threading.Thread(target=self._end_late, name="decoders' watch", daemon=True)
        self._watch.start()

    def submit(self, data: bytes, kind: str) -> Future[Prepared]:
        """Decode one picture.

        The future's error is a PictureError, or an IndexerError where no decoding process can be started.
        """
        job = _Job(data, kind, Future())
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
            if len(self._waiting) > self._free and len(self._threads) < self.count:
                worker = self._workers[len(self._threads)]
                self._threads.append(threading.Thread(target=self._serve, args=[worker], name="decoders", daemon=True))
                self._threads[-1].start()
        return job.future

    def _serve(self, worker: _Worker) -> None:
        """The life of a thread: it has jobs done by a worker of its own."""
        while jobs := self._next():
            outcomes: Sequence[Prepared | Exception]
            try:
                outcomes = worker.decode([(job.data, job.kind) for job in jobs])
            except Exception as error:  # a bug must not leave anyone waiting
                outcomes = [error] * len(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.settle(outcome)

    def _next(self) -> list[_Job]:
        """What to decode next, when there is something; nothing at the end.

        Several jobs only where the others have enough to do without them.
        """
        with self._changed:
            while not self._closing.is_set():
                jobs: list[_Job] = []
                held = 0
                most = min(max(len(self._waiting) // (2 * self.count), 1), GROUP)
                while self._waiting and len(jobs) < most:
                    held += len(self._waiting[0].data)
                    if jobs and held > GROUP_BYTES:
                        break
                    job = self._waiting.popleft()
                    if job.future.set_running_or_notify_cancel():
                        jobs.append(job)
                if jobs:
                    return jobs
                self._free += 1
                self._changed.wait()
                self._free -= 1
        return []

    def close(self) -> None:
        """Drop what is not started and end the processes, also one in the middle of a picture."""
        with self._changed:
            self._closing.set()
            for job in self._waiting:
                job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join()
        self._closed.set()
        self._watch.join()
        for worker in self._workers:
            worker.stop()

    def _end_late(self) -> None:
        """Kill what is over its time, or still starts while the others are closed; whatever it is doing."""
        while not self._closed.wait(TICK_SECONDS):
            for worker in self._workers:
                if self._closing.is_set():
                    worker.kill()
                else:
                    worker.kill_if_late()

    def __enter__(self) -> Decoders:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()


class _Worker:
    """One process, used by one thread at a time."""

    def __init__(self, preprocess: Preprocess, limits: Limits) -> None:
        self.settings = {"preprocess": preprocess.to_json(), "limits": asdict(limits)}
        self.shape = (*preprocess.size, 3)
        self.answer_bytes = math.prod(self.shape) + DIGEST_BYTES + SIGNATURE_BYTES
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self.shared = -1
        self.lock = threading.Lock()
        self.deadline = math.inf
        self.late = False
        self.ended = False

    def decode(self, files: Sequence[tuple[bytes, str]]) -> list[Prepared | IndexerError]:
        """What comes of each file; an IndexerError that is no PictureError where no process can be started."""
        if len(files) > 1:
            try:
                return self._decode(files)
            except (IndexerError, _KilledByOthers):
                pass  # whichever of them it was
        return [self._alone(data, kind) for data, kind in files]

    def _alone(self, data: bytes, kind: str) -> Prepared | IndexerError:
        """What comes of one file.

        A process that something else has killed (the system, out of memory) says nothing of the picture: once more.
        """
        verdict: IndexerError = PictureError("not reached before the end")
        for _ in range(0 if self.ended else 2):
            try:
                return self._decode([(data, kind)])[0]
            except IndexerError as error:
                return error
            except _KilledByOthers as error:
                verdict = error.verdict
        return verdict

    def _decode(self, files: Sequence[tuple[bytes, str]]) -> list[Prepared | IndexerError]:
        """Raises PictureError where the process fails at it, and IndexerError where none can be started."""
        if self.late or (self.process and self.process.poll() is not None):  # ended since its last answer
            self.stop()
        process = self.process or self._start()
        data = files[0][0] if len(files) == 1 else b"".join([data for data, _ in files])
        try:
            _put(self.shared, data)
            request = {"files": [(len(data), kind) for data, kind in files]}
            return self._unpacked(self._ask(process, request, self.limits.seconds)["answers"], len(files))
        except Exception:  # no answer, or whatever a process that was taken over can make of one
            late = f"took longer than {self.limits.seconds:g} s to decode"
            verdict = PictureError(late if self.late else "crashed the decoder")
            killed_by_others = self._was_killed_by_others(process)
            self.stop()
            if killed_by_others:
                raise _KilledByOthers(verdict) from None
            raise verdict from None
        finally:
            if self.shared >= 0 and len(data) > KEPT_BYTES:
                os.ftruncate(self.shared, 0)

    def _unpacked(self, answers: Sequence[dict[str, Any]], count: int) -> list[Prepared | IndexerError]:
        if len(answers) != count:
            raise ValueError(len(answers))
        outcomes: list[Prepared | IndexerError] = []
        good = sum("reason" not in answer for answer in answers)
        body = _take(self.shared, good * self.answer_bytes)  # a copy: the worker may go on writing
        start = 0
        for answer in answers:
            if "reason" in answer:
                outcomes.append(PictureError(str(answer["reason"])))
                continue
            known = start + math.prod(self.shape)
            pixels = np.frombuffer(body, np.uint8, known - start, start).reshape(self.shape)
            start += self.answer_bytes
            fingerprint = Fingerprint(body[known : known + DIGEST_BYTES], body[known + DIGEST_BYTES : start])
            decoding, fitting = map(float, answer["seconds"])
            outcomes.append(Prepared(pixels, PictureInfo(**answer["info"]), fingerprint, decoding, fitting))
        return outcomes

    def _was_killed_by_others(self, process: subprocess.Popen[bytes]) -> bool:
        with suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS)
        return process.returncode == -signal.SIGKILL and not self.late and not self.ended

    def _start(self) -> subprocess.Popen[bytes]:
        quiet = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self.shared = _shared_memory()
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff and friends write there as they like
                env={**os.environ, **quiet},
                pass_fds=[self.shared],
            )
            self._ask(self.process, {**self.settings, "shared": self.shared}, START_SECONDS)
        except Exception as error:
            process, verdict = self.process, IndexerError(NOT_STARTED)
            killed_by_others = process is not None and self._was_killed_by_others(process)
            self.stop()
            if killed_by_others:
                raise _KilledByOthers(verdict) from None
            raise verdict from error
        return self.process

    def _ask(self, process: subprocess.Popen[bytes], request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to one request, which the watch cuts short when it takes longer."""
        assert process.stdin and process.stdout
        with self.lock:
            self.deadline, self.late = time.monotonic() + seconds, False
        try:
            _send(process.stdin, request)
            return _receive(process.stdout)
        finally:
            with self.lock:
                self.deadline = math.inf

    def kill_if_late(self) -> None:
        with self.lock:
            if time.monotonic() > self.deadline:
                self.late = True
                if self.process is not None:
                    self.process.kill()

    def kill(self) -> None:
        """End the process; the thread that waits for its answer sees a crash."""
        self.ended = True
        process = self.process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        process, self.process, self.late = self.process, None, False
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


class _KilledByOthers(Exception):
    """SIGKILL, and not from here. verdict: what to say if it happens again."""

    def __init__(self, verdict: IndexerError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


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


def serve(answer: Callable[[bytes, str, Preprocess, Limits], Prepared] | None = None) -> None:
    """The worker's side: answer requests from stdin until it closes. answer: what to do with one, for tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers itself
    requests, answering = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a C library prints may mix with the answers
    settings = _receive(requests)
    shared = settings["shared"]
    preprocess, limits = Preprocess.from_json(settings["preprocess"]), Limits(**settings["limits"])
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
                prepared = (answer or prepare)(data[start : start + size], kind, preprocess, limits)
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


def prepare(data: bytes, kind: str, preprocess: Preprocess, limits: Limits) -> Prepared:
    """Decode one picture, fit it, and take its fingerprint."""
    started = time.process_time()
    decoded = decode(data, kind, limits.pixels)
    between = time.process_time()
    picture = decoded.picture
    digest = hashlib.sha256(b"%d x %d\n" % picture.size)
    digest.update(np.asarray(picture).data)  # tobytes() would be one more copy of all of it
    fitted = fit(picture, preprocess)
    likeness, share = signature_and_share(picture)
    info, known = replace(decoded.info, shown=round(1000 * share)), Fingerprint(digest.digest(), likeness)
    return Prepared(fitted, info, known, between - started, time.process_time() - between)


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
