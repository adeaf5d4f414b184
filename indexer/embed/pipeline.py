"""Forward passes that a GPU works on while the next pictures are brought to it and the last results are fetched."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..preprocess import Pixels
from .embedder import Embedded
from .streams import Finish

# batches under way: one is computed, one waits on the device, one is copied or stored
SLOTS = 3
# which batch is recorded as a CUDA graph, and which one is timed; the first one warms the device up
RECORDED, PROBED = 2, 3
# What torch.compile costs and saves, for the estimate below. Measured for EVA-L in bf16 on an H200 with 16 cores: 12 to
# 14 s, and 4,410 pictures/s for 4,140. A machine with fewer cores takes longer, so the cost is taken twice.
COMPILE_SECONDS = 28.0
COMPILE_GAIN = 0.06

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Vectors (N, dim), and the indices and probabilities of the most probable classes (N, k)."""
Run = Callable[[torch.Tensor], Outputs]


def saved_by_compiling(pictures: int, seconds: float) -> float:
    """Estimated seconds that compiling would save, less what it costs.

    pictures: that are still to come. seconds: that one takes now.
    """
    return pictures * seconds * COMPILE_GAIN - COMPILE_SECONDS


@dataclass(frozen=True)
class _Slot:
    """Memory for one batch on its way: pinned on the host, and on the device."""

    host: torch.Tensor  # uint8, (rows, H, W, 3)
    pixels: torch.Tensor  # the same on the device
    results: Outputs  # on the host
    done: Any


class Pipeline:
    """Forward passes of one fixed shape, queued on a device. A short batch is padded, and the padding dropped."""

    def __init__(
        self, run: Run, device: torch.device, shape: tuple[int, int], rows: int, width: tuple[int, int]
    ) -> None:
        """run: from uint8 pixels (rows, H, W, 3) on the device. shape: (H, W). width: (dim, k) of its results."""
        self.rows = rows
        self.seconds: float | None = None
        """What one picture takes on the device, once that is known."""
        self._plain = self._run = run
        # torch.cpu has the same names, which do nothing: so that all of this runs without a GPU too
        self._backend: Any = torch.cuda if device.type == "cuda" else torch.cpu
        self._device = device
        pinned = device.type == "cuda"

        def host(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, pin_memory=pinned)

        # whoever waits for an event sleeps, and does not keep a core busy
        sleeping = {"blocking": True} if pinned else {}

        def slot() -> _Slot:
            pixels = host(rows, *shape, 3, dtype=torch.uint8)
            dim, k = width
            results = (
                host(rows, dim, dtype=torch.float32),
                host(rows, k, dtype=torch.int64),
                host(rows, k, dtype=torch.float32),
            )
            return _Slot(pixels, torch.zeros_like(pixels, device=device), results, self._backend.Event(**sleeping))

        with self._current():
            self._copying = self._backend.Stream()
            self._given = [slot() for _ in range(SLOTS)]
            self._slots = itertools.cycle(self._given)
            self._copying.wait_stream(self._backend.current_stream())  # it has zeroed what is copied to
        self._launched = 0

    def start(self, batch: Pixels) -> Finish:
        """Queue a batch of at most `rows` pictures; no more than SLOTS may be under way."""
        with self._current():
            return self._start(batch)

    def _current(self) -> AbstractContextManager[object]:
        """The device as the current one: streams, events and graphs are made for that, which every thread has."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _start(self, batch: Pixels) -> Finish:
        self._launched += 1
        if self._launched == RECORDED and self._device.type == "cuda":
            self._record()
        if self._launched == PROBED:
            self._backend.synchronize()
            started = time.perf_counter()
            slot = self._launch(batch)
            slot.done.synchronize()
            self.seconds = (time.perf_counter() - started) / self.rows
        else:
            slot = self._launch(batch)
        return lambda: _finish(slot, len(batch))

    @torch.inference_mode()
    def _launch(self, batch: Pixels) -> _Slot:
        slot = next(self._slots)
        np.copyto(slot.host[: len(batch)].numpy(), batch)  # torch would have threads spin that decoders could use
        with self._backend.stream(self._copying):
            slot.pixels.copy_(slot.host, non_blocking=True)
        computing = self._backend.current_stream()
        computing.wait_stream(self._copying)
        for result, output in zip(slot.results, self._run(slot.pixels), strict=True):
            result.copy_(output, non_blocking=True)
        slot.done.record(computing)
        return slot

    def _record(self) -> None:
        """Launch the forward pass as a CUDA graph from now on: in one go, where Python would launch kernel by kernel.

        A model that cannot be recorded, because it looks at its results on the way, goes on as it was.
        """
        pixels = torch.zeros_like(self._given[0].pixels)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.inference_mode(), torch.cuda.graph(graph):
                outputs = self._plain(pixels)
        except RuntimeError:
            self._backend.synchronize()
            return

        def replay(given: torch.Tensor) -> Outputs:
            pixels.copy_(given)
            graph.replay()
            return outputs  # the last ones may be overwritten: they were copied

        self._run = replay

    def compile(self, failed: Callable[[], None]) -> None:
        """Have torch compile the forward pass, as a CUDA graph: launching it costs next to nothing then.

        It happens with the next batch. failed: called where it does not work, for want of a compiler or of Triton;
        things stay as they are then.
        """
        before = self._run
        compiled: Run = torch.compile(self._plain, dynamic=False, mode="reduce-overhead")

        def first(pixels: torch.Tensor) -> Outputs:
            try:
                outputs = replay(pixels)
            except Exception:  # of the compilers, of which there are several
                self._run = before
                failed()
                return before(pixels)
            self._run = replay
            return outputs

        def replay(pixels: torch.Tensor) -> Outputs:
            # the last results may be overwritten: they were copied
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return compiled(pixels)

        self._run = first


def _finish(slot: _Slot, rows: int) -> Embedded:
    slot.done.synchronize()
    vectors, indices, probabilities = (result[:rows].numpy().copy() for result in slot.results)
    return Embedded(vectors, indices, probabilities)
