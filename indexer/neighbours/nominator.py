"""What proposes candidates in a large collection: a faiss index over places 0 to N-1. A door to faiss.

Inverted lists are kept outside of faiss's own serialization, one after the other, so that a search reads those that it
touches and no others.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

# these keep everything that is in a list in its ids and codes
_WITH_LISTS = ("IndexIVFPQFastScan", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexIVFFlat")
# what can be searched as a filter and an effort demand: those without lists or links are compared one and all
_SEARCHABLE = ("IndexIVF", "IndexHNSW", "IndexFlat", "IndexScalarQuantizer", "IndexRaBitQ")
# a search for so few queries at once loads their lists only
_FEW_QUERIES = 64
# how faiss begins to say what is wrong: with the function, the file and the line
_WHERE = re.compile(r"^Error in .* at \S+:\d+: ")
# rows that tell how much a projection keeps
_PROBE = 2000


def make(factory: str, dim: int) -> Nominator:
    """An empty structure. Raises InvalidArgument for a factory string that faiss refuses."""
    import faiss

    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise InvalidArgument(
            f"faiss makes no index '{factory}' for vectors of {dim} ({_reason(error)}). "
            "Give flat, ivf, hnsw, or a string of faiss.index_factory."
        ) from None
    nominator = Nominator(index)
    if nominator.most_effort < 1 or (hasattr(index, "hnsw") and index.hnsw.assign_probas.size() < 2):
        raise InvalidArgument(f"An index '{factory}' finds nothing. Give it a list or more, or two links or more.")
    if not nominator.can_search:
        raise InvalidArgument(
            f"An index '{factory}' cannot be searched with a filter, nor more or less thoroughly. "
            "Give flat, ivf, hnsw, or a string that begins with lists (IVF1024,...)."
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # which faiss does not have for every kind of codes
        raise InvalidArgument(f"An index '{factory}' does not find the most similar. Give flat, ivf, hnsw, or another.")
    return nominator


class Nominator:
    """A faiss index, all in memory or with its inverted lists in a file."""

    def __init__(self, index: Any) -> None:
        """Use make() or read()."""
        import faiss

        self.index = index
        chain = getattr(index, "chain", None)
        self._transforms = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())] if chain else []
        found = faiss.try_extract_index_ivf(index)
        self._ivf: Any = None if found is None else faiss.downcast_index(found)
        self._lists: _Lists | None = None

    @property
    def has_lists(self) -> bool:
        """Whether there are inverted lists that can be kept apart."""
        return type(self._ivf).__name__ in _WITH_LISTS

    @property
    def can_search(self) -> bool:
        """Whether it takes the parameters of a search; faiss says only then that it does not."""
        import faiss

        within = self.index
        while isinstance(within, faiss.IndexPreTransform):
            within = faiss.downcast_index(within.index)
        return any(kind.__name__ in _SEARCHABLE for kind in type(within).__mro__)

    @property
    def can_select(self) -> bool:
        """Whether a search that is held to some rows finds the nearest: a graph ends among those that may not come."""
        return self._ivf is not None

    @property
    def most_effort(self) -> int:
        """The effort at which a search is as good as it can be."""
        return int(self._ivf.nlist) if self._ivf is not None else 1024 if hasattr(self.index, "hnsw") else 1

    def project(self, sample: Vectors) -> float:
        """Learn from a sample how to project rows. Returns the share of their squared length that is kept.

        Raises InvalidArgument where the sample is too small.
        """
        import faiss

        for transform in self._transforms:
            with _learning(sample):
                transform.train(sample)
            if isinstance(transform, faiss.PCAMatrix):
                # moved to their mean, vectors would have other inner products
                faiss.copy_array_to_vector(np.zeros(transform.d_out, np.float32), transform.b)
                transform.PCAMat.clear()  # all axes, of which A holds those that are used
        return float(np.square(self._transformed(sample[:_PROBE])).sum() / np.square(sample[:_PROBE]).sum())

    def train(self, sample: Vectors) -> None:
        """Learn the rest; the same sample gives the same structure. Raises InvalidArgument where it is too small."""
        import faiss

        for part in (self._ivf, getattr(self._ivf, "pq", None), getattr(self.index, "pq", None)):
            if part is not None and hasattr(part, "cp"):
                part.cp.min_points_per_centroid = 1  # otherwise faiss complains on stderr
        comparing = None if self._ivf is None else _on_gpus(faiss.IndexFlatIP(self._ivf.d))
        with _lent(self._ivf, "clustering_index", comparing), _learning(sample):
            self.index.train(sample)

    @contextmanager
    def adding(self) -> Iterator[Callable[[Vectors], None]]:
        """What adds rows at the next places. Their lists are found on GPUs where faiss sees some."""
        import faiss

        centres = None if self._ivf is None else faiss.downcast_index(self._ivf.quantizer)
        comparing = _on_gpus(centres) if isinstance(centres, faiss.IndexFlat) else None
        # how a row differs from its centre is asked for one by one, which a GPU would answer slowly
        finding = None if comparing is None else faiss.IndexRefine(comparing, centres)
        with _lent(self._ivf, "quantizer", finding):
            yield self.index.add

    def fit(self, rows: Vectors) -> float:
        """How well the lists suit some rows: the mean similarity to the nearest centre; 1 where there are no lists."""
        if self._ivf is None:
            return 1.0
        return float(self._ivf.quantizer.search(self._transformed(rows), 1)[0].mean())

    def prepare(self, queries: Vectors, effort: int) -> None:
        """Load what a search for some queries touches."""
        if self._lists is None or self._lists.complete:
            return
        if len(queries) > _FEW_QUERIES or effort >= self._ivf.nlist:
            self.load_all()
        else:
            _, touched = self._ivf.quantizer.search(self._transformed(queries), effort)
            self._lists.load(set(touched.ravel().tolist()) - {-1})

    def parameters(self, effort: int, selector: Any) -> Any:
        """faiss's parameters for a search. effort: lists to look into, or HNSW's efSearch."""
        import faiss

        chosen = {"sel": selector} if selector is not None else {}
        if hasattr(self.index, "hnsw"):
            return faiss.SearchParametersHNSW(efSearch=effort, **chosen)  # type: ignore[attr-defined]
        if self._ivf is None:
            return faiss.SearchParameters(**chosen)
        parameters = faiss.SearchParametersIVF(nprobe=effort, **chosen)  # type: ignore[call-arg]
        if isinstance(self.index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=parameters)  # type: ignore[call-arg]
        return parameters

    def load_all(self) -> None:
        """Have everything in memory."""
        if self._lists is not None:
            self._lists.load(range(self._ivf.nlist))

    def write(self, file: BinaryIO) -> tuple[int, int]:
        """Append everything to a file; it cannot be used any more. Returns where the lists and the structure begin."""
        import faiss

        lists = file.tell()
        sizes = np.empty(0, np.int64)
        if self.has_lists:
            sizes = _write_lists(self._ivf, file)
            self.index.reset()
        structure = file.tell()
        file.write(faiss.serialize_index(self.index).data)
        file.write(sizes.data)
        return lists, structure

    def _transformed(self, rows: Vectors) -> Vectors:
        """Rows as the lists see them."""
        for transform in self._transforms:
            rows = transform.apply(rows)
        return rows


def read(path: Path, lists: int, structure: int, count: int) -> Nominator:
    """What Nominator.write() has written, which begins at these places of a file; lists are read on use."""
    import faiss

    with path.open("rb") as file:
        file.seek(structure)
        reader = faiss.PyCallbackIOReader(file.read)  # type: ignore[attr-defined]
        nominator = Nominator(faiss.read_index(reader))
        if nominator.has_lists:
            ivf = nominator._ivf
            sizes = np.frombuffer(file.read(8 * ivf.nlist), np.int64)
            nominator._lists = _Lists(ivf, sizes, path, lists)
            nominator.index.ntotal = ivf.ntotal = count
    return nominator


class _Lists:
    """Inverted lists in a file: the places of every list, then the codes of every list."""

    def __init__(self, index: Any, sizes: Places, path: Path, start: int) -> None:
        import faiss

        self._file = os.open(path, os.O_RDONLY)  # not mapped: what is in memory once need not be there twice
        weakref.finalize(self, os.close, self._file)
        self._into = faiss.downcast_InvertedLists(index.invlists)
        self._sizes = sizes
        self._count = int(sizes.sum())
        bytes_of = _code_bytes(self._into, sizes)
        self._places = start + 8 * np.concatenate([[0], np.cumsum(sizes)])
        self._codes = self._places[-1] + np.concatenate([[0], np.cumsum(bytes_of)])
        self._missing = set(np.flatnonzero(self._sizes).tolist())

    @property
    def complete(self) -> bool:
        """Whether every list is in memory."""
        return not self._missing

    def load(self, numbers: Any) -> None:
        """Read those of some lists that are not in memory; one that names what is no row is damaged, and left out."""
        import faiss

        for number in sorted(self._missing.intersection(numbers)):
            self._missing.remove(number)
            places, codes = self._read(self._places, number), self._read(self._codes, number)
            if places is None or codes is None:
                continue
            places = places.view(np.int64)
            if places.min() < 0 or places.max() >= self._count:
                continue
            self._into.resize(number, int(self._sizes[number]))
            faiss.rev_swig_ptr(self._into.get_ids(number), len(places))[:] = places
            faiss.rev_swig_ptr(self._into.get_codes(number), len(codes))[:] = codes

    def _read(self, places: Places, number: int) -> npt.NDArray[np.uint8] | None:
        """What is at one of some places in the file, None where the file ends before."""
        start, end = int(places[number]), int(places[number + 1])
        data = os.pread(self._file, end - start, start)
        return np.frombuffer(data, np.uint8) if len(data) == end - start else None


def _write_lists(index: Any, file: BinaryIO) -> Places:
    """Append all lists; returns their sizes."""
    import faiss

    lists = faiss.downcast_InvertedLists(index.invlists)
    sizes = np.array([lists.list_size(number) for number in range(index.nlist)], np.int64)
    full = [(number, size) for number, size in enumerate(sizes.tolist()) if size]
    file.writelines(faiss.rev_swig_ptr(lists.get_ids(number), size).data for number, size in full)
    bytes_of = _code_bytes(lists, sizes).tolist()
    file.writelines(faiss.rev_swig_ptr(lists.get_codes(number), bytes_of[number]).data for number, _ in full)
    return sizes


def _code_bytes(lists: Any, sizes: Places) -> Places:
    """Bytes that the codes of lists of some sizes take: fast-scan codes lie in whole blocks."""
    if hasattr(lists, "block_size"):
        return -(-sizes // int(lists.n_per_block)) * int(lists.block_size)
    return sizes * int(lists.code_size)


def _on_gpus(index: Any) -> Any:
    """A copy of an index on all GPUs that faiss sees. None where it sees none, or they lack the memory."""
    import faiss

    with suppress(RuntimeError):
        return faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() else None
    return None


@contextmanager
def _lent(index: Any, part: str, other: Any) -> Iterator[None]:
    """A part of a faiss index exchanged for another, if there is one: faiss would take it for its own and leave it."""
    if other is None:
        yield
        return
    before = getattr(index, part)
    setattr(index, part, other)
    try:
        yield
    finally:
        setattr(index, part, before)
        other.thisown = True


@contextmanager
def _learning(sample: Vectors) -> Iterator[None]:
    """What faiss says of a sample that is too small for a structure, as an error of ours."""
    try:
        yield
    except RuntimeError as error:
        raise InvalidArgument(
            f"faiss cannot train this index on {len(sample):,} vectors ({_reason(error)}). Choose a smaller one, or "
            "leave --neighbours out."
        ) from None


def _reason(error: Exception) -> str:
    """The last and plainest part of what faiss says."""
    text = _WHERE.sub("", str(error).strip().splitlines()[0])
    return text.rpartition("Error: ")[2].rpartition("failed: ")[2].strip()
