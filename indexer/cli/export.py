"""indexer export."""

from __future__ import annotations

from pathlib import Path

import click

from . import common


def _ending(file: Path) -> None:
    from ..verbs.export import require_ending

    require_ending(file)


@click.command(short_help="Vectors and metadata for other tools.")
@click.argument("file", type=common.a_file, callback=common.checked(_ending))
@common.catalog_option
@common.json_option
@common.debug_option
def export(file: Path, catalog: Path | None, as_json: bool) -> None:
    """Write every image with its vector to FILE: .parquet, .npy (and .csv beside), .csv or .jsonl by its ending."""
    from ..render import jsonl
    from ..render.text import plural, printable

    with common.open_catalog(catalog) as opened:
        report = opened.export(file)
    if as_json:
        click.echo(jsonl.dumps({"file": report.file, "rows": report.rows}))
    else:
        click.echo(f"{printable(report.file)}: {plural(report.rows, 'row')}")
