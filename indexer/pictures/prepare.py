"""From the bytes of a file to what a build wants to know of the picture."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ..preprocess import Pixels, fit
from ..records import Fingerprint, PictureInfo, Preprocess
from .decode import MAX_PIXELS, decode
from .signature import seen

if TYPE_CHECKING:
    from PIL.Image import Image

DIGEST_BYTES = 32
# pixels that are hashed at once: their bytes stay in a core's cache
_HASHED = 1 << 18


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost. megabytes: on top of what a decoder needs at rest."""

    pixels: int = MAX_PIXELS
    seconds: float = 30.0
    megabytes: int = 3072

    @classmethod
    def for_pixels(cls, pixels: int) -> Limits:
        """Enough memory for a JPEG of so many pixels: some 9 bytes each were seen."""
        return cls(pixels, megabytes=max(cls().megabytes, pixels * 12 >> 20))


class Prepared(NamedTuple):
    """A decoded picture, fitted to the model. pixels: uint8 RGB, (height, width, 3).

    decoding, fitting: CPU seconds that its decoder took, and that the rest took.
    """

    pixels: Pixels
    info: PictureInfo
    fingerprint: Fingerprint
    decoding: float = 0.0
    fitting: float = 0.0


def prepare(data: bytes, kind: str, preprocess: Preprocess, limits: Limits, exact: bool = True) -> Prepared:
    """Decode one picture, fit it, and take its fingerprint. exact: see fit()."""
    started = time.process_time()
    decoded = decode(data, kind, limits.pixels)
    between = time.process_time()
    picture = decoded.picture
    fitted = fit(picture, preprocess, exact)
    look = seen(picture)
    holds = " ".join([*(["colour"] if look.coloured else []), *(decoded.info.holds or "").split()])
    info = replace(decoded.info, shown=round(1000 * look.share), holds=holds)
    known = Fingerprint(_digest(picture), look.signature)
    return Prepared(fitted, info, known, between - started, time.process_time() - between)


def _digest(picture: Image) -> bytes:
    """SHA-256 of the size and the pixels; some rows at a time, since a copy of all of them would not fit the caches."""
    width, height = picture.size
    digest = hashlib.sha256(b"%d x %d\n" % picture.size)
    step = max(_HASHED // width, 1)
    for top in range(0, height, step):
        rows = picture if step >= height else picture.crop((0, top, width, min(top + step, height)))
        digest.update(rows.tobytes())
    return digest.digest()
