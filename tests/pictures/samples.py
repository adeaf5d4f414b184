"""Small pictures with known pixels, and their bytes in every format."""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from indexer.pictures.scan import stamp_of
from indexer.records import Source

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
HAS_HEIF = find_spec("pillow_heif") is not None

# Pillow's name -> what to save with so that colours stay within TOLERANCE
FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 95, "subsampling": "4:4:4", "speed": 10},
    "PPM": {},
    "MPO": {"quality": 95, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (16, 8))]},
    **({"HEIF": {"quality": 95, "chroma": 444}} if HAS_HEIF else {}),
}
TOLERANCE = 12


def quarters(width: int = 32, height: int = 16) -> Image.Image:
    """Red and green above, blue and white below: no two of the eight orientations look the same."""
    picture = Image.new("RGB", (width, height), WHITE)
    picture.paste(RED, (0, 0, width // 2, height // 2))
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    return picture


def encode(picture: Image.Image, pillow_format: str, **options: object) -> bytes:
    if pillow_format == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    file = io.BytesIO()
    picture.save(file, pillow_format, **{**FORMATS[pillow_format], **options})
    return file.getvalue()


def every_format() -> dict[str, bytes]:
    return {name: encode(quarters(), name) for name in FORMATS}


def kind_of(pillow_format: str) -> str:
    """The word that scan.identify has for it."""
    return {"HEIF": "HEIC", "MPO": "JPEG"}.get(pillow_format, pillow_format)


def difference(picture: Image.Image, wanted: Image.Image) -> int:
    """How far apart the furthest samples are; 256 where the sizes differ."""
    if picture.size != wanted.size or picture.mode != wanted.mode:
        return 256
    return int(np.abs(np.asarray(picture).astype(int) - np.asarray(wanted).astype(int)).max())


def source(root: Path, name: str | bytes) -> Source:
    """A file as a scan sees it now."""
    path = os.fsencode(name)
    full = os.path.join(os.fsencode(root), path)
    return Source(1, os.fsencode(root), path, stamp_of(os.lstat(full)))
