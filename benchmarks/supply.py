"""How many pictures a second the building process can feed, where neither decoding nor the model costs anything.

    python -m benchmarks.supply [--files 10000] [--decoders 2 16] [--rate 4140]

Small files are read and hashed, handed to real supervised processes that answer at once, put into batches of 196 x 196,
and committed with a vector of 1,024 numbers and five labels: all that build does beside decoding and embedding. What it
costs a core is told for each thread. From the second batch to the last. --rate: with a device that takes its time, so
many pictures a second (EVA-L on an H200: 4,140), and works on its own as a GPU does, as many batches ahead.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np

from indexer import Catalog, Progress
from indexer.embed.embedder import Embedded
from indexer.embed.pipeline import SLOTS
from indexer.embed.streams import Finish, in_order
from indexer.pictures import serving, worker
from indexer.pictures.prepare import DIGEST_BYTES, Limits, Prepared
from indexer.pictures.signature import SIGNATURE_BYTES
from indexer.preprocess import Pixels
from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess
from tests.fakes import FakeEmbedder

BOOT = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from benchmarks.supply import serve; serve()"
SPEC = Preprocess((196, 196), "bicubic", crop_mode="center")
DIM, CLASSES, BATCH = 1024, 1000, 256


def main() -> None:
    from .build import write_small

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--decoders", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--rate", type=float, default=math.inf, help="pictures a second that the device takes")
    args = parser.parse_args()
    worker.BOOT = BOOT
    with tempfile.TemporaryDirectory() as scratch:
        write_small(Path(scratch) / "files", args.files)
        for count in args.decoders:
            measure(Path(scratch), count, args.rate)


def measure(folder: Path, decoders: int, rate: float = math.inf) -> None:
    seen: list[tuple[float, int, dict[str, float]]] = []

    def note(progress: Progress) -> None:
        if progress.stage == "embed":
            seen.append((time.perf_counter(), progress.embedded, by_thread()))

    with Catalog.create(folder / f"catalog {decoders}", loader=lambda _: Paced(BATCH, rate)) as catalog:
        catalog.build([folder / "files"], workers=decoders, progress=note)
    (begun, before, costs), (ended, after, costs_then) = seen[1], seen[-1]
    done = after - before
    print(f"{decoders} decoders: {done / (ended - begun):,.0f} pictures/s", flush=True)
    for thread, seconds in costs_then.items():
        if (spent := 1e6 * (seconds - costs.get(thread, 0.0)) / done) >= 1:
            print(f"    {thread}: {spent:.0f} us of a core a picture", flush=True)


def by_thread() -> dict[str, float]:
    """Processor seconds of this process's threads, those of a pool together."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        try:
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        name = thread.name.partition("_")[0]
        found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


class Paced(FakeEmbedder):
    """The same vectors and labels for every batch, by a device of some speed; pixels are copied to it."""

    classes = tuple((f"n{number}", f"class {number}") for number in range(CLASSES))  # type: ignore[assignment]

    def __init__(self, batch_size: int, rate: float) -> None:
        super().__init__(batch_size=batch_size)
        self.preprocess = SPEC
        self.id = ModelId("paced", "0" * 64, SPEC, dim=DIM)
        self.seconds = batch_size / rate
        self.free_at = 0.0
        vectors = np.random.default_rng(0).standard_normal((batch_size, DIM), np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        hosts = itertools.cycle(np.zeros((SLOTS, self.batch_size, *SPEC.size, 3), np.uint8))

        def start(batch: Pixels) -> Finish:
            rows = len(batch)
            np.copyto(next(hosts)[:rows], batch)
            self.free_at = done = max(self.free_at, time.perf_counter()) + self.seconds

            def finish() -> Embedded:
                time.sleep(max(done - time.perf_counter(), 0.0))
                labels = np.tile(np.arange(5), (rows, 1)), np.full((rows, 5), 0.1, np.float32)
                return Embedded(self.vectors[:rows].copy(), *labels)

            return finish

        return in_order(batches, start, SLOTS)


def serve() -> None:
    """A decoder that takes no time."""
    pixels = np.zeros((*SPEC.size, 3), np.uint8)
    known = Fingerprint(bytes(DIGEST_BYTES), bytes(SIGNATURE_BYTES))

    def answer(data: bytes, kind: str, preprocess: Preprocess, limits: Limits, exact: bool) -> Prepared:
        return Prepared(pixels, PictureInfo(*SPEC.size, kind), known)

    serving.serve(answer)


if __name__ == "__main__":
    main()
