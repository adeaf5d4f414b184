"""indexer query."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


@click.command(short_help="The pictures most like some pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@common.catalog_option
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="How many neighbours.")
@click.option("--min-score", type=common.Number(-1, 1), default=-1.0, show_default=True, help="1 = same.")
@click.option("--where", metavar="SQL", help="Only images for which this holds, e.g. \"format = 'jpeg'\".")
@click.option("--label", metavar="NAME", help="Only images with this among their five labels.")
@click.option("--include-self", is_flag=True, help="Also show the queried file itself.")
@click.option("--html", metavar="FILE", type=common.a_page, help="Write a page with thumbnails.")
@common.model_options
@common.max_pixels_option
@common.null_option
@common.json_option
@common.debug_option
def query(
    images: tuple[str, ...],
    catalog: Path | None,
    k: int,
    min_score: float,
    where: str | None,
    label: str | None,
    include_self: bool,
    html: Path | None,
    device: str,
    precision: str,
    batch_size: int | None,
    max_pixels: int,
    null: bool,
    as_json: bool,
) -> None:
    """The pictures most like each IMAGE, best first. An IMAGE need not be in the catalog.

    Scores are cosine similarities: 1 is the same picture. A --where condition may use path, bytes, width, height,
    format, taken, camera, sha256, modified, label and probability.
    """
    named = common.expand(images, null)
    with common.open_catalog(catalog, common.loader(device, precision, batch_size)) as opened:
        results, skipped = opened.query_many(
            named,
            k=k,
            min_score=min_score,
            where=where,
            label=label,
            include_self=include_self,
            max_pixels=max_pixels,
        )
    if html is not None:  # before the lines, whose reader may leave early
        from ..render import html as pages

        pages.write_gallery(results, html)
        common.say(f"Wrote {html}")
    from ..render import jsonl, text

    for result in results:
        if as_json:
            click.echo(jsonl.dumps(jsonl.query(result)))
        elif not result.matches:
            common.say(f"Nothing matches {text.short(result.query)}.")
        elif common.is_terminal():
            common.show(text.match_table(text.short(result.query), result.matches))
        else:
            for line in text.match_lines(result.matches):
                click.echo(f"{text.in_line(result.query)}\t{line}" if len(named) > 1 else line)
    common.say_skipped(skipped)
    common.finish(skipped, len(results))
