"""Layers that a GPU does in one go where torch would take several kernels, or a slow one: for half precision.

Measured for EVA-L in bf16 on an H200 by `benchmarks.gpu`, see README.
"""

from __future__ import annotations

import math

import torch
from timm.layers import Mlp
from torch import nn

# half-precision products are quick where rows are a multiple of so many numbers
_ALIGNED = 8


def fuse(model: nn.Module) -> None:
    """Put the layers below in the place of those that they equal, in half precision; whatever else stays."""
    for module in list(model.modules()):
        if type(module) is Mlp and _can_be_joined(module):
            module.fc1, module.act = LinearGelu(module.fc1), nn.Identity()  # type: ignore[arg-type]
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and _cuts_patches(child):
                setattr(module, name, PatchLinear(child))


def _can_be_joined(mlp: nn.Module) -> bool:
    return isinstance(mlp.act, nn.GELU) and isinstance(mlp.fc1, nn.Linear) and mlp.fc1.bias is not None


def _cuts_patches(conv: nn.Conv2d) -> bool:
    """Whether every number of its input goes into one place of its output, as in the first layer of a ViT."""
    whole = conv.kernel_size == conv.stride and conv.padding == (0, 0) and conv.dilation == (1, 1)
    return whole and conv.groups == 1 and math.prod(conv.kernel_size) > 1


class LinearGelu(nn.Module):
    """A linear layer and the GELU behind it, which is done before its results are written.

    On CUDA it is GELU's approximation by tanh, which differs by less than bfloat16 rounds.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Takes the layer's parameters over."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        joined: torch.Tensor = _linear_gelu(rows, self.weight, self.bias)
        return joined


# an operator of its own, since torch.compile would take torch's apart again
@torch.library.custom_op("indexer::linear_gelu", mutates_args=())
def _linear_gelu(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    flat = rows.reshape(-1, rows.shape[-1])
    return torch._addmm_activation(bias, flat, weight.t(), use_gelu=True).view(*rows.shape[:-1], len(weight))


@_linear_gelu.register_fake
def _(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(*rows.shape[:-1], len(weight))


class PatchLinear(nn.Module):
    """A convolution whose patches do not overlap, as one matrix product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Takes the layer's numbers over, each filter filled up with zeros to a length that is quick."""
        super().__init__()
        self.kernel_size = conv.kernel_size  # by this name, since DaViT pads its input to a multiple of it
        flat = conv.weight.flatten(1)  # (out, channels * height * width)
        self.spare = -flat.shape[1] % _ALIGNED
        self.weight = nn.Parameter(nn.functional.pad(flat, (0, self.spare)), requires_grad=False)
        self.bias = conv.bias

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> (N, out, H / patch, W / patch)."""
        count, channels, height, width = pictures.shape
        tall, wide = self.kernel_size
        down, across = height // tall, width // wide
        cut = pictures[:, :, : down * tall, : across * wide].reshape(count, channels, down, tall, across, wide)
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (N, down, across, channels * tall * wide)
        padded = nn.functional.pad(patches, (0, self.spare))
        return nn.functional.linear(padded, self.weight, self.bias).permute(0, 3, 1, 2)
