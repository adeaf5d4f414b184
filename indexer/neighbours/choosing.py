"""Which structure finds neighbours: one rule over how many vectors there are, their length, and the memory.

Measured (see the README's Design): an exact search of float16 reads about four thousand million numbers a second on one
core with AVX2, twice as many with AVX-512. Beyond what that does in about 20 ms, of what FAISS has, inverted lists of
4-bit codes in its fast-scan layout, one code for each of the principal axes that matter, re-ranked from the float16
rows, gave the most answers a second at a recall of 0.99 (`benchmarks/search.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import CatalogError, InvalidArgument
from ..machine import memory

FLAT = "flat"
# exact search takes about 20 ms for so many numbers, on a core without AVX-512
EXACT_NUMBERS = 75_000_000
# training vectors for every list
SAMPLE = 40
MAX_LISTS = 1 << 16
LEAST_MEMORY = 64 << 20
DEFAULT_RECALL = 0.99


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user wants of the neighbour index.

    kind: None (the rule below), 'flat', 'ivf', 'hnsw', or what faiss.index_factory takes. recall: recall@10 to reach.
    memory: bytes that building and holding the structure may take; None: a quarter of what may be used.
    """

    kind: str | None = None
    recall: float = DEFAULT_RECALL
    memory: int | None = None

    def check(self) -> None:
        """Raises InvalidArgument for values that cannot be meant."""
        if not 0.0 < self.recall <= 1.0:
            raise InvalidArgument(f"A recall of {self.recall} cannot be reached. Give more than 0, and 1 at most.")
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise InvalidArgument(f"{self.memory:,} bytes of memory are too few for anything. Give 64 MB or more.")


def structures(count: int, dim: int, wish: Wish) -> tuple[str, ...]:
    """What to try, the first that reaches the recall is taken: FLAT, or factory strings.

    Exact search reaches every recall and needs next to no memory, so it ends each list that the rule makes.
    Raises CatalogError where what was asked for does not fit the memory.
    """
    allowed = wish.memory or memory() // 4
    if wish.kind == FLAT or (wish.kind is None and count * dim <= EXACT_NUMBERS):
        return (FLAT,)
    if wish.kind in (None, "ivf"):
        fitting = tuple(name for name, need in _inverted(count, dim) if need <= allowed)
        if wish.kind == "ivf" and not fitting:
            need = min(need for _, need in _inverted(count, dim))
            raise CatalogError(
                f"Inverted lists of {count:,} vectors need {need / 1e9:.1f} GB. Give more with --memory, or leave "
                "--neighbours out."
            )
        return (*fitting, FLAT)
    return ("HNSW32,SQ8" if wish.kind == "hnsw" else str(wish.kind),)


def lists_for(count: int) -> int:
    """How many inverted lists: the power of two nearest to 4 sqrt(count), with SAMPLE vectors or more for each."""
    most = min(count // SAMPLE, MAX_LISTS)
    return 1 << max(min(round(math.log2(4 * count**0.5)), most.bit_length() - 1), 0)


def _inverted(count: int, dim: int) -> list[tuple[str, int]]:
    """Factory strings from the cheapest search to the dearest, and the bytes that each takes to build.

    What the axes of a projection keep is seen when it is trained; where it is too little, the next is tried.
    """
    lists = lists_for(count)
    training = 2 * SAMPLE * lists * dim * 4
    axes = [dim // part for part in (8, 4) if dim % part == 0 and dim // part >= 32]
    kinds = [(f"PCAR{kept},IVF{lists},PQ{kept}x4fsr", kept // 2) for kept in axes]
    parts = [dim // part for part in (4, 2) if dim % part == 0 and dim >= 2 * part]
    kinds += [(f"IVF{lists},PQ{part}x4fsr", part // 2) for part in parts]
    return [(kind, training + count * (size + 8)) for kind, size in [*kinds, (f"IVF{lists},SQ8", dim)]]
