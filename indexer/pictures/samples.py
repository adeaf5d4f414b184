"""Pictures to measure with: a user's own, or made-up ones that every machine can have."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InvalidArgument
from ..records import FoundFile, Source
from .scan import Content, find, read

# what a photograph on the web is like (ImageNet's have this size and some 110 KB)
MADE_UP_SIZE = (500, 375)
_DIFFERENT = 64
_QUALITY = 92
# bytes of files that are held
_HELD_BYTES = 256 << 20


def made_up(count: int) -> list[bytes]:
    """JPEGs of coloured clouds under grain, the same every time. Of many some show the same, but no two are equal."""
    rng = np.random.default_rng(0)
    encoded = [_made_up(rng) for _ in range(min(count, _DIFFERENT))]
    # what follows the end of a JPEG is not looked at
    return [encoded[i % _DIFFERENT] + b"%d" % i for i in range(count)]


def _made_up(rng: np.random.Generator) -> bytes:
    from PIL import Image

    width, height = MADE_UP_SIZE
    clouds = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(MADE_UP_SIZE, Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    file = io.BytesIO()
    Image.blend(clouds, grain, 0.1).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def from_folder(folder: Path, count: int) -> list[Content]:
    """The first pictures below a folder, at most so many and 256 MB of them.

    Raises InvalidArgument where the folder is not there, or holds none.
    """
    if not folder.is_dir():
        raise InvalidArgument(f"There is no folder {folder}. Check the spelling.")
    found: list[Content] = []
    held = 0
    for content in _contents(os.fsencode(folder.resolve())):
        found.append(content)
        held += len(content.data)
        if len(found) == count or held > _HELD_BYTES:
            break
    if not found:
        raise InvalidArgument(f"The folder {folder} holds no picture that indexer opens. Give one that does.")
    return found


def _contents(root: bytes) -> Iterator[Content]:
    for file in find(root):
        if isinstance(file, FoundFile) and isinstance(content := read(Source(0, root, file.path, file.stamp)), Content):
            yield content
