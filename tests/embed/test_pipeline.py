"""The pipeline of a GPU: on the CPU, where its streams do nothing, and on CUDA where there is one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from indexer import load_embedder
from indexer.embed import eva, pipeline
from indexer.embed.eva import TimmEmbedder
from indexer.embed.pipeline import COMPILE_GAIN, COMPILE_SECONDS, PROBED, Pipeline, saved_by_compiling
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY

ROWS = 4


def load(batch_size: int = ROWS, device: str = "cpu", precision: str = "fp32") -> TimmEmbedder:
    return TimmEmbedder.load(str(EVA_TINY), device=device, precision=precision, batch_size=batch_size)


def batches_of(fitted: Pixels, *sizes: int) -> list[Pixels]:
    ends = np.cumsum([0, *sizes])
    return [fitted[start:end] for start, end in itertools.pairwise(ends)]


def vectors_of(embedder: TimmEmbedder, batches: list[Pixels], total: int = 0) -> np.ndarray[Any, Any]:
    results = list(embedder._piped(batches, total))
    assert all(embedded is not None for embedded in results)
    return np.concatenate([embedded.vectors for embedded in results if embedded is not None])


def test_the_estimate_of_what_compiling_saves() -> None:
    assert saved_by_compiling(0, 1.0) == -COMPILE_SECONDS
    even = COMPILE_SECONDS / COMPILE_GAIN  # seconds of work at which it comes to nothing
    assert saved_by_compiling(1000, even / 1000) == pytest.approx(0)
    assert saved_by_compiling(2000, even / 1000) == pytest.approx(COMPILE_SECONDS)
    assert saved_by_compiling(500, even / 1000) < 0


def test_short_batches_are_padded_and_the_padding_dropped(fitted: Pixels) -> None:
    """Every batch has one shape, and no picture's vector depends on what the slot held before."""
    embedder, shapes = load(), set()
    features = embedder._features

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(pixels.shape))
        return features(pixels)

    embedder._features = seen  # type: ignore[method-assign]
    vectors = vectors_of(embedder, batches_of(fitted, 4, 3, 4, 1, 4, 2))
    assert shapes == {(ROWS, 64, 64, 3)}
    assert np.allclose(vectors, embedder.forward(fitted[:18]).vectors, atol=1e-5)


def test_a_batch_that_is_empty_or_too_large_takes_the_plain_way(fitted: Pixels) -> None:
    embedder = load()
    vectors = vectors_of(embedder, batches_of(fitted, 0, 9, 2))
    assert np.allclose(vectors, embedder.forward(fitted[:11]).vectors, atol=1e-5)


def test_memory_that_runs_out_makes_a_smaller_pipeline(fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, made = load(), []
    expected = embedder.forward(fitted[:14]).vectors
    features = embedder._features

    def limited(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features(pixels)

    class Counted(Pipeline):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self.rows)

    monkeypatch.setattr(eva, "Pipeline", Counted)
    monkeypatch.setattr(embedder, "_features", limited)
    assert np.allclose(vectors_of(embedder, batches_of(fitted, 4, 4, 2, 2, 2)), expected, atol=1e-5)
    assert made == [4, 2]
    assert embedder.batch_size == 2
    assert list(embedder.remarks) == ["Memory ran out on cpu: batches are of 2 now."]


def test_another_error_comes_through(fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load()

    def wrong(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(embedder, "_features", wrong)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        vectors_of(embedder, batches_of(fitted, 4))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiling that pays at once and only takes notes."""
    notes: list[str] = []

    def compile(run: Any, dynamic: bool, mode: str) -> Any:
        notes.append(mode)
        return run

    monkeypatch.setattr(pipeline, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(torch, "compile", compile)
    return notes


def test_it_compiles_where_that_pays_and_says_so(fitted: Pixels, cheap: list[str]) -> None:
    embedder = load()
    vectors = vectors_of(embedder, batches_of(fitted, 4, 4, 4, 4, 2), total=1000)
    assert cheap == ["reduce-overhead"]
    (remark,) = embedder.remarks
    assert remark.startswith(f"The model was compiled: for {1000 - 4 * PROBED} pictures that should save")
    assert np.allclose(vectors, embedder.forward(fitted[:18]).vectors, atol=1e-5)


@pytest.mark.usefixtures("cheap")
def test_it_does_not_compile_for_what_is_done_already(fitted: Pixels) -> None:
    embedder = load()
    vectors_of(embedder, batches_of(fitted, 4, 4, 4, 4, 2), total=4 * PROBED)
    assert embedder.remarks == []


def test_it_goes_on_where_compiling_fails(fitted: Pixels, cheap: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*_: Any, **__: Any) -> Any:
        def run(_: torch.Tensor) -> Any:
            raise RuntimeError("Cannot find a working triton installation")

        return run

    monkeypatch.setattr(torch, "compile", compile)
    embedder = load()
    vectors = vectors_of(embedder, batches_of(fitted, 4, 4, 4, 4, 2), total=1000)
    assert embedder.remarks[-1] == "It could not be compiled, and went on as it was."
    assert np.allclose(vectors, embedder.forward(fitted[:18]).vectors, atol=1e-5)


# -- on CUDA -----------------------------------------------------------------------------------------------------------


def cosines(left: Any, right: Any) -> Any:
    return np.sum(left * right, axis=1, dtype=np.float64)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stream_on_cuda_has_the_vectors_of_the_cpu(fitted: Pixels, precision: str) -> None:
    embedder = load(device="cuda:0", precision=precision)
    results = list(embedder.stream(batches_of(fitted, 4, 4, 4, 3, 0, 4)))
    vectors = np.concatenate([embedded.vectors for embedded in results if embedded is not None])
    lowest = 0.9999 if precision == "fp32" else 0.999
    assert cosines(vectors, load().forward(fitted[:19]).vectors).min() > lowest
    assert np.abs(vectors - embedder.forward(fitted[:19]).vectors).max() < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("looks", [False, True])
def test_a_stream_is_recorded_on_cuda_unless_the_model_looks_at_its_results(
    fitted: Pixels, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    embedder, made, passes = load(device="cuda:0", precision="bf16"), [], [0]
    features = embedder._features

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        found = features(pixels)
        if looks:
            assert found.isfinite().all().item()
        return found

    class Kept(Pipeline):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(eva, "Pipeline", Kept)
    monkeypatch.setattr(embedder, "_features", counted)
    results = list(embedder.stream(batches_of(fitted, 4, 4, 4, 4, 3)))
    vectors = np.concatenate([embedded.vectors for embedded in results if embedded is not None])
    assert cosines(vectors, load().forward(fitted[:19]).vectors).min() > 0.999
    (pipe,) = made
    assert (pipe._run is pipe._plain) is looks
    assert passes[0] == (1 + 1 + 4 if looks else 1 + 1)  # the first, the recording, and those that follow it


@pytest.mark.gpu
def test_a_compiled_stream_on_cuda_has_them_too(fitted: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "COMPILE_SECONDS", 0.0)
    embedder = load(device="cuda:0", precision="bf16")
    order = np.arange(40) % len(fitted)
    results = list(embedder.stream(batches_of(fitted[order], *[4] * 9, 1), total=10_000))
    vectors = np.concatenate([embedded.vectors for embedded in results if embedded is not None])
    assert len(embedder.remarks) == 1, embedder.remarks
    assert cosines(vectors, load().forward(fitted[order[:37]]).vectors).min() > 0.999


@pytest.mark.gpu
def test_the_default_batch_of_a_large_model_on_cuda(tmp_path: Path) -> None:
    """EVA-L in bf16, random weights: no memory runs out, and rows keep their order."""
    from .random_models import save_model

    folder = save_model("eva_large_patch14_196", tmp_path / "model")
    embedder = load_embedder(str(folder), device="cuda:0", precision="bf16")
    pixels = np.random.default_rng(0).integers(0, 256, (embedder.batch_size, 196, 196, 3), np.uint8)
    results = list(embedder.stream([pixels] * 6 + [pixels[:7]]))
    for embedded in results:
        assert embedded is not None and results[0] is not None
        rows = len(embedded.vectors)
        assert cosines(embedded.vectors, results[0].vectors[:rows]).min() > 0.999
    assert embedder.remarks == []


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_all_gpus_give_the_vectors_of_one(fitted: Pixels) -> None:
    several, one = load_embedder(str(EVA_TINY), device="cuda", batch_size=2), load_embedder(str(EVA_TINY), device="cpu")
    results = list(several.stream(batches_of(fitted, *[2] * 9)))
    vectors = np.concatenate([embedded.vectors for embedded in results if embedded is not None])
    assert cosines(vectors, one.forward(fitted[:18]).vectors).min() > 0.999


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_whichever_gpu_is_the_current_one(fitted: Pixels) -> None:
    """Every thread has a current one of its own, and another embedder may have been loaded since."""
    embedder = load(device="cuda:1", precision="bf16")
    with torch.cuda.device(0):
        results = list(embedder.stream(batches_of(fitted, 4, 4, 4, 3)))
    vectors = np.concatenate([embedded.vectors for embedded in results if embedded is not None])
    assert cosines(vectors, load().forward(fitted[:15]).vectors).min() > 0.999
