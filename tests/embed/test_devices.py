"""Where a model runs and how it computes, on machines that this one is not."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from indexer import InvalidArgument, load_embedder
from indexer.embed import linears
from indexer.embed.devices import choose_batch_size, choose_device, choose_precision
from indexer.records import Preprocess

from ..conftest import EVA_TINY

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda:0"), torch.device("mps")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither CUDA nor MPS nor products of bf16, until a test says otherwise."""
    has(monkeypatch)


def has(
    monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, bf16: bool = False, mps: bool = False, cpu: str = "avx2"
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({cpu: True}), raising=False)
    monkeypatch.setattr(linears, "_works", lambda *_: True)


def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == CPU
    has(monkeypatch, mps=True)
    assert choose_device("auto") == MPS
    has(monkeypatch, cuda=2, mps=True)
    assert choose_device("auto") == CUDA


def test_a_device_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, cuda=2, mps=True)
    assert [str(choose_device(name)) for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "meta", "xla", "cuda 0"])
def test_an_unknown_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    has(monkeypatch, cuda=1, mps=True)
    with pytest.raises(InvalidArgument) as caught:
        choose_device(name)
    assert str(caught.value) == f"There is no device '{name}'. Use auto, cpu, cuda, cuda:N or mps."


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"This machine has no {name} that torch can use"):
        choose_device(name)


def test_one_gpu_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, cuda=2)
    with pytest.raises(InvalidArgument, match="has no cuda:2 that"):
        choose_device("cuda:2")


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16"])
def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    assert [choose_precision("auto", device) for device in (CPU, CUDA, MPS)] == ["fp32", "fp16", "fp32"]
    has(monkeypatch, bf16=True, cpu=instructions)
    assert [choose_precision("auto", device) for device in (CPU, CUDA, MPS)] == ["bf16", "bf16", "fp32"]


def test_a_torch_that_cannot_tell_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.10 has no get_capabilities()."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", CPU) == "fp32"


def test_a_torch_without_products_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, cpu="avx512_bf16")
    monkeypatch.setattr(linears, "_works", lambda *_: False)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_precision_can_be_named(precision: str) -> None:
    assert choose_precision(precision, CPU) == precision


def test_an_unknown_precision() -> None:
    with pytest.raises(InvalidArgument, match=r"There is no precision 'int4'. Use auto, fp32, bf16, fp16, int8."):
        choose_precision("int4", CPU)


def test_an_embedder_says_what_was_chosen() -> None:
    embedder = load_embedder(str(EVA_TINY))
    assert (embedder.device, embedder.precision, embedder.batch_size) == ("cpu", "fp32", 4)


@pytest.mark.parametrize(("device", "precision"), [("tpu", "auto"), ("cpu", "fp8")])
def test_what_cannot_be_meant_is_refused_before_the_model_is_looked_for(device: str, precision: str) -> None:
    with pytest.raises(InvalidArgument):
        load_embedder("there is no such model", device=device, precision=precision)


@pytest.mark.parametrize(
    ("side", "batch"), [(64, 4), (196, 4), (224, 3), (256, 2), (336, 1), (448, 1), (560, 1)], ids=str
)
def test_larger_pictures_make_smaller_batches_on_a_cpu(side: int, batch: int) -> None:
    """What a layer gives should stay in the caches, and a batch be a short time's work."""
    preprocess = Preprocess((side, side), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    assert choose_batch_size(CPU, preprocess) == batch
    assert choose_batch_size(CUDA, preprocess) == 256


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none(batch_size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"A batch of {batch_size} pictures is none"):
        load_embedder(str(EVA_TINY), batch_size=batch_size)
