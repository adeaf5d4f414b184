"""Making an index file: rows are written, then what nominates candidates is chosen, filled, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ..errors import CatalogError, InvalidArgument
from ..files import replacement
from . import nominator, plane
from .checksums import Checksums, of_rows
from .choosing import FLAT, SAMPLE, lists_for
from .index import ROWS, Block, Ids, NeighbourIndex
from .nominator import Nominator
from .stamp import Stamp, append_stamp, path_of
from .threads import threads
from .tuning import QUERIES, Exam, tune

Advance = Callable[[str, int, int], None]
"""Told the stage ('index', 'train' or 'measure'), how much of it is done, and of how much."""

# a projection that keeps less of the vectors' squared length sets neighbours apart too coarsely
_KEPT = 0.98
# tail vectors that are this much further from their centres are of another kind than those that were trained on
_MOVED = 0.9


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
            with threads():
                finished, structure = nominate(temporary, rows)
            if structure is not None:
                with temporary.open("ab") as file:
                    lists, start = structure.write(file)
                finished = replace(finished, lists=lists, structure=start)
            finished = append_stamp(temporary, finished)
    except (RuntimeError, MemoryError) as error:  # what faiss raises
        text = str(error).strip().splitlines() or ["out of memory"]
        raise CatalogError(
            f"{target} cannot be made: {text[0]}. Check the disk and the memory, or choose another --neighbours."
        ) from error
    return finished


def _write_rows(path: Path, blocks: Iterable[Block], stamp: Stamp) -> Stamp:
    """All rows, as faiss would write them, then their ids and checksums."""
    numbers: list[tuple[Ids, Ids, Checksums]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))]
    with path.open("wb") as file:
        begin = file.write(plane.header_of(stamp.dim, 0))
        for ids, contents, rows in blocks:
            rows = np.ascontiguousarray(rows)
            file.write(rows.data)
            numbers.append((np.array(ids), np.array(contents), of_rows(ids, contents, rows)))
        start = file.tell() + file.write(bytes(-file.tell() % 8))  # numbers that lie across words are copied to be used
        for column in zip(*numbers, strict=True):
            file.write(np.concatenate(column).data)
        count = sum(len(ids) for ids, _, _ in numbers)
        file.seek(0)
        file.write(plane.header_of(stamp.dim, count))
    return replace(stamp, covered=count, rows=begin, ids=start, kind=FLAT, recall=1.0)


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
        try:
            if structure.project(training) < _KEPT and kind != kinds[-1]:
                continue
            structure.train(training)
        except InvalidArgument:  # too few for it
            if kind == kinds[-1]:
                raise
            continue
        del training
        rows = replace(rows, kind=kind, fit=structure.fit(index.rows_at(held_out)), trained=rows.covered)
        _add(structure, index, 0, advance)
        advance("measure", 0, 1)
        exam = exam or Exam(index, held_out, advance=partial(advance, "measure"))
        rows, is_enough = _tuned(path, rows, structure, exam)
        if is_enough or kind == kinds[-1]:
            return rows, structure
    return replace(rows, kind=FLAT, recall=1.0, effort=0, depth=0, usual=None, fit=1.0, trained=rows.covered), None


def _extended(path: Path, rows: Stamp, old: NeighbourIndex, advance: Advance) -> tuple[Stamp, Nominator | None]:
    structure, before = old.structure, old.stamp
    if structure is None:
        return replace(rows, trained=before.trained), None
    index = NeighbourIndex(path, rows, None)
    held_out, _ = _split(rows.covered)
    fresh = held_out[held_out >= before.covered]
    if len(fresh) and structure.fit(index.rows_at(fresh)) < _MOVED * before.fit:
        raise _Outgrown
    structure.load_all()
    _add(structure, index, before.covered, advance)
    advance("measure", 0, 1)
    rows = replace(rows, kind=before.kind, fit=before.fit, trained=before.trained)
    rows, is_enough = _tuned(path, rows, structure, Exam(index, held_out, advance=partial(advance, "measure")))
    if not is_enough:
        raise _Outgrown
    return rows, structure


def _tuned(path: Path, rows: Stamp, structure: Nominator, exam: Exam) -> tuple[Stamp, bool]:
    """With how it is to be searched, and how well it finds then; and whether that is surely enough.

    What asks in the exam is in the index itself. A graph leads to it more easily than to what is not, so there a second
    look at unusual queries comes on top of what reaches the recall.
    """
    twice = exam.usual if structure.can_select else None
    tuning = tune(NeighbourIndex(path, replace(rows, usual=twice), structure), exam, rows.target)
    rows = replace(rows, effort=tuning.effort, depth=tuning.depth, recall=tuning.recall.share, usual=exam.usual)
    return rows, tuning.recall.surely >= rows.target


def _split(count: int) -> tuple[Ids, Ids]:
    """Places to measure with, and places to train on: the same for the same number of vectors."""
    rng = np.random.default_rng(count)
    wanted = min(count, QUERIES + max(SAMPLE * lists_for(count), 16_384))
    places = rng.choice(count, wanted, replace=False, shuffle=True)
    queries = min(QUERIES, wanted // 2)
    return np.sort(places[:queries]), np.sort(places[queries:])


def _add(structure: Nominator, index: NeighbourIndex, start: int, advance: Advance) -> None:
    with structure.adding() as add:
        for place in range(start, index.stamp.covered, ROWS):
            add(index.rows_at(slice(place, place + ROWS)))
            advance("index", min(place + ROWS, index.stamp.covered), index.stamp.covered)
