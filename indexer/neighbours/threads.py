"""How many threads faiss takes for what one of ours asks of it. A door to faiss.

By itself it takes one for every core of the machine, also in a container that may use two of its 64; and while those
wait for each other, or for the next search, they turn in circles on cores that others could use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..machine import cores


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Let faiss take so many in this thread. None: one for every core that may be used."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or min(before, cores()))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
