"""Where a model runs, how precisely, and how many pictures at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..errors import InvalidArgument
from ..records import FLOAT, INT8, Preprocess
from .linears import Int8Linears, best_linears, can_int8

# int8 is for the products alone; what lies between them stays in fp32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, INT8: torch.float32}
BATCH_SIZES = {"cuda": 256, "mps": 32}
# on a CPU a batch gains little, and what a layer gives should stay in the caches: four pictures of 196 x 196, or fewer
# where they are larger, whose single ones are as much work
_CPU_BATCH, _CPU_PIXELS = 4, 4 * 196 * 196


def choose_device(wanted: str) -> torch.device:
    """The torch device for 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.

    Raises InvalidArgument for one that is unknown or not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device.type not in there:
        raise InvalidArgument(f"There is no device '{wanted}'. Use auto, cpu, cuda, cuda:N or mps.")
    if not there[device.type] or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise InvalidArgument(f"This machine has no {wanted} that torch can use. Leave --device out, or use cpu.")
    return device


def choose_devices(wanted: str) -> list[str]:
    """The devices that embed together: all GPUs for 'cuda', else the one that choose_device() takes."""
    device = choose_device(wanted)
    if wanted == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def choose_batch_size(device: torch.device, preprocess: Preprocess) -> int:
    """Pictures in a forward pass."""
    if device.type != "cpu":
        return BATCH_SIZES[device.type]
    height, width = preprocess.size
    return min(max(round(_CPU_PIXELS / (height * width)), 1), _CPU_BATCH)


def choose_precision(wanted: str, device: torch.device, numerics: str = FLOAT) -> str:
    """'fp32', 'bf16', 'fp16' or 'int8'; 'auto' is what the device does well and gives vectors of such numerics."""
    if wanted not in (*DTYPES, "auto"):
        raise InvalidArgument(f"There is no precision '{wanted}'. Use auto, {', '.join(DTYPES)}.")
    if wanted == INT8 or (wanted == "auto" and numerics == INT8):
        if device.type != "cpu" or not can_int8():
            raise InvalidArgument(
                f"int8 is for CPUs, with a torch that has oneDNN; not for {device} here. "
                "Use --device cpu; or, for a catalog without int8 vectors, another --precision."
            )
        return INT8
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and best_linears(torch.bfloat16) else "fp32"


def kernels(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Within what a model of this precision runs."""
    if precision == INT8:
        return Int8Linears()
    linears = best_linears(DTYPES[precision]) if device.type == "cpu" else None
    return linears() if linears else nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch, or Python, says so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
