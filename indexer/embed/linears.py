"""Matrix products on AMD CPUs with AVX-512, where torch leaves half of the machine idle.

torch gives fp32 products to MKL, which keeps to 256 bits on processors that are not Intel's; oneDNN, which torch has
too and uses for bf16, does not. Measured on two Zen 5 cores: 210 GFLOP/s against 470. `benchmarks/build.py` measures
the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# oneDNN lays the weights out for about so many rows; any number of rows gives the right result
_ROWS = 1024


class PackedLinears(TorchFunctionMode):
    """Within it, every linear layer in fp32 runs on oneDNN, its weights laid out for that once."""

    def __init__(self) -> None:
        """Nothing is packed before it is used."""
        super().__init__()
        self._packed: dict[torch.Tensor, torch.Tensor] = {}  # tensors hash by identity, and this keeps them alive

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
        if not isinstance(weight, torch.nn.Parameter) or input.dtype != torch.float32 or not input.numel():
            return torch.nn.functional.linear(input, weight, bias)
        packed = self._packed.get(weight)
        if packed is None:
            packed = self._packed[weight] = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
        return product


def worth_packing(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is such a processor, and such a torch.

    The answer depends on the machine alone, never on a timing: vectors of one machine agree to the last bit.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        if "AuthenticAMD" not in cpuinfo.read_text():
            return False
        weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4), requires_grad=False)
        # neither these operators nor oneDNN itself are promised in every build of torch
        with torch.inference_mode(), PackedLinears():
            return torch.equal(torch.nn.functional.linear(torch.eye(4), weight), weight.T)
    except (OSError, AttributeError, RuntimeError):
        return False
