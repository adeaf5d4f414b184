"""indexer verify."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import common
from .progress import progress_bar


@click.command(short_help="Check the catalog, and repair it.")
@common.catalog_option
@click.option("--repair", is_flag=True, help="Make again what can be made again, from what is sound.")
@common.model_options
@common.json_option
@common.debug_option
def verify(
    catalog: Path | None, repair: bool, device: str, precision: str, batch_size: int | None, as_json: bool
) -> None:
    """Check that every file of the catalog is as it was written.

    --repair makes the neighbour files again from the vectors, damaged vectors from the pictures, and a damaged
    catalog.sqlite from what is sound in it and from the folders; it says what could not be saved, and keeps the
    damaged file then. Exit code 1: something is damaged, or could not be saved.
    """
    from ..catalog import Catalog
    from ..render import jsonl, text

    loading = common.loader(device, precision, batch_size)
    with progress_bar("check") as progress:
        report = Catalog.verify(common.find_catalog(catalog), repair=repair, loader=loading, progress=progress)
    sound = report.ok or (repair and not report.lost)
    if as_json:
        click.echo(jsonl.dumps({**jsonl.verify(report), "ok": sound}))
    else:
        for line in text.verify(report):
            click.echo(line)
    if not sound:
        if not repair:
            common.say(f"Repair it with: {text.command('verify', '--repair', catalog=catalog)}")
        sys.exit(1)
