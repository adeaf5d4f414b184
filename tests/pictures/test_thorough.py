from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from indexer.errors import InvalidArgument
from indexer.pictures.thorough import SecondLook, look_again
from indexer.preprocess import Pixels
from tests.conftest import PHOTOS

NAMES = ["bridge.jpg", "cat.jpg", "fig.jpg", "pagoda.jpg"]


def photo(name: str) -> Image.Image:
    return Image.open(PHOTOS / name).convert("RGB")


def pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture)


@pytest.fixture(autouse=True)
def opencv() -> None:
    pytest.importorskip("cv2")


@pytest.mark.parametrize("name", NAMES)
def test_copies_that_were_cut_and_blurred_are_probable(name: str) -> None:
    picture = photo(name)
    part = picture.crop((picture.width // 8, 0, picture.width, picture.height * 4 // 5))
    edited = ImageOps.expand(part.filter(ImageFilter.GaussianBlur(1)), 20, "black")
    found = look_again(pixels(picture), pixels(edited))
    assert found.probable
    assert found == look_again(pixels(edited), pixels(picture))


def test_other_pictures_are_not() -> None:
    for left, right in combinations(NAMES, 2):
        assert not look_again(pixels(photo(left)), pixels(photo(right))).probable


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (300, 200, 3)])
def test_pictures_of_nothing_are_not(shape: tuple[int, int, int]) -> None:
    blank = np.full(shape, 255, np.uint8)
    assert look_again(blank, blank) == SecondLook(0, 0)
    assert not look_again(blank, pixels(photo("cat.jpg"))).probable


def test_most_of_the_matches_must_agree() -> None:
    assert SecondLook(25, 20).probable
    assert not SecondLook(100, 70).probable
    assert not SecondLook(19, 19).probable


def test_other_arrays_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="uint8 RGB"):
        look_again(np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3), np.uint8))


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InvalidArgument, match=r"pip install opencv-python-headless$"):
        look_again(pixels(photo("cat.jpg")), pixels(photo("cat.jpg")))
