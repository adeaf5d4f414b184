"""A pickle that does something when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Payload:
    """Leaves a mark: an empty file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)
