from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from indexer.errors import InvalidArgument
from indexer.pictures.signature import SIGNATURE_BYTES, Likenesses, likenesses, seen, signature
from tests.conftest import PHOTOS


def likeness(picture: Image.Image) -> Likenesses:
    (only,) = likenesses([signature(picture)])
    return np.asarray(only)


def distance(left: Image.Image, right: Image.Image) -> float:
    return float(np.abs(likeness(left).astype(int) - likeness(right).astype(int)).mean())


@pytest.fixture
def cat() -> Image.Image:
    return Image.open(PHOTOS / "cat.jpg").convert("RGB")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3000), (65_000, 1), (700, 3), (64, 64), (1031, 257)])
def test_any_size_has_one(size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 60).convert("RGB")
    assert len(signature(picture)) == SIGNATURE_BYTES == 4096


def test_it_is_the_luminance_squashed() -> None:
    picture = Image.new("RGB", (256, 128), (255, 0, 0))
    picture.paste((0, 0, 255), (128, 0, 256, 64))
    picture.paste((0, 255, 0), (0, 64, 128, 128))
    corners = likeness(picture)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [76, 29, 150, 76]  # ITU-R 601


def test_a_large_picture_is_as_its_reduction(cat: Image.Image) -> None:
    large = cat.resize((cat.width * 5, cat.height * 5), Image.Resampling.LANCZOS)
    assert distance(large, cat) < 1


@pytest.mark.parametrize("colour", ["white", "black", "red"])
@pytest.mark.parametrize("border", [(40, 40, 40, 40), (0, 60, 0, 60), (50, 0, 50, 0), (0, 0, 0, 70)])
def test_borders_are_left_out(cat: Image.Image, colour: str, border: tuple[int, int, int, int]) -> None:
    framed = ImageOps.expand(cat, border, colour)
    assert distance(framed, cat) < 3
    share = seen(framed).share / seen(cat).share
    assert share == pytest.approx(cat.width * cat.height / (framed.width * framed.height), abs=0.02)


def test_a_noisy_border_is_still_one(cat: Image.Image) -> None:
    framed = np.asarray(ImageOps.expand(cat, 40, (240, 240, 240))).astype(int)
    framed += np.random.default_rng(0).integers(-8, 9, framed.shape)
    assert distance(Image.fromarray(framed.clip(0, 255).astype(np.uint8)), cat) < 3


def test_no_more_than_three_tenths_a_side_are_left_out() -> None:
    picture = Image.new("RGB", (200, 200), "white")
    picture.paste("black", (95, 95, 105, 105))
    seen = likeness(picture)
    assert 6 <= (seen[32] < 128).sum() <= 9  # 10 of the 80 pixels that stay
    assert np.unique(likeness(Image.new("RGB", (200, 200), "white"))).tolist() == [255]


def test_of_another_length_it_is_refused() -> None:
    assert likenesses([]).shape == (0, 64, 64)
    with pytest.raises(InvalidArgument, match="4096 bytes"):
        likenesses([bytes(4096), bytes(4095)])


@pytest.mark.parametrize("side", [40, 300, 2000])
def test_whether_it_has_colour(side: int) -> None:
    with Image.open(PHOTOS / "cat.jpg") as image:
        photo = image.convert("RGB").resize((side, side))
    grey = photo.convert("L").convert("RGB")
    file = io.BytesIO()
    grey.save(file, "JPEG", quality=20)
    stamped = grey.copy()
    stamped.paste((200, 40, 40), (side // 2, side // 2, side // 2 + side // 16, side // 2 + side // 16))
    assert seen(photo).coloured
    assert seen(stamped).coloured
    assert not seen(grey).coloured
    with Image.open(file) as again:
        assert not seen(again.convert("RGB")).coloured
