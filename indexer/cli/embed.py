"""indexer embed."""

from __future__ import annotations

from pathlib import Path

import click

from ..embed.zoo import DEFAULT_MODEL
from . import common


def _ending(out: Path) -> None:
    from ..verbs.embed import require_ending

    require_ending(out)


@click.command(short_help="Vectors of some pictures, as a .npy file.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE.npy",
    type=common.an_array,
    callback=common.checked(_ending),
    help="Where to.",
)
@click.option("--tokens", is_flag=True, help="Unpooled tokens (N, T, dim) instead of pooled pre-logits (N, dim).")
@common.model_option()
@common.model_options
@common.max_pixels_option
@common.null_option
@common.json_option
@common.debug_option
def embed(
    images: tuple[str, ...],
    out: Path,
    tokens: bool,
    model: str | None,
    device: str,
    precision: str,
    batch_size: int | None,
    max_pixels: int,
    null: bool,
    as_json: bool,
) -> None:
    """Pooled pre-logits of each IMAGE, unit length, float32, a row an image in their order; no catalog is used."""
    from ..render import jsonl, text
    from ..verbs.embed import embed_files

    named = common.expand(images, null)
    embedder = common.loader(device, precision, batch_size)(model or DEFAULT_MODEL)
    shape, skipped = embed_files(embedder, named, out, tokens=tokens, max_pixels=max_pixels)
    if as_json:
        click.echo(jsonl.dumps({"shape": shape, "model": embedder.id.key, "skipped": [jsonl.skip(s) for s in skipped]}))
    elif shape[0]:
        click.echo(text.printable(f"{out}: {' x '.join(map(str, shape))} float32, {embedder.id.key}"))
    common.say_skipped(skipped)
    if not shape[0]:
        common.say(f"None of the pictures could be used: {out} was not written.")
    common.finish(skipped, shape[0])
