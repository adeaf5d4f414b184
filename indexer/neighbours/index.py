"""The neighbour index: one FAISS file that can be thrown away and rebuilt from the store. A door to faiss.

It nominates; scores are always computed from the vectors as they are stored. The file begins as faiss's own index of
all rows in float16, bit for bit those of the store, which is exact search. Then come the ids of the vectors, those of
their contents, and a checksum of each row with its ids, so that a row is known to be what the store held. In a large
collection what nominates candidates to compare follows (see nominator.py), and then a stamp: a line of JSON, its CRC-32
and its length (4 bytes each, little-endian) and MAGIC. A file whose stamp is off is not used. Files are never changed,
and the store names the one that goes with it: an index of another past of a catalog is none of its own.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..errors import CatalogError
from ..files import changing, replacement
from ..halves import Half, cosines, widened
from ..machine import cores
from . import nominator
from .checksums import Checksums, of_rows
from .choosing import FLAT, SAMPLE, lists_for
from .nominator import Nominator
from .tuning import QUERIES, Exam, tune

if TYPE_CHECKING:
    import faiss

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Block: TypeAlias = tuple[Ids, Ids, Half]
"""Vector ids, ascending, the content of each, and the vectors as they are stored, (N, dim)."""
Advance = Callable[[str, int, int], None]
"""Told the stage ('index', 'train' or 'measure'), how much of it is done, and of how much."""

MAGIC = b"IDXNBRS4"
PATTERN = "neighbours-*.faiss"
# of a row: its two ids and its checksum
_NUMBER_BYTES = 8 + 8 + 8
_TRAILER = 4 + 4 + len(MAGIC)
_BLOCK = 1 << 24
# a checksum that takes longer than 50 ms is not worth its time at every opening; crc32 runs at some GB/s
_CHECKED_BYTES = 128 << 20
# rows that are taken from a file at once
_ROWS = 8192
# numbers that are compared at once: they stay in a core's cache
_NUMBERS = 1 << 16
# numbers of rows that are scored at once, and the threads that do it: they share the interpreter
_SCORED_NUMBERS = 1 << 19
_SCORERS = 4
# so few numbers are read sooner than the best of them are looked for, or than faiss is imported
_FEW_NUMBERS = 40_000_000
# how many numpy compares while faiss is imported, which then compares them in a fifth of the time
_IMPORT_NUMBERS = 200_000_000
# queries that faiss compares with all rows one by one; more of them are a matrix product
_FEW_QUERIES = 16
# vectors that are asked for to see what alike neighbours take
_ASKED = 2000
# a projection that keeps less of the vectors' squared length sets neighbours apart too coarsely
_KEPT = 0.98
# tail vectors that are this much further from their centres are of another kind than those that were trained on
_MOVED = 0.9


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an index file says of itself.

    name: by which the store knows it. kind: FLAT or a factory string. covered: vectors in it. last: the highest vector
    id that it was built from. recall: as measured; effort, depth: how to search for it; fit: see Nominator.fit().
    trained: vectors when it was trained. rows, ids, lists, structure: where the parts begin. bytes, crc32: of all
    parts. guard: CRC-32 of what a search follows blindly, see _guarded().
    """

    name: str
    model: str
    kind: str
    dim: int
    covered: int
    last: int
    recall: float
    target: float = 1.0
    effort: int = 0
    depth: int = 0
    fit: float = 1.0
    trained: int = 0
    rows: int = 0
    ids: int = 0
    lists: int = 0
    structure: int = 0
    bytes: int = 0
    crc32: int = 0
    guard: int = 0


class NeighbourIndex:
    """An open index file."""

    def __init__(self, path: Path, stamp: Stamp, structure: Nominator | None) -> None:
        """Use open_index()."""
        self.stamp = stamp
        self._path = path
        self._compared = 0  # numbers, by numpy
        count = stamp.covered
        numbers = _mapped(path, stamp.ids, _NUMBER_BYTES * count)
        self._ids: Ids = numbers[: 8 * count].view(np.int64)
        self._contents: Ids = numbers[8 * count : 16 * count].view(np.int64)
        self._checksums = numbers[16 * count :].view(np.uint64)
        self._nominator = structure
        self._plane: faiss.IndexScalarQuantizer | None = None
        if structure is None and count * stamp.dim <= _FEW_NUMBERS:
            self._rows = _mapped(path, stamp.rows, count * 2 * stamp.dim).reshape(count, 2 * stamp.dim)
        else:
            self._open_plane()
        if structure is not None:
            import faiss

            self._refine = faiss.IndexRefine(structure.index, self._plane)

    @property
    def most_effort(self) -> int:
        """See Nominator.most_effort."""
        return self._nominator.most_effort if self._nominator else 1

    def search(self, queries: Vectors, k: int, allowed: Ids | None = None) -> tuple[Vectors, Ids]:
        """The k best vector ids for each query, best first: scores and ids, both (N, k). See find()."""
        scores, places = self.find(queries, k, allowed)
        return scores, self.ids_at(places)

    def find(self, queries: Vectors, k: int, allowed: Ids | None = None, *, spare: int = 0) -> tuple[Vectors, Ids]:
        """The k best rows for each query and some to spare, best first: scores and places, both (N, k + spare).

        queries: float32, (N, dim), unit rows. allowed: the only contents whose vectors may come.
        Where there are fewer, fewer columns come back. There is a gap, a place of -1, only where rows are damaged.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        places = None if allowed is None else np.flatnonzero(np.isin(self._contents, allowed))
        count = self.stamp.covered if places is None else len(places)
        k = min(k, count)
        depth = min(self.stamp.depth * max(k, 10) // 10, self.stamp.depth + 4 * k)
        k = min(k + spare, count)
        if k < 1:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        few = places is not None and count * self.stamp.dim <= _FEW_NUMBERS
        if self._nominator is None or few:
            return self.exact(queries, k, places)
        effort = -(-self.stamp.effort * self.stamp.covered // count)
        scores, found = self.nominate(queries, k, effort, depth, places)
        short = found[:, -1] < 0  # too little lay in the lists that were looked into
        if short.any():
            scores[short], found[short] = self.exact(queries[short], k, places)
        return scores, found

    def ids_at(self, places: Ids) -> Ids:
        """The ids of the vectors at some places, -1 for a gap."""
        return np.where(places < 0, -1, self._ids[places])

    def scored(self, places: Ids, queries: Vectors) -> tuple[Ids, Vectors, npt.NDArray[np.bool_]]:
        """Of some rows for each query: their contents, their cosines with it, and which of them are sound.

        places, and all that is returned: (N, k); queries: (N, dim), unit rows. Cosines are those of the rows as the
        store held them. Not sound is a gap, and a row that is not what was written.
        """
        threads = min(places.size * self.stamp.dim // _SCORED_NUMBERS, len(places), cores(), _SCORERS)
        if threads < 2:
            return self._scored(places, queries)
        bounds = [i * len(places) // threads for i in range(threads + 1)]
        parts = [slice(start, end) for start, end in pairwise(bounds)]
        with ThreadPoolExecutor(threads, "scores") as pool:
            scored = pool.map(lambda part: self._scored(places[part], queries[part]), parts)
            contents, scores, sound = map(np.concatenate, zip(*scored, strict=True))
        return contents, scores, sound

    def _scored(self, places: Ids, queries: Vectors) -> tuple[Ids, Vectors, npt.NDArray[np.bool_]]:
        contents, sound = self._contents[places], places >= 0
        scores = np.empty(places.shape, np.float32)
        each, dim = places.shape[1], self.stamp.dim
        step = max(1, _SCORED_NUMBERS // max(each * dim, 1))
        taken = np.empty((min(step, len(places)) * each, 2 * dim), np.uint8)
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            where, shape = places[part].ravel(), places[part].shape
            halves = np.take(self._rows, where, 0, taken[: len(where)], "clip").view(np.float16)
            known = self._checksums[where] == of_rows(self._ids[where], contents[part].ravel(), halves)
            halves[~known] = 0
            sound[part] &= known.reshape(shape)
            scores[part] = cosines(halves.reshape(*shape, dim), queries[part])
        return contents, scores, sound

    def attuned(self, k: int, least: float) -> NeighbourIndex:
        """The same for who asks for vectors of the index itself, and for neighbours at least this alike only.

        They are found as cheaply as reaches the recall that it was built for; its stamp's recall is measured for that.
        """
        if self._nominator is None:
            return self
        rng = np.random.default_rng(self.stamp.covered)
        places = rng.choice(self.stamp.covered, min(self.stamp.covered, _ASKED), replace=False)
        tuning = tune(self, Exam(self, np.sort(places), k, least), self.stamp.target)
        other = copy(self)
        other.stamp = replace(self.stamp, effort=tuning.effort, depth=tuning.depth, recall=tuning.recall)
        return other

    def exact(self, queries: Vectors, k: int, places: Ids | None = None) -> tuple[Vectors, Ids]:
        """The k best of all rows, or of those at some places: scores and places, both (N, k)."""
        count = self.stamp.covered if places is None else len(places)
        few = count * self.stamp.dim <= _FEW_NUMBERS
        if few and len(queries) < _FEW_QUERIES and (places is not None or not self._faiss_takes_over()):
            scores, found = _best(self._compare(queries, places, count), k)
            return scores, found if places is None else np.where(found < 0, -1, places[found])

        import faiss

        if few and places is not None:
            scores, found = faiss.knn(queries, self.rows_at(places), k, faiss.METRIC_INNER_PRODUCT)
            return scores, np.where(found < 0, -1, places[found])
        if places is not None or len(queries) < _FEW_QUERIES:
            assert self._plane is not None
            with _selecting(places, self.stamp.covered) as selector:
                parameters = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
                return self._plane.search(queries, k, params=parameters)
        best = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, self.stamp.covered, _ROWS):
            rows = self.rows_at(slice(start, start + _ROWS))
            scores, places = faiss.knn(queries, rows, min(k, len(rows)), faiss.METRIC_INNER_PRODUCT)
            both, where = np.hstack([best, scores]), np.hstack([found, places + start])
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best, found = np.take_along_axis(both, order, 1), np.take_along_axis(where, order, 1)
        return best, found

    def nominate(
        self, queries: Vectors, k: int, effort: int, depth: int, places: Ids | None = None
    ) -> tuple[Vectors, Ids]:
        """The k best of `depth` candidates, re-ranked by the rows: scores and places, -1 where too few were found."""
        import faiss

        assert self._nominator is not None
        effort = min(effort, self.most_effort)
        self._nominator.prepare(queries, effort)
        with _selecting(places, self.stamp.covered) as selector:
            inner = self._nominator.parameters(effort, selector)
            factor = max(depth, k) / k
            parameters = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
                k_factor=factor, base_index_params=inner
            )
            return self._refine.search(queries, k, params=parameters)

    def _faiss_takes_over(self) -> bool:
        """Whether faiss compares all rows: as soon as numpy has taken as long as importing it takes.

        Where the file has been deleted or damaged since, numpy goes on with what it has mapped.
        """
        if self._plane is None and self._compared <= _IMPORT_NUMBERS:
            self._compared += self.stamp.covered * self.stamp.dim
            if self._compared > _IMPORT_NUMBERS and is_usable(self._path, self.stamp):
                with suppress(RuntimeError):
                    self._open_plane()
        return self._plane is not None

    def _open_plane(self) -> None:
        """Have faiss open the rows, which are mapped once for all then."""
        import faiss

        self._plane = _read_plane(self._path, self.stamp)
        rows = faiss.rev_swig_ptr(self._plane.codes.data(), self._plane.codes.size())
        self._rows = rows.reshape(self.stamp.covered, 2 * self.stamp.dim)

    def _compare(self, queries: Vectors, places: Ids | None, count: int) -> Vectors:
        """Scores of all rows, or of those at some places, (N, count); what is no number is the least there is."""
        scores = np.empty((len(queries), count), np.float32)
        step = max(1, _NUMBERS // self.stamp.dim)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, count, step):
                part = slice(start, start + step)
                scores[:, part] = queries @ self.rows_at(part if places is None else places[part]).T
        return np.nan_to_num(scores, copy=False, nan=-np.inf)

    def rows_at(self, places: Ids | slice) -> Vectors:
        """Rows as float32, (N, dim)."""
        return widened(self._halves_at(places))

    def blocks(self) -> Iterator[Block]:
        """All of it, a stretch at a time."""
        for start in range(0, self.stamp.covered, _ROWS):
            part = slice(start, start + _ROWS)
            yield self._ids[part], self._contents[part], self._halves_at(part)

    def _halves_at(self, places: Ids | slice) -> Half:
        # faiss's header has an odd length: in the file itself numbers lie across words, and are read slowly
        rows = self._rows[places]
        return (rows.copy() if isinstance(places, slice) else rows).view(np.float16)


def _best(scores: Vectors, k: int) -> tuple[Vectors, Ids]:
    """The k best of some scores (N, count): scores and places, both (N, k); damaged rows, which have none, are -1."""
    found = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else np.argsort(-scores, axis=1)
    order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, 1)
    best = np.take_along_axis(scores, found, 1)
    return best, np.where(best == -np.inf, -1, found)


def _mapped(path: Path, start: int, size: int) -> npt.NDArray[np.uint8]:
    """Bytes of a file that are read when they are used."""
    return np.memmap(path, np.uint8, "r", start, (size,)).view(np.ndarray)  # which is cut faster


def _read_plane(path: Path, stamp: Stamp) -> faiss.IndexScalarQuantizer:
    """faiss's own index of all rows, which stay in the file."""
    import faiss

    plane = cast("faiss.IndexScalarQuantizer", faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    if plane.ntotal != stamp.covered or plane.d != stamp.dim:
        raise RuntimeError("the rows are not what the stamp says")
    return plane


@contextmanager
def _selecting(places: Ids | None, count: int) -> Iterator[Any]:
    """faiss's selector for some of so many places, None for all. Its bits, one a row, live as long as the block."""
    import faiss

    if places is None:
        yield None
        return
    chosen = np.zeros(count, bool)
    chosen[places] = True
    bits = np.packbits(chosen, bitorder="little")
    yield faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


def write_index(
    folder: Path,
    blocks: Iterable[Block],
    stamp: Stamp,
    kinds: Sequence[str] = (FLAT,),
    advance: Advance = lambda *_: None,
) -> Stamp:
    """Build the index of some vectors, beside an older one.

    blocks: each is dropped once it is written. kinds: tried in turn until one reaches the recall that the stamp's
    `target` names; where none does, the last is taken. The stamp is filled in.
    The new file is complete and on the disk before it gets its name.
    Raises CatalogError where the disk refuses, or there is not enough memory; InvalidArgument for an unusable kind.
    """
    return _write(folder, blocks, stamp, lambda path, rows: _choose(path, rows, kinds, advance))


def extend_index(
    folder: Path,
    old: NeighbourIndex,
    blocks: Iterable[Block],
    stamp: Stamp,
    advance: Advance = lambda *_: None,
) -> Stamp | None:
    """The same, from an older index and the vectors that it does not cover yet, without training again.

    None where that does not do any more, and nothing is written: the new vectors are of another kind than those that it
    was trained on, or the recall cannot be reached.
    """
    try:
        return _write(
            folder, chain(old.blocks(), blocks), stamp, lambda path, rows: _extended(path, rows, old, advance)
        )
    except _Outgrown:
        return None


class _Outgrown(Exception):
    """The structure was trained for another collection."""


def _write(
    folder: Path,
    blocks: Iterable[Block],
    stamp: Stamp,
    nominate: Callable[[Path, Stamp], tuple[Stamp, Nominator | None]],
) -> Stamp:
    target = path_of(folder, stamp.name)
    try:
        with replacement(target) as temporary:
            rows = _write_rows(temporary, blocks, stamp)
            finished, structure = nominate(temporary, rows)
            if structure is not None:
                with temporary.open("ab") as file:
                    lists, start = structure.write(file)
                finished = replace(finished, lists=lists, structure=start)
            finished = _append_stamp(temporary, finished)
    except (RuntimeError, MemoryError) as error:  # what faiss raises
        text = str(error).strip().splitlines() or ["out of memory"]
        raise CatalogError(
            f"{target} cannot be made: {text[0]}. Check the disk and the memory, and try again."
        ) from error
    return finished


def _write_rows(path: Path, blocks: Iterable[Block], stamp: Stamp) -> Stamp:
    """All rows, as faiss would write them, then their ids and checksums."""
    numbers: list[tuple[Ids, Ids, Checksums]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))]
    with path.open("wb") as file:
        begin = file.write(_header(stamp.dim, 0))
        for ids, contents, rows in blocks:
            rows = np.ascontiguousarray(rows)
            file.write(rows.data)
            numbers.append((np.array(ids), np.array(contents), of_rows(ids, contents, rows)))
        start = file.tell() + file.write(bytes(-file.tell() % 8))  # numbers that lie across words are copied to be used
        for column in zip(*numbers, strict=True):
            file.write(np.concatenate(column).data)
        count = sum(len(ids) for ids, _, _ in numbers)
        file.seek(0)
        file.write(_header(stamp.dim, count))
    return replace(stamp, covered=count, rows=begin, ids=start, kind=FLAT, recall=1.0)


def _header(dim: int, count: int) -> bytes:
    """What faiss writes before the rows of an index of so many.

    In faiss's format the number of vectors is at byte 8, and the last eight bytes of an index without vectors are the
    size of its codes; what faiss reads is compared with the stamp at every opening.
    """
    import faiss

    empty = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    data: bytes = faiss.serialize_index(empty).tobytes()
    size = count * 2 * dim
    return data[:8] + count.to_bytes(8, "little") + data[16:-8] + size.to_bytes(8, "little")


def _choose(path: Path, rows: Stamp, kinds: Sequence[str], advance: Advance) -> tuple[Stamp, Nominator | None]:
    """The first structure that reaches the recall, or the last; None for exact search."""
    exam: Exam | None = None
    for kind in kinds:
        if kind == FLAT or rows.covered < 2:
            break
        structure = nominator.make(kind, rows.dim)
        index = NeighbourIndex(path, rows, None)
        held_out, sample = _split(rows.covered)
        advance("train", 0, 1)
        training = index.rows_at(sample)
        if structure.project(training) < _KEPT and kind != kinds[-1]:
            continue
        structure.train(training)
        del training
        rows = replace(rows, kind=kind, fit=structure.fit(index.rows_at(held_out)), trained=rows.covered)
        _add(structure, index, 0, advance)
        advance("measure", 0, 1)
        exam = exam or Exam(index, held_out)
        tuning = tune(NeighbourIndex(path, rows, structure), exam, rows.target)
        rows = replace(rows, effort=tuning.effort, depth=tuning.depth, recall=tuning.recall)
        if tuning.recall >= rows.target or kind == kinds[-1]:
            return rows, structure
    return replace(rows, kind=FLAT, recall=1.0, effort=0, depth=0, fit=1.0, trained=rows.covered), None


def _extended(path: Path, rows: Stamp, old: NeighbourIndex, advance: Advance) -> tuple[Stamp, Nominator | None]:
    structure, before = old._nominator, old.stamp
    if structure is None:
        return replace(rows, trained=before.trained), None
    index = NeighbourIndex(path, rows, None)
    held_out, _ = _split(rows.covered)
    fresh = held_out[held_out >= before.covered]
    if len(fresh) and structure.fit(index.rows_at(fresh)) < _MOVED * before.fit:
        raise _Outgrown
    structure.load_all()
    _add(structure, index, before.covered, advance)
    rows = replace(rows, kind=before.kind, fit=before.fit, trained=before.trained)
    advance("measure", 0, 1)
    tuning = tune(NeighbourIndex(path, rows, structure), Exam(index, held_out), rows.target)
    if tuning.recall < rows.target:
        raise _Outgrown
    return replace(rows, effort=tuning.effort, depth=tuning.depth, recall=tuning.recall), structure


def _split(count: int) -> tuple[Ids, Ids]:
    """Places to measure with, and places to train on: the same for the same number of vectors."""
    rng = np.random.default_rng(count)
    wanted = min(count, QUERIES + max(SAMPLE * lists_for(count), 16_384))
    places = rng.choice(count, wanted, replace=False, shuffle=True)
    queries = min(QUERIES, wanted // 2)
    return np.sort(places[:queries]), np.sort(places[queries:])


def _add(structure: Nominator, index: NeighbourIndex, start: int, advance: Advance) -> None:
    with structure.adding() as add:
        for place in range(start, index.stamp.covered, _ROWS):
            add(index.rows_at(slice(place, place + _ROWS)))
            advance("index", min(place + _ROWS, index.stamp.covered), index.stamp.covered)


def remove_others(path: Path) -> None:
    """Delete the index files beside the current one, half-written ones too. Who has one of them open keeps it."""
    with changing(path.parent):
        for other in [*path.parent.glob(PATTERN), *path.parent.glob("neighbours-*.tmp")]:
            if other != path:
                other.unlink(missing_ok=True)


def path_of(folder: Path, name: str) -> Path:
    """Every index has a file of its own, so that a reader keeps the one that it has opened."""
    return folder / f"neighbours-{name}.faiss"


def find_index(folder: Path, name: str, model: str) -> tuple[Path, Stamp] | None:
    """The index file of a name, if its stamp is sound and of a model. Reads a few bytes, imports no faiss."""
    path = path_of(folder, name)
    stamp = read_stamp(path)
    return (path, stamp) if stamp and (stamp.name, stamp.model) == (name, model) else None


def open_index(path: Path, stamp: Stamp, *, checked: bool = False) -> NeighbourIndex | None:
    """Map an index file for searching, or None where it is damaged. checked: see is_usable()."""
    try:
        opened = path.stat()
        if not is_usable(path, stamp, checked=checked):
            return None
        structure = None
        if stamp.kind != FLAT:
            structure = nominator.read(path, stamp.lists, stamp.structure, stamp.bytes, stamp.covered)
        index = NeighbourIndex(path, stamp, structure)
        return index if os.path.samestat(opened, path.stat()) else None
    except (RuntimeError, OSError, ValueError):  # also where a build has just put another in its place
        return None


def is_sound(path: Path, stamp: Stamp) -> bool:
    """Whether all that comes before the stamp is what was written, and can be read."""
    try:
        return _checksum(path, (0, stamp.bytes)) == stamp.crc32
    except OSError:
        return False


def is_usable(path: Path, stamp: Stamp, *, checked: bool = False) -> bool:
    """Whether an index file may be searched.

    checked: read it all to see, also where that takes longer than opening should. Otherwise only what is guarded is
    read of a large one: what may be wrong then has no worse end than a neighbour that is missed.
    """
    if checked or stamp.bytes <= _CHECKED_BYTES:
        return is_sound(path, stamp)
    try:
        return _checksum(path, *_guarded(stamp)) == stamp.guard
    except OSError:
        return False


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of an index file, None where the file is cut, foreign or damaged at its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 4096, 0))
            tail = file.read()
    except OSError:
        return None
    end = len(tail) - _TRAILER
    if end < 0 or not tail.endswith(MAGIC):
        return None
    length = int.from_bytes(tail[end + 4 : end + 8], "little")
    text = tail[max(end - length, 0) : end]
    if len(text) != length or zlib.crc32(text).to_bytes(4, "little") != tail[end : end + 4]:
        return None
    try:
        stamp = Stamp(**json.loads(text))
    except TypeError:  # of an indexer that stamps otherwise: the next build makes it anew
        return None
    return stamp if stamp.bytes + length + _TRAILER == size else None


def _append_stamp(path: Path, stamp: Stamp) -> Stamp:
    size = path.stat().st_size
    finished = replace(stamp, bytes=size, crc32=_checksum(path, (0, size)))
    finished = replace(finished, guard=_checksum(path, *_guarded(finished)))
    text = json.dumps(asdict(finished)).encode() + b"\n"
    with path.open("ab") as file:
        file.write(text + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little") + MAGIC)
        file.flush()
        os.fsync(file.fileno())
    return finished


def _guarded(stamp: Stamp) -> list[tuple[int, int]]:
    """Where the header of the rows is, and the structure with the sizes of its lists: beginnings and ends."""
    header = (0, stamp.rows)
    return [header] if stamp.kind == FLAT else [header, (stamp.structure, stamp.bytes)]


def _checksum(path: Path, *parts: tuple[int, int]) -> int:
    """CRC-32 of some parts of a file, one after the other."""
    checksum = 0
    with path.open("rb") as file:
        for start, end in parts:
            file.seek(start)
            while start < end and (block := file.read(min(end - start, _BLOCK))):
                checksum = zlib.crc32(block, checksum)
                start += len(block)
    return checksum
