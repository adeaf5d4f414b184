"""info: what is in a catalog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..records import CatalogInfo
from ..store.store import Store
from . import nearest

TRIES = 5


def info(store: Store, folder: Path) -> CatalogInfo:
    """Counts, the model, the neighbour index, and the size of every file."""
    for _ in range(TRIES):
        with store.snapshot():
            found, name = _info(store, folder), store.neighbours
        if found.neighbours.covered or store.neighbours == name:  # else a build has just put another in its place
            break
    return found


def _info(store: Store, folder: Path) -> CatalogInfo:
    model = store.model()
    return CatalogInfo(
        catalog=str(folder),
        format=store.format,
        model=model.id.key if model else None,
        dim=model.id.dim if model else None,
        roots=tuple(os.fsdecode(root) for root in store.roots()),
        exclude=store.exclude,
        images=store.count("images"),
        contents=store.count("contents"),
        vectors=store.vectors.span(model)[0] if model else 0,
        skipped=store.count("skips"),
        neighbours=nearest.info(store, folder),
        bytes=dict(_sizes(folder)),
    )


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):  # a build may just have put another in its place
            if path.is_file():
                yield path.name, path.stat().st_size
