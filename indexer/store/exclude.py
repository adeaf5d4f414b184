"""What builds leave out, as one value of `meta`: JSON with the patterns and a checksum over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .checksums import checksum


def pack(patterns: Sequence[str]) -> str:
    """The value of some patterns; ASCII, so that names which are no Unicode survive."""
    return json.dumps({"patterns": list(patterns), "checksum": _checksum(patterns)})


def unpack(value: Any) -> tuple[str, ...]:
    """The patterns of a value. Raises ValueError, KeyError or TypeError for one that is not as it was written."""
    found = json.loads(value)
    patterns = tuple(found["patterns"])
    if found["checksum"] != _checksum(patterns):
        raise ValueError(value)
    return patterns


def _checksum(patterns: Sequence[str]) -> int:
    return checksum(json.dumps(list(patterns)).encode())
