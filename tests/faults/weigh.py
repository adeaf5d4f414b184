"""A build of many tiny pictures that weighs itself as it goes.

    python -m tests.faults.weigh FOLDER PICTURES

Prints one line of JSON: [[pictures done, resident bytes], ...].
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from indexer import Catalog, Progress
from indexer.pictures import scan

from ..fakes import FakeEmbedder

SIDE = 4


def save_tiny_pictures(folder: Path, count: int) -> None:
    """PPM files of 4 x 4 pixels, no two alike, none of one colour, a thousand a folder."""
    head = b"P6\n%d %d\n255\n" % (SIDE, SIDE)
    tail = bytes(255 - 5 * i for i in range(SIDE * SIDE * 3 - 4))
    for number in range(count):
        below = folder / f"{number // 1000:04}"
        if number % 1000 == 0:
            below.mkdir(parents=True)
        (below / f"{number:07}.ppm").write_bytes(head + number.to_bytes(4, "little") + tail)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    save_tiny_pictures(folder / "pictures", count)
    scan.SETTLED_NS = 0
    weights: list[tuple[int, int]] = []

    def weigh(progress: Progress) -> None:
        if progress.stage == "embed" and progress.done >= 1000 * len(weights):
            weights.append((progress.done, resident()))

    with Catalog.create(folder / "catalog", loader=lambda _: FakeEmbedder(batch_size=32)) as catalog:
        report = catalog.build([folder / "pictures"], workers=2, progress=weigh)
    assert report.embedded == count
    sys.stdout.write(json.dumps(weights) + "\n")


if __name__ == "__main__":
    main()
