"""Linear layers on oneDNN: the same numbers, on the processors where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from indexer.embed import eva
from indexer.embed.linears import PackedLinears, worth_packing

from ..conftest import EVA_TINY

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def cpuinfo(folder: Path, text: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(text)
    return file


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 64), (2, 197, 64), (1, 64), (64,), (0, 64)])
def test_a_product_is_the_same(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = torch.nn.Linear(64, 192, bias=bias), torch.randn(shape)
    plain = layer(rows)
    mode = PackedLinears()
    for _ in range(2):  # the second with weights that are laid out already
        with mode:
            packed = layer(rows)
        assert packed.shape == plain.shape
        assert torch.allclose(packed, plain, atol=1e-5)


@torch.inference_mode()
def test_two_layers_are_told_apart() -> None:
    layers, rows = [torch.nn.Linear(8, 8) for _ in range(2)], torch.randn(3, 8)
    plain = [layer(rows) for layer in layers]
    with PackedLinears():
        assert all(torch.allclose(layer(rows), one, atol=1e-6) for layer, one in zip(layers, plain, strict=True))


@torch.inference_mode()
def test_other_types_and_weights_that_are_no_parameters_are_left_to_torch() -> None:
    half, rows = torch.nn.Linear(8, 4).bfloat16(), torch.ones(3, 8)
    weight = torch.ones(4, 8)
    with PackedLinears():
        assert half(rows.bfloat16()).dtype == torch.bfloat16
        assert torch.nn.functional.linear(rows, weight)[0, 0] == 8
        weight *= 2  # nothing was kept of it
        assert torch.nn.functional.linear(rows, weight)[0, 0] == 16


@pytest.mark.usefixtures("avx512")
def test_it_pays_on_amd(tmp_path: Path) -> None:
    assert worth_packing(cpuinfo(tmp_path, AMD)) == torch._C._has_mkldnn
    assert not worth_packing(cpuinfo(tmp_path, AMD.replace("AuthenticAMD", "GenuineIntel")))
    assert not worth_packing(tmp_path / "not there")  # no Linux


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2"])
def test_it_does_not_pay_without_512_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert not worth_packing(cpuinfo(tmp_path, AMD))


@pytest.mark.usefixtures("avx512")
def test_a_torch_without_these_operators_goes_on_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(PackedLinears, "_linear", gone)
    assert not worth_packing(cpuinfo(tmp_path, AMD))


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def embedder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[bool, Any]]:
    monkeypatch.setattr(eva, "worth_packing", lambda: request.param)
    yield request.param, eva.TimmEmbedder.load(str(EVA_TINY), device="cpu", precision="fp32")


def test_the_embedder_uses_it_where_it_pays(
    embedder: tuple[bool, Any], photos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    packing, model = embedder
    calls = 0
    linear = PackedLinears._linear

    def counted(self: PackedLinears, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return linear(self, *args, **kwargs)

    monkeypatch.setattr(PackedLinears, "_linear", counted)
    model.embed(photos[:1])
    assert (calls > 12) == packing  # eva-tiny has twelve blocks
    model.tokens(photos[:1])
    assert (calls > 24) == packing
