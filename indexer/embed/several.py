"""Several devices that embed together: a process each, batches dealt out in turn, results in order.

A process is a bare Python that loads the same model from the same file. Pictures and results pass through memory that
both sides map; requests and answers are lines of JSON through its pipes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import IndexerError, ModelError, OutOfMemory
from ..preprocess import Pixels
from ..records import Label, ModelId, Preprocess
from .embedder import TOP_LABELS, Embedded, Embedder, Vectors, load_embedder
from .streams import Finish, in_order

# batches a device holds: as many as its own pipeline takes, and one more to come
SLOTS = 4
BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from indexer.embed.several import serve; serve()"


class SeveralDevices:
    """An Embedder whose stream() runs on several devices; for what is not a stream the first of them is enough."""

    def __init__(self, first: Embedder, devices: Sequence[str]) -> None:
        """first: the model on the first device. devices: all of them, as load_embedder() takes one."""
        self._first = first
        self._devices = devices
        self._remarks: list[str] = []

    @property
    def id(self) -> ModelId:
        """What decides the vectors."""
        return self._first.id

    @property
    def source(self) -> str:
        """What load_embedder() was given."""
        return self._first.source

    @property
    def device(self) -> str:
        """All of them."""
        return ", ".join(self._devices)

    @property
    def precision(self) -> str:
        """How they compute."""
        return self._first.precision

    @property
    def batch_size(self) -> int:
        """Pictures a forward pass of one device."""
        return self._first.batch_size

    @property
    def remarks(self) -> Sequence[str]:
        """Those of all devices."""
        return [*self._first.remarks, *self._remarks]

    @property
    def classes(self) -> Sequence[tuple[str, str]]:
        """Name and description of every class."""
        return self._first.classes

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become its input."""
        return self._first.preprocess

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        """See Embedder; on the first device."""
        return self._first.forward(batch, k)

    def forward_tokens(self, batch: Pixels) -> Vectors:
        """See Embedder; on the first device."""
        return self._first.forward_tokens(batch)

    def embed(self, images: Sequence[Pixels]) -> Vectors:
        """See Embedder; on the first device."""
        return self._first.embed(images)

    def tokens(self, images: Sequence[Pixels]) -> Vectors:
        """See Embedder; on the first device."""
        return self._first.tokens(images)

    def classify(self, images: Sequence[Pixels], k: int = TOP_LABELS) -> list[tuple[Label, ...]]:
        """See Embedder; on the first device."""
        return self._first.classify(images, k)

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        """See Embedder. The processes are started for it and end with it; a few pictures are not worth that.

        Raises ModelError when one of them dies, OutOfMemory when a single picture does not fit its device.
        """
        if total is not None and total <= self.batch_size * len(self._devices):
            yield from self._first.stream(batches, total)
            return
        share = None if total is None else math.ceil(total / len(self._devices))
        with ExitStack() as stack:
            workers: list[_Worker] = []
            for device in self._devices:
                workers.append(_Worker(self._first, device, share))
                stack.callback(workers[-1].stop)
            for worker in workers:
                worker.begin()
            for worker in workers:
                worker.wait_until_ready()
            turns = deque(workers)

            def start(batch: Pixels) -> Finish:
                worker = turns[0]
                turns.rotate(-1)
                return worker.start(batch)

            yield from in_order(batches, start, SLOTS * len(workers))
            for worker in workers:
                self._remarks += worker.remarks()


@dataclass(frozen=True)
class _Shape:
    """What one slot of the shared memory holds: `rows` pictures, and what is made of them."""

    rows: int
    height: int
    width: int
    dim: int
    labels: int

    @property
    def parts(self) -> list[tuple[tuple[int, ...], type[Any]]]:
        """Shape and type of the parts of a _Slot."""
        return [
            ((self.rows, self.labels), np.int64),
            ((self.rows, self.dim), np.float32),
            ((self.rows, self.labels), np.float32),
            ((self.rows, self.height, self.width, 3), np.uint8),
        ]

    @property
    def bytes(self) -> int:
        """Of one slot, a multiple of 8."""
        return sum(math.ceil(math.prod(shape) * np.dtype(kind).itemsize / 8) * 8 for shape, kind in self.parts)


@dataclass(frozen=True)
class _Slot:
    """One batch in the shared memory."""

    indices: npt.NDArray[np.int64]
    vectors: Vectors
    probabilities: Vectors
    pixels: Pixels

    @classmethod
    def all_of(cls, memory: mmap.mmap, shape: _Shape) -> list[_Slot]:
        slots, offset = [], 0
        for _ in range(SLOTS):
            parts: list[Any] = []
            for size, kind in shape.parts:
                count = math.prod(size)
                parts.append(np.frombuffer(memory, kind, count, offset).reshape(size))
                offset += math.ceil(count * np.dtype(kind).itemsize / 8) * 8
            slots.append(cls(*parts))
        return slots

    def write(self, embedded: Embedded) -> None:
        rows = len(embedded.vectors)
        self.vectors[:rows] = embedded.vectors
        self.indices[:rows] = embedded.indices
        self.probabilities[:rows] = embedded.probabilities

    def read(self, rows: int) -> Embedded:
        return Embedded(self.vectors[:rows].copy(), self.indices[:rows].copy(), self.probabilities[:rows].copy())


class _Worker:
    """The process of one device, seen from the one that deals out and stores."""

    def __init__(self, first: Embedder, device: str, total: int | None) -> None:
        labels = min(TOP_LABELS, len(first.classes))
        self.first, self.device = first, device
        self.shape = _Shape(first.batch_size, *first.preprocess.size, first.id.dim, labels)
        file = _unnamed_file(SLOTS * self.shape.bytes)
        try:
            self.slots = _Slot.all_of(mmap.mmap(file, 0), self.shape)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", BOOT, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[file],
                )
            except OSError as error:
                raise ModelError(
                    f"No process could be started for {device} ({error.strerror}). Use one device: --device cuda:N."
                ) from error
        finally:
            os.close(file)
        self.next = 0
        self.settings = {
            "model": first.source,
            "device": device,
            "precision": first.precision,
            "batch_size": first.batch_size,
            "total": total,
            "file": file,
            "shape": [getattr(self.shape, name) for name in _Shape.__dataclass_fields__],
        }

    def begin(self) -> None:
        """Have it load the model."""
        self._tell(self.settings)

    def wait_until_ready(self) -> None:
        """Until it has."""
        key = self._hear()["key"]
        if key != self.first.id.key:
            raise ModelError(f"The weights of {self.first.source} have changed just now. Run the same command again.")

    def start(self, batch: Pixels) -> Finish:
        rows = len(batch)
        if rows > self.shape.rows:
            embedded = self.first.forward(batch)
            return lambda: embedded
        number, self.next = self.next, (self.next + 1) % SLOTS
        self.slots[number].pixels[:rows] = batch
        self._tell({"slot": number, "rows": rows})

        def finish() -> Embedded:
            self._hear()
            return self.slots[number].read(rows)

        return finish

    def remarks(self) -> list[str]:
        """What its embedder has decided by itself."""
        self._tell({"slot": None})
        return [str(remark) for remark in self._hear()["remarks"]]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):  # what was buffered for a dead process
                    pipe.close()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        try:
            _send(self.process.stdin, message)
        except BrokenPipeError:
            self._hear()  # it may have said why it ended
            self._died()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = OutOfMemory if answer["memory"] else ModelError
            raise kind(answer["error"])
        return answer

    def _died(self) -> NoReturn:
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ModelError(
            f"The process that embeds on {self.device} {how}. What was committed stays: run the same command again, "
            "with a smaller --batch-size if memory is short, or with one device (--device cuda:N)."
        )


def _unnamed_file(size: int) -> int:
    """A descriptor of memory, or else of a file that has no name: nothing is left of it, however its users end."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("indexer")
    else:
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    os.ftruncate(file, size)
    return file


def _send(pipe: IO[bytes], message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def serve() -> None:
    """The process's own side: load the model, then answer requests from stdin until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes itself
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may mix with the answers
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=[sys.stdin.buffer, requests], daemon=True).start()
    try:
        _answer(requests, answers)
    except Exception as error:
        ours = isinstance(error, IndexerError)
        text = str(error) if ours else f"{type(error).__name__}: {error}. Try again with one device: --device cuda:N."
        _send(answers, {"error": text, "memory": isinstance(error, OutOfMemory)})


def _listen(pipe: IO[bytes], requests: SimpleQueue[dict[str, Any]]) -> None:
    """Take requests, and end at once with the one who asks, whatever is being computed."""
    for line in pipe:
        requests.put(json.loads(line))
    os._exit(0)


def _answer(requests: SimpleQueue[dict[str, Any]], answers: IO[bytes]) -> None:
    settings = requests.get()
    shape = _Shape(*settings["shape"])
    slots = _Slot.all_of(mmap.mmap(settings["file"], 0), shape)
    embedder = load_embedder(
        settings["model"],
        device=settings["device"],
        precision=settings["precision"],
        batch_size=settings["batch_size"],
    )
    _send(answers, {"key": embedder.id.key})
    under_way: deque[int] = deque()

    def batches() -> Iterator[Pixels | None]:
        while True:
            try:
                request = requests.get(block=not under_way)
            except Empty:
                yield None  # nothing to add: what is under way comes out
                continue
            if request["slot"] is None:
                return
            under_way.append(request["slot"])
            yield slots[request["slot"]].pixels[: request["rows"]]

    for embedded in embedder.stream(batches(), settings["total"]):
        if embedded is not None:
            slot = under_way.popleft()
            slots[slot].write(embedded)
            _send(answers, {"slot": slot})
    _send(answers, {"remarks": list(embedder.remarks)})
