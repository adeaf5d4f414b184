"""What a neighbour index of very many vectors costs, with short vectors in place of long ones. Prints one table.

    python -m benchmarks.scale [--rows 10000000 100000000] [--dim 16] [--kind FACTORY] [--folder FOLDER]

The code that `build` and `query` run, on as many rows as a large archive has: it chooses the structure, trains, places
every row, measures the recall, writes the file; then a process of its own opens it and asks. What grows with the number
of rows alone (lists, ids, time to open, what a query reads) is as it would be; what grows with the dimension too (rows,
codes, arithmetic) is not, and is stated for each row. Vectors are made: clusters of very different sizes on a sphere.
There is no store behind them, which `benchmarks.store` and `benchmarks.search` measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer.neighbours.choosing import Wish, structures
from indexer.neighbours.index import Block, open_index
from indexer.neighbours.making import write_index
from indexer.neighbours.stamp import Stamp, find_index, path_of

from .dedup import ROOT, peak
from .search import resident

BLOCK = 100_000
QUERIES = 200
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--kind", help="this structure, in place of all that the rule would try in turn")
    parser.add_argument("--folder", type=Path, help="where the index is made; it takes 76 bytes a row or so")
    parser.add_argument("--step", choices=["build", "ask"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        (count,) = args.rows
        building = args.step == "build"
        told = build(args.folder, count, args.dim, args.kind) if building else ask(args.folder, count, args.dim)
        print(json.dumps(told))
        return
    for count in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for step in ("build", "ask"):
                show(count, step, folder, args)


def show(count: int, step: str, folder: str, args: argparse.Namespace) -> None:
    """Run a step in a process of its own, and print what it found."""
    command = [sys.executable, "-m", "benchmarks.scale", "--step", step, "--rows", str(count), "--dim", str(args.dim)]
    command += ["--folder", folder, *(["--kind", args.kind] if args.kind else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    for what, value in json.loads(done.stdout.splitlines()[-1]).items():
        print(
            f"{count:>13,} x {args.dim}  {what:<64}{value:>14,.3f}" if isinstance(value, float) else f"{'':18}{value}"
        )
    sys.stdout.flush()


def build(folder: Path, count: int, dim: int, kind: str | None) -> dict[str, float | str]:
    """Write the index file as `build` does, and time its stages."""
    seconds: dict[str, float] = {}
    stage, since = "rows", time.perf_counter()

    def advance(to: str, done: int = 0, total: int = 0) -> None:
        nonlocal stage, since
        now = time.perf_counter()
        seconds[stage] = seconds.get(stage, 0) + now - since
        stage, since = to, now

    stamp = Stamp(name="made", model="", kind="", dim=dim, covered=count, last=count, recall=0, target=0.99)
    kinds = (kind,) if kind else structures(count, dim, Wish("ivf"))
    stamp = write_index(folder, clustered(count, dim), stamp, kinds, advance)
    advance("end")
    return {
        "how": f"{stamp.kind}, {stamp.effort} lists and {stamp.depth} rows a query, recall@10 {stamp.recall:.4f}",
        **{f"seconds: {name}, of all structures that were tried": took for name, took in seconds.items()},
        "seconds: all, the vectors being made too": sum(seconds.values()),
        "bytes a row, of which 2 a number are the row": path_of(folder, stamp.name).stat().st_size / count,
        "peak memory of building, GB": peak() / 1e3,
    }


def ask(folder: Path, count: int, dim: int) -> dict[str, float | str]:
    """Open the file, and ask for a few hundred vectors, one at a time: each new to the process, then known to it."""
    _, _, rows = next(clustered(QUERIES, dim, seed=1))
    started = time.perf_counter()
    found = find_index(folder, "made", "")
    assert found
    index = open_index(*found)
    assert index
    opened = time.perf_counter() - started
    before = resident()
    first: list[float] = []
    again: list[float] = []
    read: list[int] = []
    for query in rows[:, None]:
        read_before = bytes_read()
        for times in (first, again):
            started = time.perf_counter()
            _, ids = index.search(query, K)
            times.append(time.perf_counter() - started)
        assert ids.shape == (1, K)
        read.append(bytes_read() - read_before)
    return {
        "seconds to open": opened,
        "resident after opening, GB": before / 1e9,
        "the same after all queries, GB": resident() / 1e9,
        "ms a query whose lists are not in memory yet (median)": 1000 * float(np.median(first)),
        "ms the same query again": 1000 * float(np.median(again)),
        "MB of lists read for a query that is the first (median of 20)": float(np.median(read[:20])) / 1e6,
    }


def bytes_read() -> int:
    """What this process has read from files so far, by calls: lists, not the rows, which are mapped."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def clustered(count: int, dim: int, seed: int = 0) -> Iterator[Block]:
    """Ids from 1, the same as contents, and unit rows, a stretch at a time."""
    shape, rng = np.random.default_rng(2), np.random.default_rng(seed)
    centres = shape.standard_normal((20_000, dim)).astype(np.float32)
    sizes = np.cumsum(shape.pareto(1.2, len(centres)) + 0.1)
    for start in range(0, count, BLOCK):
        many = min(BLOCK, count - start)
        of = np.searchsorted(sizes, rng.random(many) * sizes[-1])
        rows = centres[of] + 0.5 * rng.standard_normal((many, dim), np.float32)
        ids = np.arange(start + 1, start + many + 1)
        yield ids, ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


if __name__ == "__main__":
    main()
