"""Readers of a catalog that is being built: threads that query, and say what they saw that no build ever committed.

    python -m tests.faults.reader CATALOG FACTS THREADS SECONDS [unwritable]

FACTS is a JSON file: SHA-256 -> [pair, version, vector]. Pictures come and go in pairs, both of one version. Prints one
line of JSON: {"queries", "states", "refused", "problems"}. unwritable: as somebody who may not write to the folder, and
so is told now and then to try again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from indexer import Catalog, CatalogLocked, Match

Fact = tuple[int, int, list[float]]
Facts = dict[str, Fact]


def halves_of(listed: list[Fact]) -> list[str]:
    """Pairs that are not whole, or of two versions."""
    pairs: dict[int, list[int]] = defaultdict(list)
    for pair, version, _ in listed:
        pairs[pair].append(version)
    return [f"pair {pair} has versions {v}" for pair, v in pairs.items() if len(v) != 2 or v[0] != v[1]]


def problems_of(matches: list[Match], query: Any, facts: Facts) -> list[str]:
    """What in an answer with every picture cannot be: half a pair, two versions, a score that is another's."""
    found = halves_of([facts[match.image.sha256] for match in matches])
    for match in matches:
        pair, _, vector = facts[match.image.sha256]
        if not Path(match.path).name.startswith(f"{pair}-"):
            found.append(f"{match.path} has the content of pair {pair}")
        if abs(float(np.dot(vector, query)) - match.score) > 1e-4:
            found.append(f"{match.path} has the score of another")
    scores = [match.score for match in matches]
    if scores != sorted(scores, reverse=True):
        found.append("not ordered by score")
    return found


class Reader(threading.Thread):
    """Opens the catalog, asks a few times, closes it, and again."""

    def __init__(self, catalog: str, facts: Facts, number: int, until: float) -> None:
        super().__init__()
        self.catalog = catalog
        self.facts = facts
        self.rng = np.random.default_rng(number)
        self.until = until
        self.queries = 0
        self.refused = 0
        self.states: set[frozenset[str]] = set()
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            while time.monotonic() < self.until and not self.problems:
                try:
                    with Catalog.open(self.catalog, readonly=True) as catalog:
                        for _ in range(int(self.rng.integers(1, 8))):
                            self.ask(catalog)
                except CatalogLocked:
                    self.refused += 1
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def ask(self, catalog: Catalog) -> None:
        query = self.rng.normal(size=48).astype(np.float32)
        query /= np.linalg.norm(query)
        where = "bytes > 0" if self.rng.random() < 0.3 else None
        matches = catalog.query(query, k=10_000, where=where)
        self.problems += problems_of(matches, query, self.facts)
        if self.rng.random() < 0.1:
            listed = [image.sha256 for image in catalog]
            self.problems += halves_of([self.facts[digest] for digest in listed])
            if catalog.info().images < 1:
                self.problems.append("no images")
        self.queries += 1
        self.states.add(frozenset(match.image.sha256 for match in matches))


def main() -> None:
    catalog, facts, threads, seconds, *how = sys.argv[1:]
    if how == ["unwritable"]:
        real = os.access

        def access(path: Any, mode: int) -> bool:
            return mode != os.W_OK and real(path, mode)

        os.access = access  # type: ignore[assignment]
    known: Facts = json.loads(Path(facts).read_text())
    until = time.monotonic() + float(seconds)
    readers = [Reader(catalog, known, number, until) for number in range(int(threads))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    report = {
        "queries": sum(reader.queries for reader in readers),
        "states": len(frozenset[frozenset[str]]().union(*(reader.states for reader in readers))),
        "refused": sum(reader.refused for reader in readers),
        "problems": [problem for reader in readers for problem in reader.problems][:10],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
