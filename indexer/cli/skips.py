"""indexer skips."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


@click.command(short_help="The files that could not be indexed.")
@common.catalog_option
@common.json_option
@common.debug_option
def skips(catalog: Path | None, as_json: bool) -> None:
    """The files that could not be indexed, each with the reason. They are tried again when they change."""
    from ..render import jsonl, text

    with common.open_catalog(catalog) as opened:
        if as_json:
            for item in opened.skips():
                click.echo(jsonl.dumps(jsonl.skip(item)))
        else:
            lines = text.skips if common.is_terminal() else text.skip_lines
            for line in lines(opened.skips()):
                click.echo(line)
