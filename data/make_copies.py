"""Fill a folder with photographs and edited copies of each, to search for duplicates in.

Usage: python data/make_copies.py SOURCE_FOLDER OUT_FOLDER
"""

import argparse
import io
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MARK = "--"  # between the original's name and the edit's, in the name of a copy
KEPT_AREA = 0.9


def half(image: Image.Image) -> Image.Image:
    """Half the width and half the height."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


def q30(image: Image.Image) -> Image.Image:
    """The same picture, read back from a JPEG of quality 30."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


def crop(image: Image.Image) -> Image.Image:
    """The middle of the picture, without a tenth of its area."""
    margin = (1 - math.sqrt(KEPT_AREA)) / 2
    dx, dy = round(image.width * margin), round(image.height * margin)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def watermark(image: Image.Image) -> Image.Image:
    """Half-transparent words across the middle."""
    overlay = Image.new("RGBA", image.size)
    font = ImageFont.load_default(size=max(10, image.width // 8))
    middle = (image.width / 2, image.height / 2)
    pen = ImageDraw.Draw(overlay)
    pen.text(middle, "SAMPLE COPY", (255, 255, 255, 120), font, "mm", stroke_width=1, stroke_fill=(0, 0, 0, 120))
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half": half,
    "q30": q30,
    "crop": crop,
    "watermark": watermark,
}


def read(path: Path) -> Image.Image:
    """The picture upright, in RGB, on white where it is transparent."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def copy_with_edits(path: Path, out: Path) -> None:
    """Write the picture, untouched, and one copy per edit to the folder `out`."""
    shutil.copyfile(path, out / path.name)
    original = read(path)
    for name, edit in EDITS.items():
        copy = edit(original)
        quality = "keep" if copy.format == "JPEG" else 80  # an edit that is a JPEG already has chosen its own
        copy.save(out / f"{path.stem}{MARK}{name}.jpg", quality=quality)


def main(argv: Sequence[str]) -> None:
    """Copy and edit every picture that lies in the source folder itself."""
    parser = argparse.ArgumentParser(description="Copy photographs, and edited copies of each, to a folder.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(argv)
    pictures = sorted(path for path in options.source.iterdir() if path.suffix.lower() in SUFFIXES)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in pictures:
        copy_with_edits(path, options.out)
    sys.stdout.write(f"{len(pictures)} pictures and {len(pictures) * len(EDITS)} copies in {options.out}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
