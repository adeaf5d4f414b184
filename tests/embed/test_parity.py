"""Our numbers against the model card's own code: timm, one picture at a time.

Source: https://huggingface.co/timm/eva_large_patch14_196.in22k_ft_in22k_in1k, 'Image Classification' and 'Image
Embeddings'.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from indexer import Embedder, load_embedder
from indexer.embed.embedder import Vectors
from indexer.preprocess import LONGEST_ASPECT, Pixels, fit_array
from indexer.records import Skipped
from indexer.verbs.embed import classify_files, embed_files

from ..conftest import EVA_TINY
from .cards import Card, card, cosines, load, unit
from .random_models import save_model

TRAINED = "data/eva-tiny"
MODELS = [
    TRAINED,
    "eva02_tiny_patch14_336",
    "eva02_small_patch14_336",
    "test_resnet",  # features (N, C, H, W)
    "test_mambaout",  # features (N, H, W, C), and a head with a hidden layer
    "mobilenetv3_small_050",  # a layer between pooling and classifier
    "deit_tiny_distilled_patch16_224",  # two tokens that become one vector, and two classifiers
    pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),  # buffers that no file has
    pytest.param("resnet50_clip", marks=pytest.mark.slow),  # attention that pools, and a projection
    pytest.param("eva02_base_patch14_448", marks=pytest.mark.slow),
    pytest.param("eva_large_patch14_196", marks=pytest.mark.slow),
]
TOKENS = {  # (T, channels), the class token of EVA included
    TRAINED: (65, 192),
    "eva02_tiny_patch14_336": (577, 192),
    "eva02_small_patch14_336": (577, 384),
    "test_resnet": (25, 96),
    "test_mambaout": (25, 64),
    "mobilenetv3_small_050": (49, 288),
    "deit_tiny_distilled_patch16_224": (198, 192),
    "swin_tiny_patch4_window7_224": (49, 768),
    "resnet50_clip": (49, 2048),
    "eva02_base_patch14_448": (1025, 768),
    "eva_large_patch14_196": (197, 1024),
}


@dataclass(frozen=True)
class Case:
    name: str
    embedder: Embedder
    card: Card


@pytest.fixture(scope="module", params=MODELS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shapes: list[Image.Image]
) -> Iterator[Case]:
    name: str = request.param
    if name == TRAINED:
        yield Case(name, load(EVA_TINY), card(EVA_TINY, shapes))
        return
    folder = save_model(name, tmp_path_factory.mktemp("models") / name)
    yield Case(name, load(folder), card(folder, shapes))
    shutil.rmtree(folder)


def test_vectors_are_the_model_cards(case: Case, arrays: list[Pixels]) -> None:
    vectors = case.embedder.embed(arrays)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(arrays), case.embedder.id.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert cosines(vectors, unit(case.card.output)).min() >= 0.99999
    assert cosines(vectors, unit(case.card.pooled)).min() >= 0.99999


def test_the_model_tells_the_pictures_apart(case: Case) -> None:
    """Otherwise any picture's vector would pass for any other's above."""
    vectors = unit(case.card.output)
    alike = vectors @ vectors.T - 2 * np.eye(len(vectors), dtype=np.float32)
    assert alike.max() < 0.999


def test_tokens_are_the_unpooled_features(case: Case, arrays: list[Pixels]) -> None:
    tokens = case.embedder.tokens(arrays[:2])
    assert tokens.dtype == np.float32
    assert tokens.shape == (2, *TOKENS[case.name])
    features = torch.cat(case.card.features[:2]).numpy()
    if case.name in ("test_resnet", "mobilenetv3_small_050", "resnet50_clip"):
        features = np.moveaxis(features, 1, -1)
    assert np.abs(tokens - features.reshape(tokens.shape)).max() < 1e-4 * np.abs(features).max()


def test_labels_are_the_full_models(case: Case, arrays: list[Pixels]) -> None:
    best = case.card.probabilities.topk(5)
    for row, labels in enumerate(case.embedder.classify(arrays)):
        assert [label.index for label in labels] == best.indices[row].tolist()
        assert np.allclose([label.probability for label in labels], best.values[row].numpy(), rtol=1e-3)


def test_one_forward_pass_gives_both(case: Case, arrays: list[Pixels]) -> None:
    fitted = np.stack([fit_array(array, case.embedder.preprocess) for array in arrays[:2]])
    embedded = case.embedder.forward(fitted)
    best = case.card.probabilities[:2].topk(5)
    assert cosines(embedded.vectors, unit(case.card.output[:2])).min() >= 0.99999
    assert np.array_equal(embedded.indices, best.indices.numpy())
    assert np.allclose(embedded.probabilities, best.values.numpy(), rtol=1e-3)


@pytest.fixture(scope="module")
def cropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees the middle of a picture, as most of timm's do."""
    folder = tmp_path_factory.mktemp("models") / "cropping"
    shutil.copytree(EVA_TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = 0.875
    (folder / "config.json").unlink()  # which may be read-only
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_files_are_cropped_once(cropping: Path, shapes: list[Image.Image], tmp_path: Path) -> None:
    # of longer ones fit() resizes the middle alone
    pictures = [picture for picture in shapes if max(picture.size) <= LONGEST_ASPECT * min(picture.size)]
    files = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    embedder, expected = load(cropping), card(cropping, pictures)

    assert embed_files(embedder, files, tmp_path / "v.npy") == ((len(files), embedder.id.dim), [])
    assert cosines(np.load(tmp_path / "v.npy"), unit(expected.pooled)).min() >= 0.99999

    features = torch.cat(expected.features).numpy()
    assert embed_files(embedder, files, tmp_path / "t.npy", tokens=True) == (features.shape, [])
    assert np.abs(np.load(tmp_path / "t.npy") - features).max() < 1e-4 * np.abs(features).max()

    best = expected.probabilities.topk(7)
    classified = list(classify_files(embedder, files, 7))
    assert len(classified) == len(files) >= 6
    for row, item in enumerate(classified):
        assert not isinstance(item, Skipped)
        assert item[0] == str(files[row])
        assert [label.index for label in item[1]] == best.indices[row].tolist()
        assert np.allclose([label.probability for label in item[1]], best.values[row].numpy(), rtol=1e-3)


@pytest.fixture(scope="module")
def alone(photos: list[Pixels]) -> Vectors:
    """Vectors of photos that went through the model one at a time."""
    embedder = load(EVA_TINY)
    return np.concatenate([embedder.embed([picture]) for picture in photos])


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_a_vector_does_not_depend_on_its_batch(photos: list[Pixels], alone: Vectors, batch_size: int) -> None:
    order = list(range(len(photos)))
    random.Random(batch_size).shuffle(order)
    vectors = load(EVA_TINY, batch_size).embed([photos[index] for index in order])
    assert np.abs(vectors - alone[order]).max() < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bits_mix_with_fp32(photos: list[Pixels], alone: Vectors, precision: str) -> None:
    half = load_embedder(str(EVA_TINY), device="cpu", precision=precision)
    assert half.id == load(EVA_TINY).id
    assert cosines(half.embed(photos), alone).min() > 0.999
