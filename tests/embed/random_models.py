"""Model folders as timm writes them, with seeded weights under which every part of a model counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf


def save_model(architecture: str, folder: Path, seed: int = 0, **arguments: Any) -> Path:
    """config.json and model.safetensors of an architecture with random weights."""
    with torch.device("meta"):
        model = timm.create_model(architecture, **arguments)
    folder.mkdir(parents=True, exist_ok=True)
    save_config_for_hf(model, folder / "config.json")
    save_file(random_weights(model, seed), folder / "model.safetensors")
    return folder


def random_weights(model: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of unit gain.

    timm's own start is so small that attention is all but uniform and every class has 0.1 %: a lost rotary position
    or a swapped bias would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, tensor, generator) for name, tensor in model.state_dict().items()}


def _random(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not like.is_floating_point():  # how many batches a normalisation has seen
        return torch.zeros(like.shape, dtype=like.dtype)
    numbers: torch.Tensor = torch.randn(like.shape, generator=generator)
    if like.ndim == 2:  # linear: (out, in)
        return numbers / math.sqrt(like[0].numel())
    if like.ndim == 4:  # convolution: (out, in, height, width), with the gain that ReLU takes away
        return numbers * math.sqrt(2 / like[0].numel())
    return numbers * 0.1 + (1 if name.endswith(("weight", "running_var")) else 0)
