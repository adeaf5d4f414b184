"""Matrix products of a model's linear layers on a CPU, done otherwise than torch would do them.

Torch gives fp32 products to MKL, which does less than it could on processors that are not Intel's. `best_linears()`
knows who does more; `benchmarks/build.py` measures the whole model.

PackedLinears: for AMD processors with AVX-512, where MKL keeps to 256 bits; oneDNN, which torch has too and uses for
bf16, does not. Measured on two Zen 5 cores: 210 GFLOP/s against 470. For bf16 on all processors that multiply it:
torch would have oneDNN lay the weights out anew for every batch.

OpenBlasLinears: for AMD processors without (Zen 3: 1.1 x of MKL, where oneDNN has 0.9 x), since numpy comes with it.
On one core; where several share a product it is the slower one.

Int8Linears: weights and activations in eight bits, for --precision int8. oneDNN's own operators are used, not torch's
quantized tensors, which are on their way out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

# oneDNN lays the weights out for about so many rows; any number of rows gives the right result
_ROWS = 1024
# Without VNNI oneDNN adds two products in 16 bits: 2 * 255 * 63 still fits. The same on every machine, so that all of
# them give the same vectors.
_LARGEST_WEIGHT, _LARGEST_ACTIVATION = 63, 255
_TINY = 1e-30  # instead of a step of zero, where all numbers of a row are alike


class _Linears(TorchFunctionMode):
    """Within it, every linear layer of one type that has rows to work on is computed by _product()."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """dtype: of the rows and the weights that are taken; others are left to torch."""
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch for each of its functions."""
        if function is torch.nn.functional.linear:
            return self._linear(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _linear(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if not isinstance(weight, torch.nn.Parameter) or input.dtype != self._dtype or not input.numel():
            return torch.nn.functional.linear(input, weight, bias)
        return self._product(input, weight, bias)

    def _product(self, input: torch.Tensor, weight: torch.nn.Parameter, bias: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


class PackedLinears(_Linears):
    """Linear layers in fp32 or bf16 run on oneDNN, their weights laid out for that once."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Nothing is packed before it is used."""
        super().__init__(dtype)
        self._packed: dict[torch.Tensor, torch.Tensor] = {}  # tensors hash by identity, and this keeps them alive

    def _product(self, input: torch.Tensor, weight: torch.nn.Parameter, bias: torch.Tensor | None) -> torch.Tensor:
        packed = self._packed.get(weight)
        if packed is None:
            packed = self._packed[weight] = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
        return product


class OpenBlasLinears(_Linears):
    """Linear layers in fp32 run on numpy's OpenBLAS, in threads of torch that have one core each.

    OpenBLAS has helper threads of its own, which would fight with torch's for the cores; threadpoolctl keeps them away.
    """

    def _product(self, input: torch.Tensor, weight: torch.nn.Parameter, bias: torch.Tensor | None) -> torch.Tensor:
        if torch.get_num_threads() > 1:
            return torch.nn.functional.linear(input, weight, bias)
        product = torch.empty(*input.shape[:-1], len(weight))
        rows = input.reshape(-1, input.shape[-1])  # (R, in)
        np.matmul(rows.numpy(), weight.numpy().T, out=product.view(-1, len(weight)).numpy())
        return product if bias is None else product.add_(bias)


@dataclass(frozen=True)
class _Quantised:
    """A weight (out, in) as packed int8 times `steps`, (out,); `sums`: of each of its rows, as they are quantised."""

    packed: torch.Tensor
    steps: torch.Tensor
    zeros: torch.Tensor
    sums: torch.Tensor


class Int8Linears(_Linears):
    """Linear layers in int8: weights per output channel once, activations per row on the fly.

    A row is quantised by its own range alone, so that a picture's vector does not depend on what else is in its batch;
    and from its lowest to its highest number, since GELU and its like leave next to nothing below zero.
    """

    def __init__(self) -> None:
        """Nothing is quantised before it is used."""
        super().__init__()
        self._quantised: dict[torch.Tensor, _Quantised] = {}

    def _product(self, input: torch.Tensor, weight: torch.nn.Parameter, bias: torch.Tensor | None) -> torch.Tensor:
        known = self._quantised.get(weight)
        if known is None:
            known = self._quantised[weight] = _quantise(weight)
        rows = input.reshape(-1, input.shape[-1])  # (R, in)
        # aminmax() gives both, and takes twenty times as long: it goes number by number
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        step = ((high - low) / _LARGEST_ACTIVATION).clamp_min_(_TINY)
        whole = (rows - low).div_(step).round_().to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 0, known.packed, known.steps, known.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        # rows are low + step * whole, and so are their products
        product.mul_(step).addr_(low[:, 0], known.sums)
        if bias is not None:
            product.add_(bias)
        return product.reshape(*input.shape[:-1], -1)


def _quantise(weight: torch.Tensor) -> _Quantised:
    steps = (weight.abs().amax(1) / _LARGEST_WEIGHT).clamp_min_(_TINY)
    whole = (weight / steps[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole, [_ROWS, weight.shape[1]])
    return _Quantised(packed, steps, torch.zeros(len(steps), dtype=torch.int64), whole.sum(1) * steps)


def best_linears(
    dtype: torch.dtype = torch.float32, cpuinfo: Path = Path("/proc/cpuinfo")
) -> Callable[[], PackedLinears | OpenBlasLinears] | None:
    """What does products of a type best on this processor, with this torch and this numpy; None: torch as it is.

    The answer depends on the machine alone, never on a timing.
    """
    if dtype == torch.bfloat16:
        packed = functools.partial(PackedLinears, dtype)
        return packed if multiplies_bf16() and _works(packed, 0.0, dtype) else None
    if dtype != torch.float32 or not _is_amd(cpuinfo):
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return PackedLinears if _works(PackedLinears, 0.0) else None
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    return OpenBlasLinears if capability == "AVX2" and "openblas" in blas else None


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bf16, as AMX and AVX512-BF16 are.

    With them bf16 is up to twice as fast as fp32, or more; without them several times slower.
    """
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 cannot tell
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def can_int8() -> bool:
    """Whether this build of torch has the operators of Int8Linears."""
    return _works(Int8Linears, 0.01)


def _is_amd(cpuinfo: Path) -> bool:
    try:
        return "AuthenticAMD" in cpuinfo.read_text()
    except OSError:
        return False


def _works(linears: Callable[[], _Linears], tolerance: float, dtype: torch.dtype = torch.float32) -> bool:
    """Whether operators that are not promised in every build of torch are there, and right to within a tolerance."""
    weight = torch.nn.Parameter((torch.arange(12.0).reshape(3, 4) / 11).to(dtype), requires_grad=False)
    try:
        with torch.inference_mode(), linears():
            product = torch.nn.functional.linear(torch.eye(4, dtype=dtype), weight)
            return torch.allclose(product, weight.T, rtol=0.0, atol=tolerance)
    except (AttributeError, RuntimeError):
        return False
