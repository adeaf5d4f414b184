"""What people and programs do to pictures: known edits, to see how alike a copy still is."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..preprocess import Pixels
from .signature import signature

if TYPE_CHECKING:
    from PIL.Image import Image


def edited(pixels: Pixels, name: str) -> Pixels:
    """One of EDITS, done to a uint8 RGB picture (H, W, 3)."""
    from PIL import Image

    return np.asarray(EDITS[name](Image.fromarray(pixels)).convert("RGB"))


def signature_of(pixels: Pixels) -> bytes:
    """The signature that a uint8 RGB picture (H, W, 3) would be stored with."""
    from PIL import Image

    return signature(Image.fromarray(pixels))


def _resized(image: Image) -> Image:
    return image.resize((max(image.width // 2, 1), max(image.height // 2, 1)))


def _encoded(image: Image) -> Image:
    from PIL import Image

    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file)


def _cropped(image: Image) -> Image:
    """A tenth of the area gone, more from the left and the top."""
    width, height = image.size
    return image.crop((round(width * 0.035), round(height * 0.035), round(width * 0.984), round(height * 0.984)))


def _cropped_more(image: Image) -> Image:
    """A fifth of the area gone, all around."""
    width, height = image.size
    return image.crop((round(width * 0.053), round(height * 0.053), round(width * 0.947), round(height * 0.947)))


def _blurred(image: Image) -> Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 250))


def _brightened(image: Image) -> Image:
    from PIL import ImageEnhance

    return ImageEnhance.Brightness(image).enhance(1.3)


def _recoloured(image: Image) -> Image:
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(1.6)).enhance(1.2)


def _grey(image: Image) -> Image:
    return image.convert("L")


def _written_on(image: Image) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    layer = Pillow.new("RGBA", image.size)
    font = ImageFont.load_default(max(image.height // 10, 8))
    ImageDraw.Draw(layer).text((image.width * 0.08, image.height * 0.82), "example", (255, 255, 255, 170), font)
    return Pillow.alpha_composite(image.convert("RGBA"), layer)


def _bordered(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.expand(image, max(min(image.size) // 20, 1), "white")


EDITS: Mapping[str, Callable[[Image], Image]] = {
    "resized 50 %": _resized,
    "JPEG q30": _encoded,
    "cropped 10 %": _cropped,
    "cropped 20 %": _cropped_more,
    "blurred": _blurred,
    "brighter": _brightened,
    "recoloured": _recoloured,
    "grey": _grey,
    "watermark": _written_on,
    "border": _bordered,
}
