"""What a build leaves out: files and folders whose name, or whose path, fits a pattern."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from glob import escape

from ..errors import InvalidArgument

Excludes = Callable[[bytes, bytes], bool]
"""Whether what is in a folder, whose path ends in a slash, under a name, is left out."""


def resolved(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns as they are remembered: a path, which is as seen from the current folder, becomes absolute.

    Raises InvalidArgument for one that fits no name.
    """
    return tuple(dict.fromkeys(map(_resolved, patterns)))


def _resolved(pattern: str) -> str:
    name = pattern.rstrip("/")
    if name in ("", ".", ".."):
        raise InvalidArgument(
            f"'{pattern}' leaves nothing or everything out. Give the name of files or folders, or a path with a slash."
        )
    return os.path.normpath(os.path.join(escape(os.getcwd()), name)) if "/" in name else name


class Exclusion:
    """Some patterns, as fnmatch has them: of names, or with a slash of absolute paths. See resolved()."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Without any, nothing is left out."""
        self.patterns = tuple(patterns)
        self._names = _any_of(pattern for pattern in patterns if "/" not in pattern)
        self._paths = _any_of(pattern for pattern in patterns if "/" in pattern)

    @property
    def excludes(self) -> Excludes | None:
        """What a walk asks of everything that it meets; None where that is nothing."""
        return self.fits if self.patterns else None

    def fits(self, folder: bytes, name: bytes) -> bool:
        """See Excludes."""
        return bool(
            (self._names and self._names.match(os.fsdecode(name)))
            or (self._paths and self._paths.match(os.fsdecode(folder + name)))
        )

    def around(self, root: bytes, below: bytes) -> bytes | None:
        """The part of the way to something below a root that is left out, None where nothing of it is."""
        if self._paths and self._paths.match(os.fsdecode(root)):
            return root
        return next((folder + name for folder, name in _way(root, below) if self.fits(folder, name)), None)


def _way(root: bytes, below: bytes) -> Iterator[tuple[bytes, bytes]]:
    folder = os.path.join(root, b"")
    for name in filter(None, below.split(b"/")):
        yield folder, name
        folder = os.path.join(folder, name, b"")


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    found = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(found) if found else None
