"""indexer dedup."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from ..errors import InvalidArgument
from ..records import TIERS
from . import common
from .progress import progress_bar


class _Threshold(common.Number):
    """A cosine similarity, or auto."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises BadParameter, which is wrong usage."""
        return value if value == "auto" else super().convert(value, param, ctx)


def _parse(rules: str) -> None:
    from ..verbs.keeping import Keeping

    Keeping.parse(rules)


@click.command(short_help="Groups of pictures that are the same.")
@common.catalog_option
@click.option(
    "--threshold",
    type=_Threshold(-1, 1),
    default="auto",
    show_default=True,
    metavar="auto|S",
    help="Lowest cosine similarity; 1 = same.",
)
@click.option(
    "--tier",
    type=click.Choice(list(TIERS)),
    help="The least sure tier to show. Only exact, pixels and copy are ever marked for removal. Default: copy, or "
    "probable with --thorough.",
)
@click.option("--mirrors", is_flag=True, help="Also find copies that are mirrored or turned.")
@click.option("--thorough", is_flag=True, help="Read pictures where signatures cannot decide: tier probable.")
@click.option(
    "--against",
    metavar="CATALOG",
    type=click.Path(path_type=Path),
    help="Only pictures that are in another catalog too; its images are kept.",
)
@click.option(
    "--all-pairs",
    is_flag=True,
    help="Compare all pairs of vectors, also where the neighbour index would be much faster and nearly as good.",
)
@click.option(
    "--keep",
    metavar="RULE,...",
    callback=common.checked(_parse),
    help="Which to keep: rules in their order, see above.",
)
@click.option("--keep-all", metavar="GROUP", multiple=True, help="Remember that a group is none: these differ.")
@click.option("--ask-again", is_flag=True, help="Forget what was remembered so, and show those groups again.")
@click.option("--plan", metavar="FILE", type=common.a_plan, help="Write a plan for indexer apply.")
@click.option("--html", metavar="FILE", type=common.a_page, help="Write a page with the groups.")
@common.json_option
@common.debug_option
def dedup(
    catalog: Path | None,
    threshold: float | Literal["auto"],
    tier: str | None,
    mirrors: bool,
    thorough: bool,
    against: Path | None,
    all_pairs: bool,
    keep: str | None,
    keep_all: tuple[str, ...],
    ask_again: bool,
    plan: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Find groups of pictures that are the same: by their bytes (exact), their pixels, or as verified copies that were
    encoded again, resized, recoloured, cropped, framed or written on. Nothing is changed: see indexer apply.

    --keep says which image of a group stays, by rules of which the first that tells two apart decides: resolution,
    complete (colour, transparency, more than 8 bits), exif, format, bytes, name, oldest, newest, path:GLOB,
    shortest-path. What has something that the image to keep lacks is left alone.
    """
    from ..catalog import Catalog
    from ..render import html as pages
    from ..render import jsonl, text

    if keep_all and (plan is not None or html is not None):
        raise InvalidArgument("--keep-all only remembers groups. Ask for --plan or --html afterwards.")
    if keep_all and ask_again:
        raise InvalidArgument("--keep-all remembers groups, --ask-again forgets them. Give one of the two.")
    with (
        Catalog.open(common.find_catalog(catalog), readonly=not (keep_all or ask_again)) as opened,
        progress_bar("pairs") as progress,
    ):
        if ask_again:
            common.say(f"Forgot {text.plural(opened.ask_again(), 'group')} that had been no duplicates.")
        report = opened.duplicates(
            threshold=threshold,
            tier=tier,  # type: ignore[arg-type]
            keep=keep,
            mirrors=mirrors,
            thorough=thorough,
            against=against,
            all_pairs=all_pairs,
            progress=progress,
        )
        if keep_all:
            for group in opened.keep_all(report, keep_all):
                common.say(f"Group {group.id} is remembered: its {len(group.images)} images are no duplicates.")
            return
        if plan is not None:
            opened.plan(report, plan)
    if html is not None:  # before the lines, whose reader may leave early
        pages.write_groups(report, html)
        common.say(f"Wrote {html}")
    if as_json:
        for group in report:
            click.echo(jsonl.dumps(jsonl.group(group, report.recall)))
    elif common.is_terminal():
        for group in report:
            common.show(text.group_table(group))
    else:
        for group in report:
            for line in text.group_lines(group):
                click.echo(line)
    for line in text.duplicates(report, plan, catalog):
        common.say(line)
