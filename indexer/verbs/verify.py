"""verify: check every promise of the format; repair: make again what can be made again, from what is sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import CatalogError, CatalogLocked, WrongFormat
from ..files import changing, left_over
from ..neighbours.stamp import is_sound, path_of, read_stamp
from ..records import BuildReport, VerifyReport
from ..store import salvage, seal
from ..store.checking import problems
from ..store.connection import has_log
from ..store.sqlite_errors import MEND
from ..store.store import FILE, Store

SHOWN = 20
GONE = f"{FILE} is missing"
UNSEALED = (
    "The last build has not come to its end, or somebody was reading as it did, so the file as a whole has no "
    "checksum: run indexer build."
)
KEPT = "What a repair could not carry over is in {}: delete that where nothing of it is missed."


def verify(folder: Path) -> VerifyReport:
    """Check the catalog of a folder without changing it.

    Every page of catalog.sqlite against the seal, SQLite's own check, the checksum of every row, the model ids, and
    the neighbour file against its stamp. Raises CatalogLocked where another process keeps it from being read, and
    WrongFormat for what another program or a newer indexer has written.
    """
    return _checked(folder, _harmed_index(folder))


def _checked(folder: Path, harmed: _Harmed | None) -> VerifyReport:
    found = [*_check_pages(folder)]
    found += _check_rows(folder) if GONE not in found else []
    found += [f"{harmed.path.name} {harmed.how}"] if harmed else []
    return VerifyReport(tuple(found), notes=_notes(folder))


def _notes(folder: Path) -> tuple[str, ...]:
    unsealed = [] if (folder / seal.FILE).exists() else [UNSEALED]
    return (*unsealed, *(KEPT.format(path) for path in salvage.kept(folder)))


def repair(folder: Path, build: Callable[[str | None], BuildReport]) -> VerifyReport:
    """Check, and mend what is found.

    The neighbour file is made again from the vectors, the vectors from the pictures, and the rest from what is sound
    in the damaged file and from the folders. build: brings the catalog in line with all its roots; it is given what its
    model was loaded from, where the catalog itself does not know any more.
    """
    harmed = _harmed_index(folder)
    found = _checked(folder, harmed)
    if found.ok and UNSEALED not in found.notes and not left_over(folder):
        return found
    repaired = []
    if harmed:
        with changing(harmed.path):
            harmed.path.unlink()
        repaired.append(f"{harmed.path.name} was made again from the vectors")
    store_harmed = any(problem.startswith(f"{FILE}:") or problem == GONE for problem in found.problems)
    salvaged = salvage.salvage(folder) if store_harmed else None
    model = salvaged.model if salvaged else None
    seal.break_it(folder / FILE)
    report = build(model)
    lost = _drop_without_vector(folder)
    images = build(model).images if lost else report.images
    if salvaged:
        lost = [*salvaged.lost, *lost]
        repaired.append(f"{FILE} was made again: {images:,} images, {report.embedded:,} of them embedded again")
    if not repaired:
        repaired.append("the seal was made again" if found.problems else "the last build was brought to its end")
    return VerifyReport(found.problems, tuple(repaired), tuple(lost), _notes(folder))


def _check_pages(folder: Path) -> Iterator[str]:
    database = folder / FILE
    try:
        yield from _compare_pages(database)
    except ValueError as error:
        yield f"{seal.FILE}: {error}"
    except PermissionError as error:
        raise _denied(error) from error
    except OSError as error:
        yield f"{FILE}: cannot be read ({error.strerror})"


def _compare_pages(database: Path) -> Iterator[str]:
    sealed = seal.read(database)
    if sealed is None:
        return
    if not database.exists():
        yield GONE
    elif not has_log(database):
        pages = seal.damaged_pages(database, sealed)
        if pages and seal.read(database) == sealed:  # no build has begun meanwhile
            yield f"{FILE}: {len(pages):,} pages are not as they were written (the first is {pages[0]})"


def _is_start_damaged(database: Path) -> bool:
    """Whether the seal says that a file was ours, and is one no more for what is damaged in its first page."""
    with suppress(ValueError):
        sealed = seal.read(database)
        return sealed is not None and not has_log(database) and 1 in seal.damaged_pages(database, sealed)
    return False


def _check_rows(folder: Path) -> Iterator[str]:
    try:
        store = Store.open(folder, readonly=True)
    except CatalogLocked:  # which says nothing of what is stored
        raise
    except WrongFormat as error:
        if not _is_start_damaged(folder / FILE):
            raise
        yield f"{FILE}: {error}"
        return
    except CatalogError as error:
        yield f"{FILE}: {_without_advice(error)}"
        return
    try:
        for number, problem in enumerate(problems(store)):
            if number == SHOWN:
                yield f"{FILE}: there are more problems"
                return
            yield f"{FILE}: {problem}"
    except CatalogLocked:
        raise
    except Exception as error:  # a damaged row may hold anything, and what it holds may raise anything
        yield f"{FILE}: cannot be read to its end ({_without_advice(error)})"
    finally:
        store.close()


def _without_advice(error: Exception) -> str:
    """What is wrong; that this very command mends it need not be said here."""
    return str(error).partition(f" {MEND}")[0]


class _Harmed(NamedTuple):
    """A neighbour file, and what is wrong with it."""

    path: Path
    how: str


def _harmed_index(folder: Path) -> _Harmed | None:
    """The neighbour file that goes with the store, where it is not as it was written. Any other is only left over."""
    try:
        with closing(Store.open(folder, readonly=True)) as store:
            path = path_of(folder, store.neighbours)
    except CatalogLocked:
        raise
    except CatalogError:
        return None
    try:
        path.open("rb").close()
    except FileNotFoundError:  # which costs nothing but time
        return None
    except PermissionError as error:
        raise _denied(error) from error
    except OSError as error:
        return _Harmed(path, f"cannot be read ({error.strerror})")
    stamp = read_stamp(path)
    harmed = stamp is None or not is_sound(path, stamp)
    # a build may have put another in its place
    return _Harmed(path, "is not as it was written") if harmed and path.exists() else None


def _denied(error: PermissionError) -> CatalogError:
    """Which tells nothing of a file's soundness."""
    return CatalogError(f"{error.filename} cannot be read ({error.strerror}). Check the permissions.")


def _drop_without_vector(folder: Path) -> list[str]:
    """Images whose vector is lost and whose file cannot be read any more: what could not be saved."""
    store = Store.open(folder)
    try:
        return [os.fsdecode(path) for path in store.remove_without_vector()]
    finally:
        store.close()
