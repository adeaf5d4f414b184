"""indexer classify."""

from __future__ import annotations

import click

from ..embed.zoo import DEFAULT_MODEL
from ..records import Skipped
from . import common


@click.command(short_help="What is in some pictures.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="How many classes.")
@common.model_option()
@common.model_options
@common.max_pixels_option
@common.null_option
@common.json_option
@common.debug_option
def classify(
    images: tuple[str, ...],
    k: int,
    model: str | None,
    device: str,
    precision: str,
    batch_size: int | None,
    max_pixels: int,
    null: bool,
    as_json: bool,
) -> None:
    """The most probable classes of each IMAGE, by the model's classifier (ImageNet-1k for the models that we list)."""
    from ..render import jsonl, text
    from ..verbs.embed import classify_files

    named = common.expand(images, null)
    embedder = common.loader(device, precision, batch_size)(model or DEFAULT_MODEL)
    skipped: list[Skipped] = []
    done = 0
    for item in classify_files(embedder, named, k, max_pixels=max_pixels):
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        path, labels = item
        done += 1
        if as_json:
            click.echo(jsonl.dumps({"path": path, "labels": jsonl.labels(labels)}))
        else:
            name = text.short(path) if common.is_terminal() else text.in_line(path)
            for label in labels:
                click.echo(f"{name}\t{label.probability:.4f}\t{text.printable(label.label)}")
    common.say_skipped(skipped)
    common.finish(skipped, done)
