from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from indexer.errors import InvalidArgument
from indexer.pictures import copies
from indexer.pictures.copies import Comparison, Verdict, compare, turn
from indexer.pictures.signature import Likenesses, likenesses, signature
from tests.conftest import PHOTOS

Edit = Callable[[Image.Image], Image.Image]


def encoded(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def cropped(picture: Image.Image, left: float, top: float, kept: float = 0.9) -> Image.Image:
    """`kept` of either side, with so much cut from the left and the top."""
    x, y = round(picture.width * left), round(picture.height * top)
    return picture.crop((x, y, x + round(picture.width * kept), y + round(picture.height * kept)))


def captioned(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    strip = (0, round(picture.height * 0.82), picture.width, round(picture.height * 0.94))
    ImageDraw.Draw(picture).rectangle(strip, "white")
    return picture


EDITS: dict[str, Edit] = {
    "encoded": encoded,
    "a third": lambda p: p.resize((p.width // 3, p.height // 3), Image.Resampling.LANCZOS),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.6),
    "contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.4),
    "blurred": lambda p: p.filter(ImageFilter.GaussianBlur(2)),
    "cropped in the middle": lambda p: cropped(p, 0.05, 0.05),
    "cropped at a corner": lambda p: cropped(p, 0.0, 0.1),
    "cropped by a fifth": lambda p: cropped(p, 0.07, 0.02, 0.894),
    "bordered": lambda p: ImageOps.expand(p, 40, "white"),
    "turned a little": lambda p: cropped(p.rotate(1, Image.Resampling.BICUBIC), 0.03, 0.03, 0.94),
}


def all_likenesses(edit: Edit = lambda picture: picture) -> Likenesses:
    pictures = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.*")) if path.suffix != ".md"]
    return likenesses([signature(edit(picture)) for picture in pictures])


@pytest.fixture(scope="module")
def photos() -> Likenesses:
    return all_likenesses()


@pytest.fixture(scope="module")
def mixed(photos: Likenesses) -> tuple[Likenesses, Likenesses]:
    """Pairs of every kind: the same, cropped, and different pictures."""
    crops = all_likenesses(EDITS["cropped at a corner"])
    return np.concatenate([photos] * 3), np.concatenate([photos, crops, np.roll(photos, 1, axis=0)])


def same(left: Comparison, right: Comparison) -> bool:
    fields = ("htrim", "hmean", "blocks")
    return all(np.array_equal(getattr(left, field), getattr(right, field)) for field in fields)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_are_copies(photos: Likenesses, edit: str) -> None:
    found = compare(photos, all_likenesses(EDITS[edit]))
    assert (found.verdicts >= Verdict.UNDECIDED).all()
    assert (found.verdicts == Verdict.COPY).sum() >= len(photos) - 1  # the sunset has few details to lose
    assert not found.turned.any()


def test_other_pictures_are_different(photos: Likenesses) -> None:
    left, right = np.array(list(combinations(range(len(photos)), 2))).T
    found = compare(photos[left], photos[right], mirrors=True)
    assert len(left) == 210
    assert (found.verdicts == Verdict.DIFFERENT).all()


def test_the_same_scores_fully(photos: Likenesses) -> None:
    found = compare(photos, photos)
    assert found.hmean.min() > 0.9
    assert not found.changed.any()


def test_a_caption_is_seen_as_a_change_in_a_place(photos: Likenesses) -> None:
    found = compare(photos, all_likenesses(captioned))
    assert (found.verdicts >= Verdict.UNDECIDED).all()
    assert (found.verdicts == Verdict.COPY).mean() > 0.8
    assert found.changed.mean() > 0.5


def test_either_order_of_a_pair_gives_the_same(mixed: tuple[Likenesses, Likenesses]) -> None:
    assert same(compare(*mixed, mirrors=True), compare(*mixed[::-1], mirrors=True))


def test_neither_place_nor_block_matters(mixed: tuple[Likenesses, Likenesses], monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = mixed
    at_once = compare(left, right)
    one_by_one = [compare(left[i : i + 1], right[i : i + 1]) for i in range(len(left))]
    assert np.array_equal(at_once.verdicts, np.concatenate([one.verdicts for one in one_by_one]))
    backwards = compare(left[::-1], right[::-1])
    assert np.array_equal(at_once.verdicts, backwards.verdicts[::-1])
    monkeypatch.setattr(copies, "_PAIRS", 5)
    assert np.array_equal(at_once.verdicts, compare(left, right).verdicts)


@pytest.mark.parametrize("turned", range(1, 8))
def test_turned_and_mirrored_copies_where_wanted(photos: Likenesses, turned: int) -> None:
    left = turn(photos, turned)  # what brings the right one onto the left
    found = compare(left, photos, mirrors=True)
    assert (found.verdicts == Verdict.COPY).all()
    assert (found.turned == turned).all()
    assert (compare(left, photos).verdicts != Verdict.COPY).all()


def test_turned_is_what_the_right_one_needs(photos: Likenesses) -> None:
    crops = all_likenesses(lambda p: cropped(p.transpose(Image.Transpose.ROTATE_90), 0.1, 0.05))
    there, back = compare(photos, crops, mirrors=True), compare(crops, photos, mirrors=True)
    assert (there.turned == 3).all()
    assert (back.turned == 1).all()
    assert (there.verdicts == Verdict.COPY).mean() > 0.9


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (300, 200), (level, level, level))


def noisy(seed: int) -> Image.Image:
    """A blank picture as a scanner sees it."""
    levels = np.random.default_rng(seed).integers(246, 252, (200, 300, 3), np.uint8)
    return Image.fromarray(levels)


def slope(low: int, high: int) -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(low, high, 300).astype(np.uint8), (200, 1))).convert("RGB")


def halves(at: int, left: str, right: str) -> Image.Image:
    picture = Image.new("RGB", (300, 200), left)
    picture.paste(right, (at, 0, 300, 200))
    return picture


def dot(x: int, y: int) -> Image.Image:
    picture = flat(255)
    ImageDraw.Draw(picture).ellipse((x - 12, y - 12, x + 12, y + 12), "black")
    return picture


@pytest.mark.parametrize("mirrors", [False, True])
def test_pictures_of_nothing_are_never_copies(mirrors: bool) -> None:
    pictures = [flat(0), flat(128), flat(255), noisy(1), noisy(2), slope(0, 255), slope(90, 140)]
    pictures += [Image.new("RGB", size, "grey") for size in [(1, 1), (1, 5000), (5000, 1)]]
    pictures += [halves(150, "black", "white"), halves(140, "grey", "white"), dot(100, 100), dot(170, 90)]
    some = likenesses([signature(picture) for picture in pictures])
    left, right = np.array(list(combinations(range(len(some)), 2))).T
    assert not (compare(some[left], some[right], mirrors=mirrors).verdicts == Verdict.COPY).any()
    blank = compare(some[:3], some[:3])
    assert (blank.verdicts == Verdict.DIFFERENT).all()


def test_very_small_pictures_of_other_things_are_no_copies() -> None:
    small = all_likenesses(lambda picture: picture.resize((12, 10)))
    left, right = np.array(list(combinations(range(len(small)), 2))).T
    assert not (compare(small[left], small[right], mirrors=True).verdicts == Verdict.COPY).any()


def test_noise_is_no_copy_of_other_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64), np.uint8)
    assert (compare(noise[:30], noise[30:], mirrors=True).verdicts == Verdict.DIFFERENT).all()


def test_what_may_be_rounding_is_no_detail() -> None:
    faint = np.random.default_rng(0).integers(128, 130, (3, 64, 64), np.uint8)
    assert (compare(faint, faint).verdicts == Verdict.DIFFERENT).all()


def test_no_pairs() -> None:
    none = likenesses([])
    found = compare(none, none, mirrors=True)
    assert found.verdicts.shape == found.changed.shape == found.turned.shape == (0,)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.zeros((2, 64, 64), np.uint8), np.zeros((1, 64, 64), np.uint8)),
        (np.zeros((1, 64, 64), np.float32), np.zeros((1, 64, 64), np.float32)),
        (np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32), np.uint8)),
    ],
)
def test_other_arrays_are_refused(left: Likenesses, right: Likenesses) -> None:
    with pytest.raises(InvalidArgument, match="likenesses"):
        compare(left, right)
