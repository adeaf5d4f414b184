"""What it costs that every picture is decoded in a supervised process: build with and without, in turns, in one run.

    python -m benchmarks.supervision [--images FOLDER] [--pictures 2000]

"Without" is a plain ProcessPoolExecutor of as many processes: it hangs no watch on them, and breaks with the first that
dies. The model is a fake one, so that decoding is all there is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from indexer import Catalog
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Limits, Prepared, prepare
from indexer.records import Preprocess
from indexer.verbs import build
from tests.fakes import FakeEmbedder

from .build import ROOT, collect, report


class Unsupervised:
    """Decoders with nobody watching."""

    def __init__(self, preprocess: Preprocess, count: int, limits: Limits) -> None:
        self.preprocess, self.limits = preprocess, limits
        self.pool = ProcessPoolExecutor(count)

    def submit(self, data: bytes, kind: str) -> Future[Prepared]:
        return self.pool.submit(prepare, data, kind, self.preprocess, self.limits)

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rates: dict[str, list[float]] = {"supervised": [], "unsupervised": []}
    with tempfile.TemporaryDirectory() as scratch:
        pictures = collect(args.images, Path(scratch) / "pictures", args.pictures)
        for turn in range(args.rounds):
            for name, kind in (("supervised", Decoders), ("unsupervised", Unsupervised)):
                build.Decoders = kind  # type: ignore[attr-defined, assignment]
                started = time.perf_counter()
                with Catalog.create(
                    Path(scratch) / f"{name}{turn}", loader=lambda _: FakeEmbedder(batch_size=32)
                ) as made:
                    assert made.build([pictures]).embedded == args.pictures
                rates[name].append(args.pictures / (time.perf_counter() - started))
    for name, values in rates.items():
        report(
            f"build, {name}, {os.cpu_count()} processes, {args.pictures} JPEGs", statistics.median(values), "pictures/s"
        )
    ratio = statistics.median(rates["supervised"]) / statistics.median(rates["unsupervised"])
    report("supervised over unsupervised (goal 0.95)", ratio, "x")


if __name__ == "__main__":
    main()
