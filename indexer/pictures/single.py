"""A few pictures that a user names, outside of any root."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import Self

from ..errors import PictureError
from ..machine import cores
from ..preprocess import Pixels
from ..records import ImageRecord, Preprocess
from .decoders import Decoders
from .prepare import Limits, Prepared
from .scan import Content, read_path

# files that are read and decoded ahead of the one that is asked for
_AHEAD = 16


def prepare_each(
    paths: Sequence[bytes], preprocess: Preprocess, limits: Limits, exact: bool = True
) -> Generator[Prepared | PictureError, None, None]:
    """Read, decode and fit any number of files, in order, a few ahead; an error in the place of a picture.

    exact: see fit().
    """
    if not paths:
        return
    waiting: deque[Future[Prepared] | PictureError] = deque()
    with Decoders(preprocess, min(len(paths), cores()), limits, exact) as decoders:
        for path in paths:
            try:
                content = read_path(path)
                waiting.append(decoders.submit(content.data, content.kind))
            except PictureError as error:
                waiting.append(error)
            if len(waiting) > _AHEAD:
                yield _outcome(waiting.popleft())
        while waiting:
            yield _outcome(waiting.popleft())


def _outcome(future: Future[Prepared] | PictureError) -> Prepared | PictureError:
    if isinstance(future, PictureError):
        return future
    try:
        return future.result()
    except PictureError as error:
        return error


def thumbnails(paths: Sequence[str], side: int) -> list[bytes | None]:
    """A JPEG of at most side x side pixels for each picture, None where it cannot be had (any more)."""
    return [None if pixels is None else _jpeg(pixels) for pixels in shrunk(paths, side, exact=False)]


def shrunk(paths: Sequence[str], side: int, *, exact: bool = True) -> list[Pixels | None]:
    """Every picture with its longer side made this long, uint8 RGB (H, W, 3); None where it cannot be had any more.

    exact: see fit().
    """
    return [
        _without_border(prepared, side) if isinstance(prepared, Prepared) else None
        for prepared in prepare_each([os.fsencode(path) for path in paths], _whole(side), Limits(), exact)
    ]


def read_unchanged(image: ImageRecord) -> Content:
    """An image's file as it was when it was indexed.

    Raises PictureError where it cannot be had, or is another by now.
    """
    content = read_path(os.fsencode(image.path))
    if content.sha256.hex() != image.sha256:
        raise PictureError("not what was indexed any more", image.path)
    return content


class Thumbnails:
    """Small JPEGs, one by one, from decoders that stay. Several threads may ask; it is to be closed at the end."""

    def __init__(self, side: int) -> None:
        """side: pixels of the longer side."""
        self.side = side
        self._decoders = Decoders(_whole(side), cores(), Limits(), exact=False)

    def of(self, picture: ImageRecord | str) -> bytes:
        """A JPEG of an image, or of any file. Raises PictureError as read_unchanged() does, or for what is none."""
        content = read_unchanged(picture) if isinstance(picture, ImageRecord) else read_path(os.fsencode(picture))
        prepared = self._decoders.submit(content.data, content.kind).result()
        return _jpeg(_without_border(prepared, self.side))

    def close(self) -> None:
        """End the decoders; who waits for a picture gets a PictureError or a CancelledError."""
        self._decoders.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See close()."""
        self.close()


def _whole(side: int) -> Preprocess:
    """All of a picture, within a square."""
    return Preprocess((side, side), "bilinear", crop_mode="border", mean=(1.0, 1.0, 1.0))


def _without_border(prepared: Prepared, side: int) -> Pixels:
    """The picture without the border that made it square."""
    longest = max(prepared.info.width, prepared.info.height)
    width = max(round(side * prepared.info.width / longest), 1)
    height = max(round(side * prepared.info.height / longest), 1)
    left, top = (side - width) // 2, (side - height) // 2
    return prepared.pixels[top : top + height, left : left + width]


def _jpeg(pixels: Pixels) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=82)
    return file.getvalue()
