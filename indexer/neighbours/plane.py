"""How an index file begins: faiss's own index of all rows in float16, which stay in the file. A door to faiss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import faiss


def header_of(dim: int, count: int) -> bytes:
    """What faiss writes before the rows of an index of so many.

    In faiss's format the number of vectors is at byte 8, and the last eight bytes of an index without vectors are the
    size of its codes; what faiss reads is compared with the stamp at every opening.
    """
    import faiss

    empty = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    data: bytes = faiss.serialize_index(empty).tobytes()
    size = count * 2 * dim
    return data[:8] + count.to_bytes(8, "little") + data[16:-8] + size.to_bytes(8, "little")


def read(path: Path, dim: int, count: int) -> faiss.IndexScalarQuantizer:
    """That index, of so many rows. Raises RuntimeError where the file says otherwise."""
    import faiss

    plane = cast("faiss.IndexScalarQuantizer", faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    if plane.ntotal != count or plane.d != dim:
        raise RuntimeError("the rows are not what the stamp says")
    return plane
