"""Linear layers on oneDNN or OpenBLAS: the same numbers, on the processors where it pays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from indexer.embed import devices, eva, linears
from indexer.embed.embedder import fitted
from indexer.embed.linears import OpenBlasLinears, PackedLinears, best_linears

from ..conftest import EVA_TINY

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"


Linears = type[PackedLinears | OpenBlasLinears]


@pytest.fixture(params=[PackedLinears, OpenBlasLinears])
def kind(request: pytest.FixtureRequest) -> Iterator[Linears]:
    """Both; either gives the right numbers on every processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(threads)


def cpuinfo(folder: Path, text: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(text)
    return file


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 64), (2, 197, 64), (1, 64), (64,), (0, 64)])
def test_a_product_is_the_same(kind: Linears, shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = torch.nn.Linear(64, 192, bias=bias), torch.randn(shape)
    plain = layer(rows)
    mode = kind()
    for _ in range(2):  # the second with weights that are laid out already
        with mode:
            product = layer(rows)
        assert product.shape == plain.shape
        assert torch.allclose(product, plain, atol=1e-5)


@torch.inference_mode()
def test_rows_may_lie_apart(kind: Linears) -> None:
    layer, rows = torch.nn.Linear(64, 192), torch.randn(64, 5, 3)
    plain = layer(rows.permute(2, 1, 0))
    with kind():
        assert torch.allclose(layer(rows.permute(2, 1, 0)), plain, atol=1e-5)


@torch.inference_mode()
def test_two_layers_are_told_apart(kind: Linears) -> None:
    layers, rows = [torch.nn.Linear(8, 8) for _ in range(2)], torch.randn(3, 8)
    plain = [layer(rows) for layer in layers]
    with kind():
        assert all(torch.allclose(layer(rows), one, atol=1e-6) for layer, one in zip(layers, plain, strict=True))


@torch.inference_mode()
def test_other_types_and_weights_that_are_no_parameters_are_left_to_torch(kind: Linears) -> None:
    half, rows = torch.nn.Linear(8, 4).bfloat16(), torch.ones(3, 8)
    weight = torch.ones(4, 8)
    with kind():
        assert half(rows.bfloat16()).dtype == torch.bfloat16
        assert torch.nn.functional.linear(rows, weight)[0, 0] == 8
        weight *= 2  # nothing was kept of it
        assert torch.nn.functional.linear(rows, weight)[0, 0] == 16


def can_pack_bf16() -> bool:
    return linears._works(functools.partial(PackedLinears, torch.bfloat16), 0.0, torch.bfloat16)


@torch.inference_mode()
@pytest.mark.skipif(not can_pack_bf16(), reason="this torch has no bf16 products for this processor")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 64), (2, 197, 64), (1, 64), (64,), (0, 64)])
def test_a_product_of_bf16_is_as_good_as_torchs(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = torch.nn.Linear(64, 192, bias=bias).bfloat16(), torch.randn(shape).bfloat16()
    plain = layer(rows)
    mode = PackedLinears(torch.bfloat16)
    for _ in range(2):
        with mode:
            product = layer(rows)
        assert (product.shape, product.dtype) == (plain.shape, torch.bfloat16)
        assert torch.allclose(product, plain, atol=2**-7)  # numbers near 1 have steps of 2**-8 and 2**-7
    assert len(mode._packed) == (rows.numel() > 0)
    with mode:
        assert layer.float()(rows.float()).dtype == torch.float32  # left to torch
    assert len(mode._packed) == (rows.numel() > 0)


@pytest.mark.skipif(not can_pack_bf16(), reason="this torch has no bf16 products for this processor")
@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16"])
def test_bf16_is_packed_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True}, raising=False)
    best = best_linears(torch.bfloat16)
    assert best is not None
    assert (type(best()), best()._dtype) == (PackedLinears, torch.bfloat16)
    assert best_linears(torch.float16) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: False})
    assert best_linears(torch.bfloat16) is None


def pretend(monkeypatch: pytest.MonkeyPatch, capability: str, blas: str = "scipy-openblas") -> None:
    """Such a processor, and a numpy with such a library."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": blas}}})


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("AVX512", PackedLinears if torch._C._has_mkldnn else None), ("AVX2", OpenBlasLinears), ("DEFAULT", None)],
)
def test_what_is_best_depends_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, expected: Linears | None
) -> None:
    pretend(monkeypatch, capability)
    assert best_linears(cpuinfo=cpuinfo(tmp_path, AMD)) is expected
    assert best_linears(cpuinfo=cpuinfo(tmp_path, AMD.replace("AuthenticAMD", "GenuineIntel"))) is None
    assert best_linears(cpuinfo=tmp_path / "not there") is None  # no Linux


def test_a_numpy_with_another_blas_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "AVX2", blas="mkl-sdl")
    assert best_linears(cpuinfo=cpuinfo(tmp_path, AMD)) is None


def test_a_torch_without_these_operators_goes_on_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    pretend(monkeypatch, "AVX512")
    monkeypatch.setattr(PackedLinears, "_linear", gone)
    assert best_linears(cpuinfo=cpuinfo(tmp_path, AMD)) is None


def test_operators_that_are_a_little_wrong_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "AVX512")
    product = PackedLinears._product
    monkeypatch.setattr(PackedLinears, "_product", lambda self, *given: product(self, *given) + 1e-6)
    assert best_linears(cpuinfo=cpuinfo(tmp_path, AMD)) is None


@pytest.mark.parametrize("best", [PackedLinears, OpenBlasLinears, None])
def test_the_embedder_uses_what_is_best(
    best: Linears | None, photos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "best_linears", lambda _: best)
    model = eva.TimmEmbedder.load(str(EVA_TINY), device="cpu", precision="fp32")
    calls: list[type] = []
    linear = linears._Linears._linear

    def counted(self: linears._Linears, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(type(self))
        return linear(self, *args, **kwargs)

    monkeypatch.setattr(linears._Linears, "_linear", counted)
    model.embed(photos[:1])
    assert (len(calls) > 12) == (best is not None)  # eva-tiny has twelve blocks
    model.tokens(photos[:1])
    assert (len(calls) > 24) == (best is not None)
    assert set(calls) == {best} - {None}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_what_is_best_is_asked_for_the_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(devices, "best_linears", asked.append)
    eva.TimmEmbedder.load(str(EVA_TINY), device="cpu", precision=precision)
    assert asked == [dtype]


def test_openblas_has_one_thread_where_torch_has_one(photos: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "best_linears", lambda _: OpenBlasLinears)
    model = eva.TimmEmbedder.load(str(EVA_TINY), device="cpu", precision="fp32", batch_size=1)
    seen: list[int] = []
    matmul = np.matmul

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(blas_threads())
        return matmul(*args, **kwargs)

    monkeypatch.setattr(np, "matmul", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    batch = fitted(photos[:1], model.preprocess)
    with threadpool_limits(2, "blas"):
        assert len(list(model.stream([batch], 1))) == 1
        assert not seen  # two cores share it
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        assert len(list(model.stream([batch], 1))) == 1
        assert set(seen) == {1}
        assert blas_threads() == 2


def blas_threads() -> int:
    (numpys,) = (pool for pool in threadpool_info() if "numpy.libs" in pool["filepath"])
    return int(numpys["num_threads"])
