"""indexer calibrate."""

from __future__ import annotations

from pathlib import Path

import click

from . import common
from .progress import progress_bar


@click.command(short_help="What thresholds mean for this collection.")
@common.catalog_option
@click.option("--sample", type=click.IntRange(1), default=100, show_default=True, help="Pictures to make edits of.")
@click.option("--html", metavar="FILE", type=common.a_page, help="Write a page with a plot.")
@common.model_options
@common.json_option
@common.debug_option
def calibrate(
    catalog: Path | None,
    sample: int,
    html: Path | None,
    device: str,
    precision: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Measure which similarity tells copies from other pictures in this collection, and use it in dedup from now on.

    Edits of some of its pictures are made in memory (resized, cropped, grey, written on ...) and put through the model:
    how many of them would each threshold find, and how many pairs of different pictures with them?
    """
    from ..catalog import Catalog
    from ..render import html as pages
    from ..render import jsonl, text

    loading = common.loader(device, precision, batch_size)
    with Catalog.open(common.find_catalog(catalog), loader=loading) as opened, progress_bar("load") as progress:
        found = opened.calibrate(sample=sample, progress=progress)
    if as_json:
        click.echo(jsonl.dumps(jsonl.calibration(found)))
    else:
        for line in text.calibration(found):
            click.echo(line)
    if html is not None:
        pages.write_calibration(found, html)
        common.say(f"Wrote {html}")
