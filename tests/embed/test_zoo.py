"""The sixteen models of the card against timm itself, on the meta device: no weights are needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from indexer.embed.zoo import DEFAULT_MODEL, ZOO, KnownModel


@cache
def laid_out(architecture: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(architecture).eval()


@cache
def multiplications(architecture: str, side: int) -> float:
    """10^9 multiply-accumulates of one picture."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        laid_out(architecture)(torch.empty(1, 3, side, side, device="meta"))
    return float(counter.get_total_flops()) / 2e9


@pytest.mark.parametrize("known", ZOO, ids=lambda known: known.name)
def test_timm_says_the_same(known: KnownModel) -> None:
    architecture = known.name.split(".")[0]
    model, config = laid_out(architecture), timm.get_pretrained_cfg(known.name)
    assert known.name in timm.list_pretrained()
    assert config.hf_hub_id == "timm/" or config.hf_hub_id == f"timm/{known.name}"
    assert config.input_size == (3, known.input_size, known.input_size)
    assert config.num_classes == 1000
    assert known.dim == model.num_features
    assert known.parameters == round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2)
    assert known.gmacs == pytest.approx(multiplications(architecture, known.input_size), rel=0.01)


def test_there_are_sixteen_best_first() -> None:
    assert len({known.name for known in ZOO}) == 16
    assert [known.top1 for known in ZOO] == sorted((known.top1 for known in ZOO), reverse=True)
    assert all(0 < known.top1 < known.top5 < 100 for known in ZOO)


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_MODEL in {known.name for known in ZOO}
