"""From the paths that a user names to roots, and places below them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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
    """Places for some paths, or every root without any. Second come warnings.

    No place lies in another, and where a path was given none of their roots does: so no file comes twice.

    Raises InvalidArgument for a path that is not there, UnsafeRemoval for a known root that is not.
    """
    roots = list(store.roots())
    if not paths:
        if not roots:
            raise InvalidArgument("This catalog has no folders yet. Name one: indexer build FOLDER.")
        there = [Place(root, b"") for root in roots if os.path.lexists(root)]
        return there, [_missing(root) for root in roots if not os.path.lexists(root)]
    known = frozenset(roots)
    places = _disjoint([_place(_full(path), known, prune) for path in paths])
    of_files = {place.root for place in places if place.below} - known
    return places, [_of_files(min(of_files), len(of_files))] if of_files else []


def parts(place: Place, roots: Iterable[bytes]) -> list[tuple[Place, bytes]]:
    """What known roots hold of a place below a new one, in the order of its paths: where, and how these begin."""
    found = []
    for root in sorted(roots, key=_slashed):
        if _lies_in(root, place.full):
            found.append((Place(root, b""), _below(place.root, root) + b"/"))
        elif _lies_in(place.full, root):
            found.append((Place(root, _below(root, place.full)), _below(place.root, root) + b"/"))
    return found


def _full(path: str | os.PathLike[str]) -> bytes:
    if not os.fspath(path):  # an unset variable in a script, which would stand for the whole current folder
        raise InvalidArgument("An empty name is no folder. Write . for the current one.")
    return os.path.abspath(os.fsencode(path))


def _place(full: bytes, roots: frozenset[bytes], prune: bool) -> Place:
    there = os.path.lexists(full)
    around = [folder for folder in _upwards(full) if folder in roots]
    if around:
        if full in roots and not there and not prune:
            raise UnsafeRemoval(_missing(full))
        return Place(around[-1], _below(around[-1], full))
    if not there:
        raise InvalidArgument(f"There is no file or folder {os.fsdecode(full)}. Check the spelling.")
    if os.path.isdir(full):
        return Place(full, b"")
    return Place(os.path.dirname(full), os.path.basename(full))


def _disjoint(places: Sequence[Place]) -> list[Place]:
    """The same, without those that lie in others; and what lies in the root of another is put below that."""
    roots = {place.full: place.root for place in places}
    outer = _outermost(roots.values())
    kept = [full for full, around in _outermost(roots).items() if full == around]
    return [Place(outer[roots[full]], _below(outer[roots[full]], full)) for full in kept]


def _outermost(paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """Path -> the outermost of them that it lies in, which may be itself."""
    found: dict[bytes, bytes] = {}
    around: bytes | None = None
    for path in sorted(set(paths), key=_slashed):  # so that what lies in a folder comes right after it
        if around is None or not _lies_in(path, around):
            around = path
        found[path] = around
    return found


def _upwards(path: bytes) -> Iterator[bytes]:
    """A path and every folder that it lies in, the nearest first."""
    yield path
    while (above := os.path.dirname(path)) != path:
        yield above
        path = above


def _lies_in(path: bytes, folder: bytes) -> bool:
    """Whether it is this folder, or in it."""
    return _slashed(path).startswith(_slashed(folder))


def _slashed(path: bytes) -> bytes:
    return path.rstrip(b"/") + b"/"


def _below(folder: bytes, path: bytes) -> bytes:
    """The path from a folder on."""
    return path[len(_slashed(folder)) :]


def _of_files(folder: bytes, count: int) -> str:
    more = f" and {count - 1:,} other {'folder' if count == 2 else 'folders'}" if count > 1 else ""
    return (
        "The catalog knows folders, not single files: a build without a path takes in everything in "
        f"{os.fsdecode(folder)}{more}. To go on with these files alone, name them each time."
    )


def _missing(root: bytes) -> str:
    return (
        f"The folder {os.fsdecode(root)} is not there, so its images are kept. "
        f"Mount its disk; or forget its images with: indexer build --prune {os.fsdecode(root)}."
    )
