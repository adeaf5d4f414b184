"""How many contents a second the store commits. Prints a table.

    python -m benchmarks.store [--commits 20] [--folder FOLDER]

Each is new and whole: a vector of 1,024 numbers, five labels, fingerprint, and one image; 1,000 of them in a
transaction, as `build` commits. The time is that of Store.commit alone, with the disk's syncs in it; CPU seconds show
what one core could do with a disk that costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from indexer.pictures.signature import SIGNATURE_BYTES
from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess, Source, Stamp
from indexer.store.rows import Entry
from indexer.store.store import Store

from .build import report

DIM, ENTRIES = 1024, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where to make the store, e.g. on another disk")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = Store.create(Path(folder))
        id = ModelId("bench", "0" * 64, Preprocess((196, 196)), DIM)
        model = store.use_model(id, "bench", [(f"n{i}", f"class {i}") for i in range(1000)])
        root = store.add_root(b"/pictures")
        wall, cpu = [], []
        for turn in range(args.commits):
            made = entries(root, turn, rng)
            started, cpu_started = time.perf_counter(), time.process_time()
            store.commit(made, [], model)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - cpu_started)
        assert store.count("vectors") == args.commits * ENTRIES
        store.close()
    report("committed, median commit (goal 13,000)", ENTRIES / statistics.median(wall), "contents/s")
    report("committed, all in all", ENTRIES * len(wall) / sum(wall), "contents/s")
    report("committed, median commit, in CPU time", ENTRIES / statistics.median(cpu), "contents/s")
    report("the same, fastest commit", ENTRIES / min(cpu), "contents/s")


def entries(root: int, turn: int, rng: np.random.Generator) -> list[Entry]:
    vectors = rng.standard_normal((ENTRIES, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    probabilities = np.sort(rng.random((ENTRIES, 5)))[:, ::-1].tolist()
    classes = rng.integers(0, 1000, (ENTRIES, 5)).tolist()
    return [
        Entry(
            Source(root, b"/pictures", b"%04d/picture %04d.jpg" % (turn, i), Stamp(109_438, 10**18 + i, 10**18 + i)),
            rng.bytes(32),
            109_438,
            PictureInfo(500, 375, "JPEG", "2024-05-01T12:30:00", "Canon EOS 5D"),
            Fingerprint(rng.bytes(32), rng.bytes(SIGNATURE_BYTES)),
            vectors[i],
            tuple(zip(classes[i], probabilities[i], strict=True)),
        )
        for i in range(ENTRIES)
    ]


if __name__ == "__main__":
    main()
