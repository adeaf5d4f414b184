"""Forward passes that go wrong, or have little to do: out of memory, numbers that are none, no classes, no pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer import InvalidArgument, ModelError, OutOfMemory
from indexer.embed.embedder import fitted
from indexer.embed.eva import TimmEmbedder
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY
from .random_models import save_model

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    MemoryError(),
]


def load(folder: Path = EVA_TINY, batch_size: int | None = None) -> TimmEmbedder:
    return TimmEmbedder.load(str(folder), device="cpu", precision="fp32", batch_size=batch_size)


@pytest.fixture
def embedder() -> TimmEmbedder:
    return load(batch_size=16)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, embedder: TimmEmbedder) -> Callable[[int, Exception], list[int]]:
    """Make the device hold so many pictures and no more; returns the batches that were tried."""

    def limit(most: int, error: Exception) -> list[int]:
        features, tried = embedder._features, list[int]()

        def limited(batch: torch.Tensor) -> torch.Tensor:
            tried.append(len(batch))
            if len(batch) > most:
                raise error
            return features(batch)

        monkeypatch.setattr(embedder, "_features", limited)
        return tried

    return limit


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory_halves_the_batch(
    embedder: TimmEmbedder,
    photos: list[Pixels],
    fits: Callable[[int, Exception], list[int]],
    error: Exception,
) -> None:
    expected = embedder.embed(photos)
    tried = fits(5, error)
    assert np.allclose(embedder.embed(photos), expected, atol=1e-5)
    assert tried[:3] == [16, 8, 4]
    assert set(tried[3:-1]) == {4}
    assert embedder.batch_size == 4  # and does not try again with the next batch


def test_tokens_and_classes_too(
    embedder: TimmEmbedder, photos: list[Pixels], fits: Callable[[int, Exception], list[int]]
) -> None:
    tokens, classes = embedder.tokens(photos), embedder.classify(photos)
    fits(3, OUT_OF_MEMORY[0])
    assert np.allclose(embedder.tokens(photos), tokens, atol=1e-4)
    embedder.batch_size = 16
    again = embedder.classify(photos)
    assert [[label.index for label in row] for row in again] == [[label.index for label in row] for row in classes]


def test_a_single_picture_that_does_not_fit(
    embedder: TimmEmbedder, photos: list[Pixels], fits: Callable[[int, Exception], list[int]]
) -> None:
    tried = fits(0, OUT_OF_MEMORY[0])
    with pytest.raises(OutOfMemory) as caught:
        embedder.embed(photos)
    assert tried == [16, 8, 4, 2, 1]
    assert str(caught.value) == (
        "eva02_tiny_patch14_224.tiny_imagenet_64 does not fit cpu with a single picture. "
        "Use --device cpu or a smaller model (indexer models)."
    )


def test_any_other_error_comes_through(
    embedder: TimmEmbedder, photos: list[Pixels], fits: Callable[[int, Exception], list[int]]
) -> None:
    tried = fits(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        embedder.embed(photos)
    assert tried == [16]


def test_rows_that_are_no_numbers_come_as_nan(
    embedder: TimmEmbedder, photos: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embedder.embed(photos)
    features = embedder._features
    scale = torch.ones(len(photos))
    bad = {1: torch.nan, 4: torch.inf, 7: -torch.inf}
    scale[list(bad)] = torch.tensor(list(bad.values()))

    def poisoned(batch: torch.Tensor) -> torch.Tensor:
        whole = features(batch)
        whole[:, :, 0] *= scale[: len(batch), None]
        return whole

    embedder.batch_size = len(photos)
    monkeypatch.setattr(embedder, "_features", poisoned)
    vectors = embedder.embed(photos)
    sound = [row for row in range(len(photos)) if row not in bad]
    assert np.isnan(vectors[list(bad)]).all()
    assert np.allclose(vectors[sound], expected[sound], atol=1e-5)


def test_a_vector_without_a_direction_comes_as_nan(
    embedder: TimmEmbedder, photos: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All zero, or so large that its length is infinite."""
    head = embedder._model.forward_head
    factors = torch.tensor([1, 0, 1, 3e38])[:, None]
    monkeypatch.setattr(embedder._model, "forward_head", lambda x, pre_logits=False: head(x, pre_logits) * factors)
    vectors = embedder.embed(photos[:4])
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, True]
    assert np.allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1)


def test_a_backbone_without_a_classifier(tmp_path: Path, photos: list[Pixels]) -> None:
    folder = save_model("test_vit", tmp_path / "model", num_classes=0)
    embedder = load(folder, batch_size=2)
    assert embedder.classes == []
    assert embedder.embed(photos[:3]).shape == (3, 64)
    embedded = embedder.forward(fitted(photos[:3], embedder.preprocess))
    assert embedded.vectors.shape == (3, 64)
    assert embedded.indices.shape == embedded.probabilities.shape == (3, 0)
    with pytest.raises(ModelError, match=r"has no classifier. Choose a model with one: indexer models"):
        embedder.classify(photos[:1])


def test_features_of_several_lengths_are_no_tokens(tmp_path: Path, arrays: list[Pixels]) -> None:
    """CrossViT has two branches, of larger and of smaller patches."""
    embedder = load(save_model("crossvit_tiny_240", tmp_path / "model", depth=((1, 1, 0),), num_heads=(3, 3)))
    assert embedder.embed(arrays[:1]).shape == (1, 96 + 192)
    with pytest.raises(ModelError, match=r"The tokens of crossvit_tiny_240\S* are of several lengths"):
        embedder.tokens(arrays[:1])


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_a_model_that_was_made_without_pooling(architecture: str, tmp_path: Path, arrays: list[Pixels]) -> None:
    folder = save_model(architecture, tmp_path / "model", global_pool="")
    with pytest.raises(ModelError, match=r"does not pool. Name a global_pool in the model_args of its config.json"):
        load(folder).embed(arrays[:2])


def test_no_pictures(embedder: TimmEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 192)
    assert embedder.classify([]) == []
    assert len(embedder.tokens([])) == 0
    assert len(embedder.forward(np.empty((0, 64, 64, 3), np.uint8)).vectors) == 0


@pytest.mark.parametrize("k", [0, 201, -1])
def test_k_outside_the_classes(embedder: TimmEmbedder, photos: list[Pixels], k: int) -> None:
    with pytest.raises(InvalidArgument, match=f"k={k} is outside 1 to 200"):
        embedder.classify(photos[:1], k=k)


def test_all_the_classes_are_one_whole(embedder: TimmEmbedder, photos: list[Pixels]) -> None:
    (labels,) = embedder.classify(photos[:1], k=200)
    probabilities = [label.probability for label in labels]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert probabilities == sorted(probabilities, reverse=True)
    assert {label.index for label in labels} == set(range(200))


def test_a_trained_model_names_what_it_sees(embedder: TimmEmbedder) -> None:
    assert len(embedder.classes) == 200
    assert embedder.classes[0] == ("n01443537", "goldfish, Carassius auratus")


def test_pictures_are_left_as_they_were(embedder: TimmEmbedder) -> None:
    batch = np.full((2, 64, 64, 3), 77, np.uint8)
    embedder.forward(batch)
    assert (batch == 77).all()
