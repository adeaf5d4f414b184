"""Pictures of many shapes, and small models to load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from indexer.preprocess import Pixels

from ..conftest import PHOTOS
from .random_models import save_model

# whether the products are there: can_int8() also says no where they come out wrong, which is for tests to find
needs_int8 = pytest.mark.skipif(
    not hasattr(torch.ops.onednn, "qlinear_pointwise"), reason="a torch without oneDNN's int8 products"
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured blocks under fine noise: every wrong resize, crop or channel order shows."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height))
    grain = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    return Image.blend(blocks, grain, 0.3)


def photo(name: str) -> Image.Image:
    with Image.open(PHOTOS / name) as opened:
        return opened.convert("RGB")


@pytest.fixture(scope="session")
def shapes() -> list[Image.Image]:
    """Photos, and what a decoder may give besides: long, tiny and grey pictures."""
    return [
        photo("cat.jpg"),
        photo("citrus.webp"),
        noise(150, 420),
        noise(640, 90, seed=1),
        noise(3, 5, seed=2),
        noise(47, 1, seed=3),
        noise(200, 160, seed=4).convert("L").convert("RGB"),
    ]


@pytest.fixture(scope="session")
def arrays(shapes: list[Image.Image]) -> list[Pixels]:
    return [np.asarray(picture) for picture in shapes]


@pytest.fixture(scope="session")
def photos() -> list[Pixels]:
    """All photos of data/photos, small: what is read from them does not matter, that they differ does."""
    return [
        np.asarray(photo(path.name).resize((96, 80)))
        for path in sorted(PHOTOS.iterdir())
        if path.suffix in (".jpg", ".png", ".webp")
    ]


@pytest.fixture(scope="session")
def fitted(photos: list[Pixels]) -> Pixels:
    """The same as eva-tiny takes them, (N, 64, 64, 3)."""
    return np.stack([np.asarray(Image.fromarray(pixels).resize((64, 64))) for pixels in photos])


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EVA-02 of 32 x 32 pixels, with a class token and rotary positions, of 0.2 million random numbers."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return save_model("eva02_tiny_patch14_336", tmp_path_factory.mktemp("models") / "small", **arguments)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws at random is the same in every run: a rounding error may be large once in thirty draws."""
    torch.manual_seed(0)
