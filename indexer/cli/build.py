"""indexer build."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from ..embed.zoo import DEFAULT_MODEL
from ..errors import CatalogNotFound, InvalidArgument
from . import common
from .progress import progress_bar

if TYPE_CHECKING:
    from ..catalog import Catalog
    from ..embed.embedder import Embedder


@click.command(short_help="Make a catalog of folders, or bring it up to date.")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@common.catalog_option
@common.model_option(f"the catalog's, or {DEFAULT_MODEL}")
@common.model_options
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave out files and folders, see above.")
@click.option("--workers", type=click.IntRange(1), help="Decoding processes. Default: one a core that may be used.")
@common.max_pixels_option
@click.option("--wait", is_flag=True, help="Wait for another build of this catalog instead of giving up.")
@click.option("--prune", is_flag=True, help="Also forget images when more than 10 % of a folder are gone.")
@click.option("--switch-model", is_flag=True, help="Go on with another model than the catalog's.")
@click.option("--neighbours", metavar="KIND", help="flat, ivf, hnsw or a faiss factory string. Default: by size.")
@click.option("--recall", type=common.Number(0, 1, min_open=True), help="recall@10 to reach. Default: 0.99.")
@click.option("--memory", type=common.Number(0, min_open=True), metavar="GB", help="For the index. Default: 1/4.")
@click.option("--optimize", is_flag=True, help="Bring the neighbour index up to date, however little has changed.")
@click.option("--dry-run", is_flag=True, help="Only compare names, sizes and times; read and change nothing.")
@common.null_option
@common.json_option
@common.debug_option
def build(
    paths: tuple[str, ...],
    catalog: Path | None,
    model: str | None,
    device: str,
    precision: str,
    batch_size: int | None,
    exclude: tuple[str, ...],
    workers: int | None,
    max_pixels: int,
    prune: bool,
    switch_model: bool,
    wait: bool,
    neighbours: str | None,
    recall: float | None,
    memory: float | None,
    optimize: bool,
    dry_run: bool,
    null: bool,
    as_json: bool,
) -> None:
    """Make a catalog of folders (or files), or bring it up to date.

    New, changed, moved and removed pictures are told apart; only contents that are new go through the model. Without
    PATH every folder that the catalog knows is brought up to date. Committed as it goes: stop it at any time, run it
    again, and it goes on.

    --exclude leaves out what has such a name, wherever it is (thumbs, '*.png'), or with a slash such a path
    (photos/raw); it may be given several times, and is remembered until it is given again (nothing more: --exclude '').
    What the catalog knew of it is forgotten.
    """
    from ..render import jsonl, text

    named = common.expand(paths, null)
    loading = common.loader(device, precision, batch_size)
    folder = _folder(catalog, named)
    with _opened(folder, dry_run, model, loading) as opened, progress_bar("scan") as progress:
        report = opened.build(
            named,
            prune=prune,
            dry_run=dry_run,
            switch_model=switch_model,
            wait=wait,
            workers=workers,
            max_pixels=max_pixels,
            neighbours=neighbours,
            recall=recall,
            memory=None if memory is None else int(memory * 1e9),
            optimize=optimize,
            exclude=[pattern for pattern in exclude if pattern] if exclude else None,
            progress=progress,
        )
    report = replace(report, catalog=str(folder))
    if as_json:
        click.echo(jsonl.dumps(jsonl.build(report)))
    else:
        for line in text.build(report):
            click.echo(line)
    for warning in report.warnings:
        common.say(f"Warning: {warning}")
    if report.new_skipped:
        sys.exit(common.SOME_SKIPPED)


def _folder(given: Path | None, paths: list[str]) -> Path:
    """The catalog's folder: an existing one, else ./.indexer."""
    try:
        folder = common.find_catalog(given)
    except CatalogNotFound:
        folder = Path(common.FOLDER)
    if not common.is_catalog(folder):
        if not paths:
            raise InvalidArgument("There is no catalog yet. Name a folder of pictures: indexer build FOLDER.")
        for path in paths:  # before an empty catalog is left behind
            if not os.path.lexists(path):
                raise InvalidArgument(f"There is no file or folder {path}. Check the spelling.")
    return folder


@contextmanager
def _opened(folder: Path, dry_run: bool, model: str | None, loading: Callable[[str], Embedder]) -> Iterator[Catalog]:
    """The catalog; for a dry run only for reading, and a passing one where a build would make it."""
    from ..catalog import Catalog

    if not dry_run:
        with Catalog.create(folder, model=model, loader=loading) as catalog:
            yield catalog
    elif common.is_catalog(folder):
        with Catalog.open(folder, model=model, loader=loading, readonly=True) as catalog:
            yield catalog
    else:
        with TemporaryDirectory() as passing, Catalog.create(passing, model=model, loader=loading) as catalog:
            yield catalog
