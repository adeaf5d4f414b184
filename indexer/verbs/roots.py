"""From the paths that a user names to roots, and places below them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidArgument, UnsafeRemoval
from ..store.store import Store


@dataclass(frozen=True, slots=True)
class Place:
    """What to bring in line: a whole root (below empty), or a folder or file below one."""

    root: bytes
    below: bytes

    @property
    def full(self) -> bytes:
        """The absolute path."""
        return os.path.join(self.root, self.below) if self.below else self.root


def resolve(store: Store, paths: Sequence[str | os.PathLike[str]], *, prune: bool) -> tuple[list[Place], list[str]]:
    """Places for some paths, or every root without any; none lies in another. Second come warnings.

    Raises InvalidArgument for a path that is not there, UnsafeRemoval for a known root that is not.
    """
    roots = list(store.roots())
    if not paths:
        if not roots:
            raise InvalidArgument("This catalog has no folders yet. Name one: indexer build FOLDER.")
        there = [Place(root, b"") for root in roots if os.path.lexists(root)]
        return there, [_missing(root) for root in roots if not os.path.lexists(root)]
    return _outermost([_place(_full(path), roots, prune) for path in paths]), []


def _full(path: str | os.PathLike[str]) -> bytes:
    if not os.fspath(path):  # an unset variable in a script, which would stand for the whole current folder
        raise InvalidArgument("An empty name is no folder. Write . for the current one.")
    return os.path.abspath(os.fsencode(path))


def _place(full: bytes, roots: Sequence[bytes], prune: bool) -> Place:
    there = os.path.lexists(full)
    for root in roots:
        if full == root or full.startswith(root.rstrip(b"/") + b"/"):
            if full == root and not there and not prune:
                raise UnsafeRemoval(_missing(root))
            return Place(root, full[len(root.rstrip(b"/")) + 1 :])
    if not there:
        raise InvalidArgument(f"There is no file or folder {os.fsdecode(full)}. Check the spelling.")
    if os.path.isdir(full):
        return Place(full, b"")
    return Place(os.path.dirname(full), os.path.basename(full))


def _outermost(places: Sequence[Place]) -> list[Place]:
    kept: list[Place] = []
    for place in sorted(set(places), key=lambda p: p.full):
        if not any(place.full == k.full or place.full.startswith(k.full.rstrip(b"/") + b"/") for k in kept):
            kept.append(place)
    return kept


def _missing(root: bytes) -> str:
    return (
        f"The folder {os.fsdecode(root)} is not there, so its images are kept. "
        f"Mount its disk; or forget its images with: indexer build --prune {os.fsdecode(root)}."
    )
