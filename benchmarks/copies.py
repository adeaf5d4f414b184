"""How well signatures tell copies from other pictures: recall by edit, precision, and pairs a second.

    python -m benchmarks.copies [--images FOLDER_OR_TAR] [--negatives FOLDER_OR_TAR] [--model data/eva-tiny]

Copies: every picture and its edits, each saved once more as a JPEG. Negatives: the pictures that are nearest to one
another by the model's vectors, the hardest that a collection of distinct photographs can offer, and those whose
signatures look most alike. Shots are made up: the same picture, every part of it shifted at random as if the camera had
moved before a deep scene, with other light and noise. The thresholds were set on none of these.
"""

from __future__ import annotations

import argparse
import io
import math
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from indexer import load_embedder
from indexer.pictures.copies import Comparison, Verdict, compare
from indexer.pictures.decode import decode
from indexer.pictures.signature import Likenesses, likenesses, signature

from .build import ROOT

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
NEAREST = 5
Edit = Callable[[Image.Image], Image.Image]
HEADING = "| {} | pairs | copy % | undecided % | local change % | pairs/s |\n| --- | --- | --- | --- | --- | --- |"
SHIFTS = (0.01, 0.02, 0.04, 0.08)  # of a side
GOALS = {"recall": 0.97, "precision": 0.99}


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def turned_by_exif(picture: Image.Image) -> Image.Image:
    """Stored on its side, with a note to turn it back."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=90, exif=exif)
    return decode(file.getvalue()).picture


def resized(picture: Image.Image, scale: float) -> Image.Image:
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, area: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """Without so much of its area; x and y say where the rest lies, 0 to 1."""
    side = math.sqrt(1 - area)
    width, height = round(picture.width * side), round(picture.height * side)
    left, top = round((picture.width - width) * x), round((picture.height - height) * y)
    return picture.crop((left, top, left + width, top + height))


def gamma(picture: Image.Image, power: float) -> Image.Image:
    return picture.point([round(255 * (level / 255) ** power) for level in range(256)] * 3)


def recoloured(picture: Image.Image) -> Image.Image:
    hue, *others = picture.convert("HSV").split()
    return Image.merge("HSV", (hue.point([(level + 40) % 256 for level in range(256)]), *others)).convert("RGB")


def noisy(picture: Image.Image, levels: float) -> Image.Image:
    pixels = np.asarray(picture) + np.random.default_rng(0).normal(0, levels, (picture.height, picture.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def watermarked(picture: Image.Image) -> Image.Image:
    overlay = Image.new("RGBA", picture.size)
    font = ImageFont.load_default(size=max(10, picture.width // 8))
    middle = picture.width / 2, picture.height / 2
    ImageDraw.Draw(overlay).text(middle, "SAMPLE COPY", (255, 255, 255, 120), font, "mm")
    return Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")


def captioned(picture: Image.Image) -> Image.Image:
    """Words on white over 15 % of the area."""
    picture = picture.copy()
    pen, top, high = ImageDraw.Draw(picture), picture.height * 0.8, picture.height * 0.15
    pen.rectangle((0, top, picture.width, top + high), "white")
    font = ImageFont.load_default(size=max(8, high / 2))
    pen.text((picture.width / 2, top + high / 2), "some words about it", "black", font, "mm")
    return picture


def letterboxed(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture, (0, round(picture.height * 0.14)), "black")


def rotated(picture: Image.Image, degrees: float) -> Image.Image:
    """Turned a little, and cropped so that no corner is empty."""
    turn, long = math.radians(abs(degrees)), max(picture.size) / min(picture.size)
    kept = 1 / (math.cos(turn) + long * math.sin(turn))
    return cropped(picture.rotate(degrees, Image.Resampling.BICUBIC), 1 - kept**2)


EDITS: dict[str, Edit] = {
    "encoded anew, quality 80": lambda p: jpeg(p, 80),
    "quality 50": lambda p: jpeg(p, 50),
    "quality 30": lambda p: jpeg(p, 30),
    "EXIF rotation": turned_by_exif,
    "resized to 50 %": lambda p: resized(p, 0.5),
    "resized to 25 %": lambda p: resized(p, 0.25),
    "cropped 10 %, middle": lambda p: cropped(p, 0.1),
    "cropped 10 %, corner": lambda p: cropped(p, 0.1, 0, 1),
    "cropped 20 %, middle": lambda p: cropped(p, 0.2),
    "cropped 20 %, corner": lambda p: cropped(p, 0.2, 0.9, 0.1),
    "brightness +40 %": lambda p: ImageEnhance.Brightness(p).enhance(1.4),
    "brightness -40 %": lambda p: ImageEnhance.Brightness(p).enhance(0.6),
    "contrast +50 %": lambda p: ImageEnhance.Contrast(p).enhance(1.5),
    "contrast -40 %": lambda p: ImageEnhance.Contrast(p).enhance(0.6),
    "gamma 1.6": lambda p: gamma(p, 1.6),
    "gamma 0.6": lambda p: gamma(p, 0.6),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "saturation +60 %": lambda p: ImageEnhance.Color(p).enhance(1.6),
    "recoloured": recoloured,
    "blurred, 2 px": lambda p: p.filter(ImageFilter.GaussianBlur(2)),
    "blurred, 4 px": lambda p: p.filter(ImageFilter.GaussianBlur(4)),
    "noise of 15 levels": lambda p: noisy(p, 15),
    "sharpened": lambda p: p.filter(ImageFilter.UnsharpMask(2, 150, 2)),
    "watermark": watermarked,
    "text over 15 %": captioned,
    "white border 10 %": lambda p: ImageOps.expand(p, round(min(p.size) * 0.1), "white"),
    "black border 10 %": lambda p: ImageOps.expand(p, round(min(p.size) * 0.1), "black"),
    "letterbox": letterboxed,
    "rotated by 1 degree": lambda p: rotated(p, 1),
    "rotated by 3 degrees": lambda p: rotated(p, -3),
    "cropped 15 %, halved, quality 60": lambda p: jpeg(resized(cropped(p, 0.15, 0.3, 0.2), 0.5), 60),
}
TURNS: dict[str, Edit] = {
    "mirrored": ImageOps.mirror,
    "turned by a quarter": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda p: p.transpose(Image.Transpose.ROTATE_180),
    "mirrored, cropped 10 %": lambda p: ImageOps.mirror(cropped(p, 0.1, 0, 1)),
}


def files(source: Path) -> Iterator[bytes]:
    """The bytes of every picture of a folder or a tar file, in the order of their names."""
    if source.is_dir():
        yield from (path.read_bytes() for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES)
        return
    with tarfile.open(source) as tar:
        members = [one for one in tar.getmembers() if one.isfile() and Path(one.name).suffix.lower() in SUFFIXES]
        for member in sorted(members, key=lambda one: one.name):
            opened = tar.extractfile(member)
            assert opened is not None
            yield opened.read()


def shot_again(picture: Image.Image, shift: float) -> Image.Image:
    """As if the camera had moved: the corners of 5 x 5 fields shifted by so much of a side, two standard deviations."""
    random, fields = np.random.default_rng(picture.width * picture.height), 5
    places = np.stack(np.meshgrid(np.linspace(0, 1, fields + 1), np.linspace(0, 1, fields + 1), indexing="ij"), axis=2)
    places = (places + random.normal(0, shift / 2, places.shape)) * (picture.height, picture.width)
    mesh = []
    for down, across in np.ndindex(fields, fields):
        box = [round(picture.width * across / fields), round(picture.height * down / fields)]
        box += [round(picture.width * (across + 1) / fields), round(picture.height * (down + 1) / fields)]
        corners = [
            places[down, across],
            places[down + 1, across],
            places[down + 1, across + 1],
            places[down, across + 1],
        ]
        mesh.append((tuple(box), tuple(float(value) for y, x in corners for value in (x, y))))
    moved = picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)
    return noisy(ImageEnhance.Brightness(moved).enhance(1.1), 4)


def signed(pictures: Iterator[Image.Image]) -> Likenesses:
    return likenesses([signature(picture) for picture in pictures])


def nearest(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Pairs (2, P) of each row and those next to it by cosine, each pair once."""
    found = []
    for start in range(0, len(rows), 1000):
        scores = rows[start : start + 1000] @ rows.T
        places = np.arange(len(scores))
        scores[places, start + places] = -1
        best = np.argpartition(-scores, NEAREST, axis=1)[:, :NEAREST]
        found.append(np.stack([np.repeat(start + places, NEAREST), best.ravel()]))
    pairs: npt.NDArray[np.intp] = np.unique(np.sort(np.concatenate(found, axis=1), axis=0), axis=1)
    return pairs


def alike(signatures: Likenesses) -> npt.NDArray[np.float32]:
    """Rows of length 1 whose products tell how much alike two signatures look where they lie, at 16 x 16."""
    small = signatures.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(-1, 256)
    small -= small.mean(axis=1, keepdims=True)
    rows: npt.NDArray[np.float32] = (small / (np.linalg.norm(small, axis=1, keepdims=True) + 1e-6)).astype(np.float32)
    return rows


def embedded(pictures: list[bytes], model: str) -> npt.NDArray[np.float32]:
    embedder = load_embedder(model)
    parts = [pictures[start : start + 100] for start in range(0, len(pictures), 100)]
    return np.concatenate([embedder.embed([np.asarray(decode(one).picture) for one in part]) for part in parts])


def timed(left: Likenesses, right: Likenesses, *, mirrors: bool = False) -> tuple[Comparison, float]:
    started = time.perf_counter()
    found = compare(left, right, mirrors=mirrors)
    return found, len(left) / (time.perf_counter() - started)


def line(name: str, found: Comparison, rate: float) -> str:
    copies, undecided = (100 * (found.verdicts == verdict).mean() for verdict in (Verdict.COPY, Verdict.UNDECIDED))
    return (
        f"| {name} | {len(found.verdicts):,} | {copies:.1f} | {undecided:.1f} | {100 * found.changed.mean():.1f} "
        f"| {rate:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos")
    parser.add_argument("--negatives", type=Path, help="distinct photographs, if there are more than --images")
    parser.add_argument("--model", default=str(ROOT / "data" / "eva-tiny"))
    args = parser.parse_args()
    originals = [decode(data).picture for data in files(args.images)]
    plain = signed(iter(originals))
    print(HEADING.format("copies"))
    verdicts = []
    for name, edit in (EDITS | TURNS).items():
        found, rate = timed(plain, signed(jpeg(edit(one), 85) for one in originals), mirrors=name in TURNS)
        print(line(name, found, rate))
        if name in EDITS:
            verdicts.append(found.verdicts)
    print("\n" + HEADING.format("negatives"))
    others = list(files(args.negatives or args.images))
    likes = signed(decode(data).picture for data in others)
    accepted = pairs = 0
    for name, rows in (("nearest by vector", embedded(others, args.model)), ("nearest by signature", alike(likes))):
        left, right = nearest(rows)
        found, rate = timed(likes[left], likes[right])
        print(line(name, found, rate))
        accepted, pairs = accepted + int((found.verdicts == Verdict.COPY).sum()), pairs + len(left)
    print("\n" + HEADING.format("shots, made up"))
    for shift in SHIFTS:
        found, rate = timed(plain, signed(jpeg(shot_again(one, shift), 85) for one in originals))
        print(line(f"parts shifted by {shift:.0%}", found, rate))
    copies = int((np.concatenate(verdicts) == Verdict.COPY).sum())
    total = sum(map(len, verdicts))
    print(f"\nrecall {copies / total:.4f} of {total:,} copies (goal {GOALS['recall']})")
    print(
        f"precision {copies / (copies + accepted):.4f}: {accepted} of {pairs:,} negatives (goal {GOALS['precision']})"
    )


if __name__ == "__main__":
    main()
