"""indexer bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..embed.zoo import DEFAULT_MODEL
from . import common
from .progress import progress_bar

if TYPE_CHECKING:
    from ..embed.embedder import Embedder


@click.command(short_help="What this machine does, stage by stage.")
@common.model_option()
@click.option(
    "--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda:N or mps; one is measured."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="auto: all that the device has.",
)
@click.option(
    "--images",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Measure with pictures of this folder. Default: made-up JPEGs of 500 x 375.",
)
@click.option(
    "--pictures", type=click.IntRange(2), default=2_000, show_default=True, help="How many of them to use at most."
)
@click.option(
    "--seconds",
    type=common.Number(0, min_open=True),
    default=1.5,
    show_default=True,
    help="What each measurement may take; a slow model takes longer.",
)
@common.json_option
@common.debug_option
def bench(
    model: str | None,
    device: str,
    precision: str,
    images: Path | None,
    pictures: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure what this machine does with a model: decoding, the model by precision and batch, storing, all of it
    together, and searching; and say which stage holds up the others.

    Needs a model's weights, but no catalog and no pictures; changes nothing. Where the default model cannot be fetched,
    --model FOLDER takes one that is here.
    """
    from ..render import jsonl, text
    from ..verbs.bench import BenchOptions
    from ..verbs.bench import bench as measure

    def load(precision: str, batch_size: int | None) -> Embedder:
        one = "cuda:0" if device == "cuda" else device
        return common.loader(one, precision, batch_size)(model or DEFAULT_MODEL)

    with progress_bar("load") as progress:
        report = measure(load, BenchOptions(images, pictures, seconds, precision), progress)
    if as_json:
        click.echo(jsonl.dumps(jsonl.bench(report)))
    else:
        for line in text.bench(report):
            click.echo(line)
