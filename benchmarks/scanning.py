"""How long `build` takes to find that nothing is new, next to looking at the same files and nothing else.

    python -m benchmarks.scanning [--files 100000] [--rounds 5]

The whole verb in this process, opening and closing the catalog included, in turns with os.scandir and stat alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer import Catalog
from indexer.pictures.scan import stamp_of
from indexer.pictures.signature import SIGNATURE_BYTES
from indexer.records import Fingerprint, PictureInfo, Source
from indexer.store.rows import Entry
from indexer.store.store import Store
from tests.fakes import FakeEmbedder

from .build import report, timed

FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files, catalog = Path(scratch) / "files", Path(scratch) / "catalog"
        catalog.mkdir()
        fill(catalog, files, args.files)

        def build() -> None:
            with Catalog.open(catalog, loader=lambda _: FakeEmbedder()) as opened:
                assert opened.build([files]).unchanged == args.files

        build()
        alone, whole = [], []
        for _ in range(args.rounds):
            alone.append(timed(lambda: look(os.fsencode(files))))
            whole.append(timed(build))
    limit = 1.2 * statistics.median(alone) + 0.5
    report(f"os.scandir and stat alone, {args.files:,} files", statistics.median(alone), "s")
    report(f"build that finds nothing new (goal {limit:.2f}: 1.2 x that + 0.5)", statistics.median(whole), "s")


def look(folder: bytes) -> None:
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)


def fill(catalog: Path, files: Path, count: int) -> None:
    """Small files, and a catalog that knows them: made by hand, since 100,000 pictures would take an hour."""
    store, embedder, rng = Store.create(catalog), FakeEmbedder(), np.random.default_rng(0)
    model = store.use_model(embedder.id, embedder.source, embedder.classes)
    root = store.add_root(os.fsencode(files))

    def entries(start: int) -> Iterator[Entry]:
        for number in range(start, min(start + FOLDER, count)):
            path = b"%03d/%06d.jpg" % (number // FOLDER, number)
            source = Source(root, os.fsencode(files), path, stamp_of(write(os.path.join(os.fsencode(files), path))))
            known = Fingerprint(rng.bytes(32), rng.bytes(SIGNATURE_BYTES))
            vector = rng.standard_normal(embedder.id.dim, np.float32)
            digest = hashlib.sha256(path).digest()
            yield Entry(source, digest, source.stamp.size, PictureInfo(8, 8, "JPEG"), known, vector)

    for start in range(0, count, FOLDER):
        (files / f"{start // FOLDER:03}").mkdir(parents=True)
        store.commit(list(entries(start)), [], model)
    store.close()


def write(path: bytes) -> os.stat_result:
    with open(path, "wb") as file:
        file.write(path)
    return os.stat(path)


if __name__ == "__main__":
    main()
