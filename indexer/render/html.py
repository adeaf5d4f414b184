"""Results as one self-contained page: thumbnails inside, no script, every name escaped."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import pathname2url

from ..errors import IndexerError
from ..pictures.single import thumbnails
from ..records import QueryResult
from .text import printable, size

if TYPE_CHECKING:
    from jinja2 import Environment

THUMBNAIL = 320


def write_gallery(results: Sequence[QueryResult], file: Path) -> None:
    """Write one page with every query and its neighbours."""
    paths = list(dict.fromkeys(path for r in results for path in (r.query, *(m.path for m in r.matches))))
    pictures = {path: _data_uri(data) for path, data in zip(paths, thumbnails(paths, THUMBNAIL), strict=True)}
    page = _environment().get_template("gallery.html").render(results=results, pictures=pictures)
    temporary = file.with_name(file.name + ".tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise IndexerError(f"{file} cannot be written ({error.strerror}). Choose another place.") from error


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    made.filters.update(printable=printable, size=size, name=_name, link=_link)
    return made


def _name(path: str) -> str:
    return printable(os.path.basename(path) or path)


def _link(path: str) -> str:
    return "file://" + pathname2url(
        os.fsencode(os.path.abspath(path)).decode("latin-1"),
    )


def _data_uri(data: bytes | None) -> str | None:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data is not None else None
