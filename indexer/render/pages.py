"""The pages of `indexer serve`, which have no script, and every name escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..records import CatalogInfo, ImageRecord, QueryResult
from .html import environment


def start_page(info: CatalogInfo, images: Sequence[ImageRecord], filters: Mapping[str, str], *, has_more: bool) -> str:
    """Some images of the catalog. filters: `label` and `where`, as they were asked for."""
    return _page("start.html", info=info, images=images, filters=filters, has_more=has_more)


def like_page(result: QueryResult, filters: Mapping[str, str], shown: ImageRecord | str) -> str:
    """The neighbours of a picture. shown: what was looked for, an image of the catalog or the address of a picture."""
    return _page("like.html", result=result, filters=filters, shown=shown)


def error_page(message: str) -> str:
    """What went wrong, in a sentence or two."""
    return _page("error.html", message=message, filters={})


def _page(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)
