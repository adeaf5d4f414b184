"""The pages of `indexer serve`, which have no script, and every name escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from secrets import token_hex
from typing import Any

from ..records import TIERS, Action, CatalogInfo, DuplicatesReport, ImageRecord, Progress, QueryResult
from .html import MOST_OF_A_GROUP, environment
from .text import STAGES

# groups of a page
GROUPS = 50
_OPTIONS = {"tier": None, "keep": None, "mirrors": False, "thorough": False}


def start_page(info: CatalogInfo, images: Sequence[ImageRecord], filters: Mapping[str, str], *, has_more: bool) -> str:
    """Some images of the catalog. filters: `label` and `where`, as they were asked for."""
    return _page("start.html", info=info, images=images, filters=filters, has_more=has_more)


def like_page(result: QueryResult, filters: Mapping[str, str], shown: ImageRecord | str) -> str:
    """The neighbours of a picture. shown: what was looked for, an image of the catalog or the address of a picture."""
    return _page("like.html", result=result, filters=filters, shown=shown)


def look_page(options: Mapping[str, Any] | None = None, problem: str | None = None) -> str:
    """Before duplicates have been looked for, or after that failed. options: as of Catalog.duplicates()."""
    return _duplicates(None, options or {}, problem=problem)


def looking_page(progress: Progress) -> str:
    """While they are looked for."""
    return _duplicates(None, {}, progress=progress, stage=STAGES[progress.stage])


def review_page(
    report: DuplicatesReport, options: Mapping[str, Any], actions: Mapping[str, Action], round_id: str, page: int
) -> str:
    """Some of the groups, and what is to be done with each of their images.

    actions: what was chosen, by path. round_id: comes back with the form, whose fields are the numbers of images in the
    order of the report, or of the first and the last of several. page: from 1 to pages_of().
    """
    start, number, shown, removed = GROUPS * (page - 1), 0, [], []
    for place, group in enumerate(report):
        chosen = [actions.get(image.path, image.action) for image in group.images]
        removed += [image.image.bytes for image, action in zip(group.images, chosen, strict=True) if action == "remove"]
        if start <= place < start + GROUPS:
            every = list(zip(count(number), group.images, chosen))
            rest = set(chosen[MOST_OF_A_GROUP:])
            of_all, of_rest = f"{number}-{number + len(every) - 1}", rest.pop() if len(rest) == 1 else ""
            shown.append((group, of_all, every[:MOST_OF_A_GROUP], every[MOST_OF_A_GROUP:], of_rest))
        number += len(group.images)
    where = {"round": round_id, "id": token_hex(4), "page": page, "pages": pages_of(report)}
    return _duplicates(report, options, groups=shown, removed=removed, **where)


def pages_of(report: DuplicatesReport) -> int:
    """How many pages its groups take, 1 at least."""
    return max(-(-len(report) // GROUPS), 1)


def _duplicates(report: DuplicatesReport | None, options: Mapping[str, Any], **values: Any) -> str:
    usual: dict[str, Any] = {"progress": None, "problem": None, "tiers": TIERS}
    return _page("duplicates.html", report=report, options={**_OPTIONS, **options}, **{**usual, **values})


def error_page(message: str) -> str:
    """What went wrong, in a sentence or two."""
    return _page("error.html", message=message)


def _page(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)
