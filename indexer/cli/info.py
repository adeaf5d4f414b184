"""indexer info."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


@click.command(short_help="What is in the catalog.")
@common.catalog_option
@common.json_option
@common.debug_option
def info(catalog: Path | None, as_json: bool) -> None:
    """What is in the catalog: images, the model, the neighbour index, sizes on disk."""
    from ..render import jsonl, text

    with common.open_catalog(catalog) as opened:
        found = opened.info()
    if as_json:
        click.echo(jsonl.dumps(jsonl.info(found)))
    else:
        for name, value in text.info(found):
            click.echo(f"{name:<12}{value}")
