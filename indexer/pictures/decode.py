"""From the bytes of a file to an upright RGB picture. The one door to Pillow's decoders."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PictureError
from ..records import HELD, PictureInfo

if TYPE_CHECKING:
    from PIL.Image import Image

# 200-megapixel phones exist; twice that in RGB is what a decoding process may hold
MAX_PIXELS = 250_000_000
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # MPO opens as JPEG
HEIF_FORMATS = ("HEIF",)
NO_HEIF = "HEIC needs an extra: pip install pillow-heif"

# EXIF tags (EXIF 2.32, 4.6.4 and 4.6.5); NEW_SUBFILE_TYPE is TIFF 6.0's
_MAKE, _MODEL, _ORIENTATION, _EXIF_IFD, _TAKEN = 0x010F, 0x0110, 0x0112, 0x8769, 0x9003
_NEW_SUBFILE_TYPE = 254
# how the films begin that telephones put behind a photograph (ISO/IEC 14496-12, 4.3)
_FILMS = (b"ftypmp4", b"ftypisom", b"ftypqt")
# of a JPEG, with nothing behind it (ISO/IEC 10918-1, B.1.1.3)
_END = b"\xff\xd9"
_EIGHT_BIT = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB picture, and what its file says of it; whether it has colour only its pixels tell."""

    picture: Image
    info: PictureInfo


def abilities(max_pixels: int = MAX_PIXELS) -> str:
    """What decides whether a picture can be decoded: a file refused under one answer is tried again under another."""
    from importlib import metadata  # here, since a query needs neither
    from importlib.util import find_spec

    heif = metadata.version("pillow-heif") if find_spec("pillow_heif") else "none"
    ours, pillow = metadata.version("indexer"), metadata.version("pillow")
    return f"indexer {ours}, pillow {pillow}, heif {heif}, {max_pixels} pixels"


def decode(data: bytes, kind: str | None = None, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode one picture of an allowed format: EXIF rotation applied, alpha over white, the first frame.

    kind: the format told by content, if it is known.
    Raises PictureError with a reason that a person understands, whatever Pillow raises; MemoryError where memory and
    not the file is to blame.
    """
    from PIL import Image, UnidentifiedImageError

    load_plugins()
    formats = FORMATS
    if kind in ("HEIC", None) and _register_heif():
        formats = FORMATS + HEIF_FORMATS
    elif kind == "HEIC":
        raise PictureError(NO_HEIF)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _refuse(image, max_pixels)
            name, deep = str(image.format), _is_deep(image)
            image.load()
            picture = to_rgb(upright(image))
            info = _info(image, picture, name)
            held = {"alpha": _is_transparent(image), "deep": deep, "frames": _has_frames(image, data)}
            return Decoded(picture, replace(info, holds=" ".join(word for word in HELD if held.get(word))))
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("damaged: its header cannot be read") from None
    except Image.DecompressionBombError:
        raise PictureError(_too_large(max_pixels)) from None
    except MemoryError:
        raise
    # Pillow's plugins raise OSError, ValueError, SyntaxError, NotImplementedError, struct.error, zlib.error and more
    except Exception as error:
        if "out of memory" in str(error).lower():  # as C libraries say it
            raise MemoryError from None
        raise PictureError(_reason(error)) from None


def load_plugins() -> None:
    """Import the allowed formats' plugins, and none of the forty others that Pillow would look through."""
    from PIL import (  # noqa: F401
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        MpoImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )


def _refuse(image: Image, max_pixels: int) -> None:
    """Stop before the pixels are decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(_too_large(max_pixels, f"{width} x {height}"))
    tags: Any = getattr(image, "tag_v2", None)
    kind = tags.get(_NEW_SUBFILE_TYPE) if tags is not None else None
    if image.format == "TIFF" and isinstance(kind, int) and kind & 1:  # a preview: the picture itself is in raw form
        raise PictureError("camera raw is not a format that indexer opens")


def upright(image: Image) -> Image:
    """The picture turned as its EXIF says; EXIF that cannot be read says nothing."""
    from PIL import ImageOps

    try:
        # one that stands upright would be copied
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block raises whatever its parser trips over
        return image


def to_rgb(image: Image) -> Image:
    """Any Pillow mode as 8-bit RGB: alpha over white, 16-bit and float scaled to 0-255.

    16-bit samples are divided by 257. Float and 32-bit samples are taken as 0-1, 0-255 or 0-65535, whichever is the
    smallest range that holds them, and stretched from their own minimum to their maximum where none does.
    """
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bit(np.asarray(image))).convert("RGB")
    if image.mode in _EIGHT_BIT and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _to_eight_bit(samples: np.ndarray[Any, Any]) -> Any:
    if samples.dtype.itemsize == 2:
        return np.divide(samples, 257.0).round().astype(np.uint8)
    values = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        whole = np.issubdtype(samples.dtype, np.integer)
        fitting = [top for top in (1.0, 255.0, 65535.0) if high <= top and not (whole and top == 1.0)]
        low, high = 0.0, fitting[0] if fitting else high
    span = (high - low) or 1.0
    return np.rint((values - low) * (255.0 / span)).astype(np.uint8)


def _is_deep(image: Image) -> bool:
    """Whether samples have more than 8 bits. Pillow makes 8 of them when it loads RGB."""
    tiles: Any = getattr(image, "tile", ())
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if image.format == "PPM":  # whose tiles say the greatest sample
        return any(isinstance(tile[3], tuple) and tile[3][1] > 255 for tile in tiles)
    return any(";16" in str(tile[3]) for tile in tiles)


def _is_transparent(image: Image) -> bool:
    """Whether any of it lets through what lies behind."""
    if "transparency" not in image.info and "A" not in image.getbands():
        return False
    alpha = image.convert("RGBA").getchannel("A").getextrema()
    return alpha != (255, 255)


def _has_frames(image: Image, data: bytes) -> bool:
    """Whether there is more than the first frame or page, or a film behind a telephone's photograph.

    Such a one's MPO has a smaller preview, or how bright its pixels are; a stereo camera's has another picture.
    """
    ends = data.endswith(_END)  # as most do, which are not looked through then
    if image.format in ("JPEG", "MPO") and not ends and any(kind in data for kind in _FILMS):
        return True
    try:
        if image.format == "MPO":
            return image.size in _sizes_of_the_others(data)
        return bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # something comes after the first, and is damaged
        return True


def _sizes_of_the_others(mpo: bytes) -> list[tuple[int, int]]:
    """Of the pictures after the first, which are opened anew: Pillow closes a file that it has read."""
    from PIL import Image

    sizes = []
    with Image.open(io.BytesIO(mpo), formats=["JPEG"]) as image:
        for frame in range(1, getattr(image, "n_frames", 1)):
            image.seek(frame)
            sizes.append(image.size)
    return sizes


def _info(image: Image, picture: Image, name: str) -> PictureInfo:
    try:
        exif = image.getexif()
        taken = _taken(exif.get_ifd(_EXIF_IFD).get(_TAKEN))
        camera = _camera(_text(exif.get(_MAKE)), _text(exif.get(_MODEL)))
    except MemoryError:
        raise
    except Exception:  # as in upright
        taken = camera = None
    width, height = picture.size
    return PictureInfo(width, height, name, taken, camera)


def _camera(make: str, model: str) -> str | None:
    """Make and model; many a model's name begins with its make."""
    repeated = make and model.casefold().startswith(make.casefold())
    return (model if repeated else f"{make} {model}".strip()) or None


def _text(value: object) -> str:
    return "".join(c for c in value if c.isprintable()).strip()[:64] if isinstance(value, str) else ""


def _taken(value: object) -> str | None:
    """EXIF's '2024:05:01 12:30:00' as '2024-05-01T12:30:00', None for anything else."""
    import datetime

    try:
        return datetime.datetime.strptime(str(value).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _too_large(max_pixels: int, size: str = "it") -> str:
    return f"too large: {size} is over {max_pixels:,} pixels (--max-pixels raises the limit)"


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or "broken data stream" in text or isinstance(error, (EOFError, struct.error)):
        return "truncated or damaged: the picture is not complete"
    if isinstance(error, NotImplementedError) or "unsupported" in text or "not supported" in text:
        return f"a variant of its format that cannot be decoded ({_short(error)})"
    return f"damaged: it cannot be decoded ({_short(error)})"


def _short(error: Exception) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(error)) or type(error).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def _register_heif() -> bool:
    """Teach Pillow HEIC where the extra is installed."""
    from PIL import Image

    if "HEIF" in Image.OPEN:
        return True
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
