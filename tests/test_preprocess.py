"""From a picture to a model's input: the very bytes that timm's own transform gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from indexer import InvalidArgument
from indexer.embed.zoo import ZOO
from indexer.preprocess import LONGEST_ASPECT, RESAMPLING, Pixels, fit, fit_array
from indexer.records import Preprocess

from .conftest import PHOTOS

ASPECTS = st.tuples(st.integers(1, 90), st.integers(1, 90)).filter(lambda size: max(size) <= LONGEST_ASPECT * min(size))
SPECS = st.builds(
    Preprocess,
    size=st.one_of(st.integers(8, 40).map(lambda side: (side, side)), st.tuples(*[st.integers(8, 40)] * 2)),
    interpolation=st.sampled_from(sorted(RESAMPLING)),
    crop_pct=st.sampled_from([1.0, 0.95, 0.9, 0.875]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * 997 + height).integers(0, 256, (height, width, 3), np.uint8))


def of_timm(picture: Image.Image, spec: Preprocess) -> Pixels:
    """What timm makes of a picture, before it is normalised."""
    transform = timm.data.create_transform(
        input_size=(3, *spec.size),
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
        normalize=False,
    )
    pixels: Pixels = transform(picture).permute(1, 2, 0).numpy()
    assert pixels.dtype == np.uint8
    return pixels


@settings(max_examples=500, deadline=None, derandomize=True)
@given(size=ASPECTS, spec=SPECS)
def test_the_bytes_are_timms(size: tuple[int, int], spec: Preprocess) -> None:
    if spec.crop_mode == "border":  # timm cannot give a line less than half a pixel
        assume(min(size) * min(spec.size) >= max(size))
    assert np.array_equal(fit(noise(*size), spec), of_timm(noise(*size), spec))


@pytest.mark.parametrize("side", sorted({known.input_size for known in ZOO}))
@pytest.mark.parametrize("name", ["cat.jpg", "bridge.jpg", "photographer.png"])
def test_photos_at_the_sizes_of_the_zoo(name: str, side: int) -> None:
    with Image.open(PHOTOS / name) as opened:
        picture = opened.convert("RGB")
    spec = Preprocess((side, side))
    assert np.array_equal(fit(picture, spec), of_timm(picture, spec))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(size=ASPECTS, spec=SPECS)
def test_what_need_not_be_exact_is_nearly_the_same(size: tuple[int, int], spec: Preprocess) -> None:
    """Even of noise, which moves by 40 levels where a pixel moves by one."""
    exact, nearly = (fit(noise(*size), spec, exact=exact).astype(int) for exact in (True, False))
    assert nearly.shape == exact.shape
    assert np.abs(nearly - exact).mean() < 4


@pytest.mark.parametrize("times", [1, 3, 8])
@pytest.mark.parametrize("spec", [Preprocess((196, 196)), Preprocess((64, 48), "lanczos", 0.9, "squash")], ids=repr)
def test_of_a_photo_it_is_the_same_to_a_level(spec: Preprocess, times: int) -> None:
    with Image.open(PHOTOS / "cat.jpg") as opened:
        picture = opened.convert("RGB")
    picture = picture.resize((times * picture.width, times * picture.height), Image.Resampling.BICUBIC)
    exact, nearly = (fit(picture, spec, exact=exact).astype(int) for exact in (True, False))
    apart = np.abs(nearly - exact)
    assert apart.mean() < 0.4
    assert apart.max() <= 2


@pytest.mark.parametrize("short", [1, 2, 3, 7])
@pytest.mark.parametrize("ratio", [33, 40, 40.5, 77])
@pytest.mark.parametrize("upright", [True, False])
def test_of_a_very_long_picture_the_same_middle(short: int, ratio: float, upright: bool) -> None:
    long = round(short * ratio)
    picture = noise(short, long) if upright else noise(long, short)
    spec = Preprocess((196, 196))
    apart = np.abs(fit(picture, spec).astype(int) - of_timm(picture, spec))
    assert apart.max() <= 6  # at most half a pixel of the 196, which is little where one of the picture is many


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(60_000, 2), (2, 60_000), (65_000, 1), (1, 65_000)])
def test_a_line_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], crop_mode: str
) -> None:
    resize: Callable[..., Image.Image] = Image.Image.resize

    def bounded(self: Image.Image, to: tuple[int, int], *rest: Any) -> Image.Image:
        assert to[0] * to[1] <= (LONGEST_ASPECT + 1) * 336 * 336
        return resize(self, to, *rest)

    monkeypatch.setattr(Image.Image, "resize", bounded)
    assert fit(Image.new("RGB", size), Preprocess((336, 336), crop_mode=crop_mode)).shape == (336, 336, 3)


def test_a_border_has_the_colour_of_the_mean() -> None:
    spec = Preprocess((20, 20), crop_mode="border", mean=(1.0, 0.5, 0.0))
    pixels = fit(Image.new("RGB", (100, 1), (9, 9, 9)), spec)
    assert pixels[0, 0].tolist() == [255, 128, 0]
    assert pixels[9].tolist() == [[9, 9, 9]] * 20


def test_arrays_are_pictures() -> None:
    spec = Preprocess((24, 32), crop_pct=0.9)
    picture = noise(70, 50)
    array = np.asarray(picture)
    assert np.array_equal(fit_array(array, spec), fit(picture, spec))
    flipped = fit(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), spec)
    assert np.array_equal(fit_array(array[:, ::-1], spec), flipped)  # a view, not one block of memory


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.bool_),
        np.zeros((), np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_what_is_no_picture(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        fit_array(array, Preprocess((8, 8)))
    assert str(caught.value) == (
        f"A picture must be a uint8 RGB array (H, W, 3), not {array.dtype} {array.shape}. Convert it, or pass a path."
    )
