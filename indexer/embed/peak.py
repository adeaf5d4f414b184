"""What a machine can do at best, and what a model asks of it: the two sides of a share of peak."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.flop_counter import FlopCounterMode

from .devices import DTYPES, kernels
from .loading import input_shape, outline

# large enough to keep a device busy, and done within a second or two on the slowest
_SIDES = {"cuda": 8192, "mps": 4096, "cpu": 1024}


def product_rate(device: str, precision: str, seconds: float) -> float:
    """Operations a second (two a multiply-accumulate) of large square matrix products on this machine, the best seen.

    They are computed as the linear layers of a model of this precision are, in a thread of their own as there: the
    helper threads of an older one may have to share a core. seconds: to go on for.
    """
    with ThreadPoolExecutor(1, "products") as thread:
        return thread.submit(_product_rate, device, precision, seconds).result()


def _product_rate(device: str, precision: str, seconds: float) -> float:
    where, dtype = torch.device(device), DTYPES[precision]
    side = _SIDES[where.type]
    weight = torch.nn.Parameter(torch.randn(side, side).to(where, dtype), requires_grad=False)
    rows = torch.randn(side, side).to(where, dtype)
    best, started = float("inf"), time.perf_counter()
    with torch.inference_mode(), kernels(where, precision):
        torch.nn.functional.linear(rows, weight)  # lays the weights out
        while best == float("inf") or time.perf_counter() - started < seconds:
            _wait(where)
            begun = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            _wait(where)
            best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def operations(source: str) -> float:
    """Operations (two a multiply-accumulate) of one picture's way through a model; source: as for load_embedder().

    Those of its matrix products, convolutions and attention, counted without computing anything.
    """
    model = outline(source)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        picture = torch.empty(1, *input_shape(model), device="meta")
        model.forward_head(model.forward_features(picture))
    return float(counter.get_total_flops())


def device_name(device: str) -> str | None:
    """What the maker calls a GPU; None for what is no CUDA device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
