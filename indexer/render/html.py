"""Results as one self-contained page: thumbnails inside, no script, every name escaped."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..files import replacement
from ..pictures.single import thumbnails
from ..records import Calibration, DuplicateGroup, DuplicateImage, DuplicatesReport, ImageRecord, QueryResult
from .text import approximate, found_duplicates, printable, size

if TYPE_CHECKING:
    from jinja2 import Environment

THUMBNAIL = 320
# large enough to see in the whole window what differs, where there are not too many for one page
ZOOMED = 480
MANY = 1000
# a page of more is no pleasure for anybody; the plan has all of them
MOST_GROUPS, MOST_IMAGES = 1000, 5000
MOST_OF_A_GROUP = 50
# files that are held in memory at once
_AT_ONCE = 64


def write_gallery(results: Sequence[QueryResult], file: Path) -> None:
    """Write one page with every query and its neighbours."""
    pictures = _pictures(path for r in results for path in (r.query, *(m.path for m in r.matches)))
    _write(file, "gallery.html", results=results, pictures=pictures)


def write_groups(report: DuplicatesReport, file: Path) -> None:
    """Write one page with the groups of duplicates, the images of each side by side, as many as a page is good for."""
    shown = list(_shown(report.groups))
    images = [image.image for _, part in shown for image in part]
    pictures = _by_content(images, ZOOMED if len(images) <= MANY else THUMBNAIL)
    _write(file, "groups.html", report=report, groups=shown, pictures=pictures)


def write_calibration(found: Calibration, file: Path) -> None:
    """Write one page with the thresholds and a plot."""
    _write(file, "calibration.html", found=found)


def _shown(groups: Sequence[DuplicateGroup]) -> Iterator[tuple[DuplicateGroup, Sequence[DuplicateImage]]]:
    """Groups, and the images of each, the one to keep first."""
    room = MOST_IMAGES
    for group in groups[:MOST_GROUPS]:
        part = group.images[:MOST_OF_A_GROUP]
        room -= len(part)
        if room < 0:
            return
        yield group, part


def _by_content(images: Iterable[ImageRecord], side: int) -> dict[str, str | None]:
    """One picture for all files of the same bytes, by their SHA-256; from another where one cannot be had any more."""
    files: dict[str, list[str]] = {}
    for image in images:
        files.setdefault(image.sha256, []).append(image.path)
    found: dict[str, str | None] = {}
    while left := {digest: paths.pop(0) for digest, paths in files.items() if paths and not found.get(digest)}:
        pictures = _pictures(left.values(), side)
        found.update((digest, pictures[path]) for digest, path in left.items())
    return found


def _pictures(paths: Iterable[str], side: int = THUMBNAIL) -> dict[str, str | None]:
    unique = list(dict.fromkeys(paths))
    pictures: dict[str, str | None] = {}
    for start in range(0, len(unique), _AT_ONCE):
        part = unique[start : start + _AT_ONCE]
        found = (_data_uri(data) for data in thumbnails(part, side))
        pictures.update(zip(part, found, strict=True))
    return pictures


def _write(file: Path, template: str, **values: Any) -> None:
    with replacement(file) as temporary, temporary.open("w", encoding="utf-8") as page:
        page.writelines(environment().get_template(template).generate(**values))


@cache
def environment() -> Environment:
    """Where templates are rendered: every value escaped, with the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    made.filters.update(printable=printable, size=size, approximate=approximate, found=found_duplicates)
    made.filters.update(name=_name, folder=_folder, link=_link, path=_path)
    return made


def _name(path: str) -> str:
    return printable(os.path.basename(path) or path)


def _folder(path: str) -> str:
    return printable(os.path.dirname(path))


def _link(path: str) -> str:
    return "file://" + _path(os.path.abspath(path))


def _path(path: str) -> str:
    return quote(os.fsencode(path))


def _data_uri(data: bytes | None) -> str | None:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data is not None else None
