"""indexer models."""

from __future__ import annotations

import click

from ..embed.zoo import DEFAULT_MODEL, ZOO
from . import common

_COLUMNS = ("model", "dim", "input", "params (M)", "GMACs", "top-1", "top-5")
# a name that is broken over two lines cannot be copied to --model
_WHOLE_NAMES = 110


@click.command(short_help="The models that are known to work.")
@common.json_option
@common.debug_option
def models(as_json: bool) -> None:
    """The models that are known to work, with the figures of their model card; any other timm backbone works too."""
    from ..render import jsonl, text

    if as_json:
        for known in ZOO:
            click.echo(jsonl.dumps(jsonl.model(known)))
        return
    rows = [
        (
            m.name,
            str(m.dim),
            str(m.input_size),
            f"{m.parameters:.1f}",
            f"{m.gmacs:.1f}",
            f"{m.top1:.2f}",
            f"{m.top5:.2f}",
        )
        for m in ZOO
    ]
    if common.is_terminal():
        common.show(text.table(_COLUMNS, rows, right=_COLUMNS[1:]), least=_WHOLE_NAMES)
        common.say(f"Default: {DEFAULT_MODEL}")
    else:
        for row in (_COLUMNS, *rows):
            click.echo("\t".join(row))
