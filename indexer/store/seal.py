"""The seal: what catalog.sqlite must look like, page by page, while nobody is writing to it.

Row checksums find damage in what matters; the seal finds it anywhere in the file, even where SQLite would never look.
It is broken (deleted) before the first write of a build and made again at its end, so one that is there is valid. It
also repeats the roots, the model, and of the rest what no picture tells, so that a catalog whose file is lost can be
built again, and says what it then lacks.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import changing, replace_file, sync_folder
from . import handles

FILE = "catalog.seal"
PAGE = 4096
_BLOCK = 256 * PAGE


@dataclass(frozen=True, slots=True)
class Told:
    """What a catalog was told, and no picture tells again. decisions, calibrations: how many rows."""

    uuid: str
    exclude: tuple[str, ...]
    decisions: int
    calibrations: int


@dataclass(frozen=True, slots=True)
class Seal:
    """roots: (id, path). model: what the current model was loaded from. pages: CRC-32 of every 4,096 bytes.

    told: None where an earlier indexer made the seal.
    """

    roots: tuple[tuple[int, str], ...]
    model: str | None
    told: Told | None
    size: int
    pages: array[int]


def make(database: Path, roots: dict[bytes, int], model: str | None, told: Told) -> None:
    """Seal a database that nobody is writing to."""
    with changing(database.with_name(FILE)):
        pages = array("I", _checksums(database))
        size = database.stat().st_size
    facts = {
        "roots": [(number, os.fsdecode(path)) for path, number in roots.items()],
        "model": model,
        "told": asdict(told),
        "size": size,
        "pages": len(pages),
    }
    data = json.dumps(facts).encode() + b"\n" + _little(pages).tobytes()
    replace_file(database.with_name(FILE), data + zlib.crc32(data).to_bytes(4, "little"))


def read(database: Path) -> Seal | None:
    """The seal of a database, None where there is none.

    Raises ValueError where it is damaged itself, PermissionError where it may not be read.
    """
    try:
        data = database.with_name(FILE).read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(f"the seal cannot be read ({error.strerror})") from error
    if len(data) < 4 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ValueError("the seal is damaged")
    head, _, rest = data[:-4].partition(b"\n")
    facts = json.loads(head)
    pages = array("I")
    pages.frombytes(rest)
    roots = tuple((int(number), str(path)) for number, path in facts["roots"])
    return Seal(roots, facts["model"], _told(facts.get("told")), facts["size"], _little(pages))


def _told(found: dict[str, Any] | None) -> Told | None:
    if found is None:
        return None
    return Told(found["uuid"], tuple(found["exclude"]), found["decisions"], found["calibrations"])


def break_it(database: Path) -> None:
    """Delete the seal, for good, before the first write."""
    seal = database.with_name(FILE)
    if seal.exists():
        with changing(seal):
            seal.unlink()
            sync_folder(database.parent)


def damaged_pages(database: Path, seal: Seal) -> list[int]:
    """Numbers (from 1, as SQLite counts) of the pages that are not as they were sealed, missing and new ones too."""
    found = array("I", _checksums(database))
    different = [number for number, pair in enumerate(zip(found, seal.pages, strict=False), 1) if pair[0] != pair[1]]
    shorter, longer = sorted((len(found), len(seal.pages)))
    return [*different, *range(shorter + 1, longer + 1)]


def _checksums(database: Path) -> Iterator[int]:
    with handles.reading(database) as handle:
        place = 0
        while block := os.pread(handle, _BLOCK, place):
            yield from (zlib.crc32(block[start : start + PAGE]) for start in range(0, len(block), PAGE))
            place += len(block)


def _little(pages: array[int]) -> array[int]:
    """To or from the file's byte order."""
    import sys

    if sys.byteorder == "big":
        pages = array("I", pages)
        pages.byteswap()
    return pages
