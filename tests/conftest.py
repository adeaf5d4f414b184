"""Pictures, catalogs and the tiny real model that tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import Catalog

from .fakes import FakeEmbedder

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "data" / "photos"
EVA_TINY = ROOT / "data" / "eva-tiny"
INDEXER = [sys.executable, "-m", "indexer"]


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """A picture of coloured blocks that no other seed gives; the format follows the ending."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def before(monkeypatch: pytest.MonkeyPatch, where: object, name: str, act: Callable[[], object]) -> None:
    """Another program acts just before the first call of a function."""
    real = getattr(where, name)

    def called(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(where, name, real)
        act()
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, called)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with six pictures, two of them below another folder."""
    folder = tmp_path / "pictures"
    for seed, name in enumerate(["a.png", "b.png", "c.jpg", "d.bmp", "sub/e.png", "sub/f.png"]):
        save_picture(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog of the demo photographs by the tiny real model."""
    folder = tmp_path_factory.mktemp("built")
    command = [*INDEXER, "build", str(PHOTOS), "--model", str(EVA_TINY)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def fake() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def catalog(tmp_path: Path, fake: FakeEmbedder) -> Iterator[Catalog]:
    """An empty catalog that works with the fake embedder."""
    with Catalog.create(tmp_path / "catalog", loader=lambda _: fake) as made:
        yield made


@pytest.fixture
def reopen(tmp_path: Path, fake: FakeEmbedder) -> Callable[[], Catalog]:
    """Opens the same catalog once more."""
    return lambda: Catalog.open(tmp_path / "catalog", loader=lambda _: fake)
