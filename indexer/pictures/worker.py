"""One decoding process as its parent sees it: started, asked, heard, ended. serving.py is what runs in it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

from ..errors import IndexerError, PictureError
from ..preprocess import Pixels
from ..records import Fingerprint, PictureInfo, Preprocess
from .exchange import MAX_LINE, put, send, shared_memory, take_into
from .prepare import DIGEST_BYTES, Limits, Prepared
from .signature import SIGNATURE_BYTES

# what a worker runs; tests plant another
BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from indexer.pictures.serving import serve; serve()"
START_SECONDS = 60.0
# how long a process that gives no answer may take to be gone
EXIT_SECONDS = 0.5
# characters of a reason, or of a text that belongs to a picture
MAX_TEXT = 200
# of the memory that is shared with a worker, what it keeps after a larger file
KEPT_BYTES = 16 << 20
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


class Job(NamedTuple):
    """One picture to decode. room: where it goes, uint8 (height, width, 3)."""

    data: bytes
    kind: str
    future: Future[Prepared]
    room: Pixels

    def settle(self, outcome: Prepared | Exception) -> None:
        """Let those who wait have it."""
        if isinstance(outcome, Prepared):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Worker:
    """One process, and what it is at. All of it happens in the thread of Decoders."""

    def __init__(self, preprocess: Preprocess, limits: Limits, exact: bool) -> None:
        """exact: see fit()."""
        self.settings = {"preprocess": preprocess.to_json(), "limits": asdict(limits), "exact": exact}
        self.limits = limits
        self.jobs: list[Job] = []
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

    def take(self, jobs: list[Job]) -> None:
        """Have it do these next."""
        self.jobs, self.retried = jobs, False

    def start(self) -> None:
        """Start a process; it says when it is ready."""
        self.shared = shared_memory()
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
        put(self.shared, data)
        self._tell({"files": [(len(job.data), job.kind) for job in self.jobs]}, self.limits.seconds)

    def _tell(self, message: dict[str, Any], seconds: float) -> None:
        assert self.process and self.process.stdin
        send(self.process.stdin, message)
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
            outcomes = self._unpacked(answer["answers"])
            if sum(len(job.data) for job in self.jobs) > KEPT_BYTES:
                os.ftruncate(self.shared, 0)
            for job, outcome in zip(self.jobs, outcomes, strict=True):
                job.settle(outcome)
            self.jobs = []
        self.ready, self.deadline = True, math.inf

    def _unpacked(self, answers: Sequence[dict[str, Any]]) -> list[Prepared | PictureError]:
        if len(answers) != len(self.jobs):
            raise ValueError(len(answers))
        known = [bytearray(DIGEST_BYTES + SIGNATURE_BYTES) for _ in answers]
        good = [i for i, answer in enumerate(answers) if "reason" not in answer]
        # copies: the worker may go on writing
        take_into(self.shared, [room for i in good for room in (self.jobs[i].room.data, known[i])])
        outcomes: list[Prepared | PictureError] = []
        for answer, job, found in zip(answers, self.jobs, known, strict=True):
            _check(answer, self.limits.pixels)
            if "reason" in answer:
                outcomes.append(PictureError(answer["reason"]))
                continue
            fingerprint = Fingerprint(bytes(found[:DIGEST_BYTES]), bytes(found[DIGEST_BYTES:]))
            decoding, fitting = map(float, answer["seconds"])
            outcomes.append(Prepared(job.room, PictureInfo(**answer["info"]), fingerprint, decoding, fitting))
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
