"""What a GPU does with EVA-L: the model alone, JPEG to committed vector, all pairs, inverted lists. Prints a table.

    python -m benchmarks.gpu [--images FOLDER] [--files 20000] [--batch 256] [--rows 1000000] [--only PART]

The model has random weights, unless --model names a folder: its speed does not depend on them. Pictures are real, and
repeated where there are too few. Rates are medians of batches that lie on the device already; cosines are to fp32 on
the same device. fp8 is measured here and offered nowhere: it gains too little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from indexer import Catalog, Progress, load_embedder
from indexer.embed import peak
from indexer.embed.agreement import agreement
from indexer.embed.eva import TimmEmbedder
from indexer.halves import unit
from indexer.neighbours import nominator
from indexer.neighbours.choosing import SAMPLE
from indexer.neighbours.index import ROWS
from indexer.neighbours.pairs import fastest, pairs_above
from indexer.neighbours.threads import threads
from indexer.preprocess import Pixels, fit_array

from .build import ROOT, report, save_eva_l
from .supply import by_thread

Outputs = Any
Forward = Callable[[torch.Tensor], Outputs]
PARTS = ("model", "ways", "demo", "build", "pairs", "lists")
SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of pictures")
    parser.add_argument("--model", type=Path, help="a folder with a model; default: EVA-L with random weights")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--files", type=int, default=20_000, help="that are built")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="of the vectors that are compared, or placed in lists"
    )
    parser.add_argument("--lists", type=int, default=16_384, help="as many as 10 million vectors get")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    args = parser.parse_args()
    print(peak.device_name(args.device) or args.device, torch.__version__, timm.__version__, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = str(args.model or save_eva_l(folder / "eva-l"))
        alone = streamed(model, args) if "model" in args.only else None
        if "ways" in args.only:
            ways(model, args)
        if "demo" in args.only:
            demo(args)
        if "build" in args.only:
            end_to_end(model, args, folder, alone)
        if "pairs" in args.only:
            all_pairs(args.rows)
        if "lists" in args.only:
            in_lists(args.rows, args.lists)


def streamed(model: str, args: argparse.Namespace) -> float:
    """Batches through the pipeline, which copies them to the device and the results back."""
    embedder = load(model, args)
    fitted = pictures(args.images, args.batch, embedder)
    found: list[float] = []
    batches = (fitted for _ in range(5 + int(8000 / len(fitted))))
    for result in embedder.stream(batches):
        assert result
        found.append(time.perf_counter())
    settled = found[3:]  # those before recorded and timed the model
    rate = len(fitted) * (len(settled) - 1) / (settled[-1] - settled[0])
    report("bf16, layers joined, recorded, through the pipeline", rate, "pictures/s")
    return rate


def ways(model: str, args: argparse.Namespace) -> None:
    """The model alone by several ways, as a share of what matrix products reach."""
    rate = peak.product_rate(args.device, "bf16", SECONDS)
    operations = peak.operations(model)
    report("matrix products of 8,192 in bf16", rate / 1e12, "TFLOP/s")
    report("pictures that they would come to", rate / operations, "pictures/s")
    reference = load(model, args, "fp32")
    fitted = pictures(args.images, args.batch, reference)
    wanted = reference.forward(fitted).vectors
    pixels = torch.from_numpy(fitted).to(args.device)
    del reference

    def show(name: str, forward: Forward) -> float:
        with torch.inference_mode():
            begun = time.perf_counter()
            vectors = forward(pixels)[0].float().cpu().numpy()
            first = time.perf_counter() - begun
            found = len(pixels) / seconds_of(lambda: forward(pixels), args.device)
        cosines = (vectors * wanted).sum(axis=1)
        report(name, found, "pictures/s")
        report(f"    share of those products; first batch {first:.1f} s", found * operations / rate, "")
        print(f"    cosine to fp32: {cosines.mean():.5f} on average, {cosines.min():.5f} at least", flush=True)
        return found

    show("bf16 as timm has it", as_timm_has_it(model, args)._outputs)
    ours = load(model, args)
    show("bf16, layers joined", ours._outputs)
    show("bf16, layers joined, compiled", compiled(ours))
    for name, kind in (("a scale for every row", Fp8Linear), ("one fixed scale", FixedFp8Linear)):
        eighth = as_timm_has_it(model, args)
        replace_linears(eighth._model, kind)
        show(f"fp8, {name}, compiled", compiled(eighth))
        del eighth


def demo(args: argparse.Namespace) -> None:
    """What precision costs in agreement, on a model that has learned something."""
    model = str(ROOT / "data" / "eva-tiny")
    reference = load(model, args, "fp32")
    fitted = pictures(args.images, min(2000, count(args.images)), reference)
    wanted = vectors_of(reference, fitted)
    eighth = as_timm_has_it(model, args)
    replace_linears(eighth._model, Fp8Linear)
    for name, embedder in (("bf16", load(model, args)), ("fp8", eighth)):
        found = agreement(vectors_of(embedder, fitted), wanted)
        print(
            f"{name} of {len(fitted):,} pictures, demo model: cosine to fp32 {found.mean_cosine:.5f} on average, "
            f"{found.lowest_cosine:.5f} at least; same first neighbour {found.same_first:.1%}",
            flush=True,
        )


def end_to_end(model: str, args: argparse.Namespace, folder: Path, alone: float | None) -> None:
    """A build of many files, from when a fifth of it is done."""
    embedder = load(model, args)
    many = spread(args.images, folder / "many", args.files)
    seen: list[tuple[float, int, dict[str, float]]] = []

    def note(progress: Progress) -> None:
        if progress.stage == "embed":
            seen.append((time.perf_counter(), progress.embedded, by_thread()))

    with Catalog.create(folder / "catalog", loader=lambda _: embedder) as catalog:
        built = catalog.build([many], progress=note)
    begun, before, costs = next(moment for moment in seen if moment[1] >= built.embedded // 5)
    ended, after, costs_then = seen[-1]
    rate = (after - before) / (ended - begun)
    report(f"build of {built.embedded:,} JPEGs, vectors committed", rate, "pictures/s")
    for thread, seconds in costs_then.items():
        if (spent := 1e6 * (seconds - costs.get(thread, 0.0)) / (after - before)) >= 1:
            report(f"    its thread {thread}, of one core", spent, "us a picture")
    if alone:
        report("    over the model alone (goal 0.90)", rate / alone, "x")


def all_pairs(rows: int) -> None:
    """Exactly all that are alike, as `duplicates` looks for them."""
    made = clustered(rows, 1024)
    multiplier = fastest(rows)
    started = time.perf_counter()
    found = pairs_above(made, 0.9, 16, multiplier=multiplier)
    seconds = time.perf_counter() - started
    report(f"all pairs of {rows:,} x 1,024 ({type(multiplier).__name__}), {len(found.left):,} found", seconds, "s")


def in_lists(rows: int, lists: int) -> None:
    """What GPUs save where lists are learned and rows are placed, and whether the CPU would put rows where they do."""
    import faiss

    if not faiss.get_num_gpus():
        print("faiss sees no GPU", flush=True)
        return
    made = unit(clustered(max(rows, SAMPLE * lists), 1024))
    trained, placed = {}, {}
    for where, gpus in (("GPU", faiss.get_num_gpus()), ("CPU", 0)):
        with patch.object(faiss, "get_num_gpus", lambda gpus=gpus: gpus), threads():
            trained[where] = structure = nominator.make(f"PCAR128,IVF{lists},PQ128x4fsr", 1024)
            structure.project(made[: SAMPLE * lists])
            started = time.perf_counter()
            structure.train(made[: SAMPLE * lists])
            report(f"{lists:,} lists learned on the {where}", time.perf_counter() - started, "s")
            report("    mean similarity of a vector to its centre", structure.fit(made[:10_000]), "")
            structure = nominator.Nominator(faiss.clone_index(trained["GPU"].index))
            started = time.perf_counter()
            with structure.adding() as add:
                for start in range(0, rows, ROWS):
                    add(made[start : start + ROWS])
            report(f"{rows:,} rows placed on the {where}", time.perf_counter() - started, "s")
            placed[where] = lists_of(structure.index, rows)
    report("rows that both put into the same list", 100 * float((placed["GPU"] == placed["CPU"]).mean()), "%")


def lists_of(index: Any, rows: int) -> np.ndarray[Any, Any]:
    """The list of every row."""
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)
    lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
    found = np.full(rows, -1)
    for number in range(lists.nlist):
        if size := lists.list_size(number):
            found[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
    return found


# -- ways --------------------------------------------------------------------------------------------------------------


def load(model: str, args: argparse.Namespace, precision: str = "bf16") -> TimmEmbedder:
    embedder = load_embedder(model, device=args.device, precision=precision, batch_size=args.batch)
    assert isinstance(embedder, TimmEmbedder)
    return embedder


def as_timm_has_it(model: str, args: argparse.Namespace) -> TimmEmbedder:
    """The same around the model as timm makes it."""
    embedder = load(model, args)
    plain = timm.create_model(f"local-dir:{model}", pretrained=True).eval().requires_grad_(False)
    embedder._model = plain.to(args.device, torch.bfloat16)
    return embedder


def compiled(embedder: TimmEmbedder) -> Forward:
    torch._dynamo.reset()
    return torch.compile(embedder._outputs, dynamic=False)


LARGEST = 448.0  # of float8_e4m3fn


class Fp8Linear(nn.Module):
    """Products of eight-bit floats: a scale for every output, and one for every row of input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias, weight = linear.bias, linear.weight.float()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST
        self.kept = (weight / scale).to(torch.float8_e4m3fn)
        self.scale = scale.t().contiguous()

    def scale_of(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, input.shape[-1]).float()
        scale = self.scale_of(rows)
        eighths = (rows / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        product = torch._scaled_mm(
            eighths,
            self.kept.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return product.view(*input.shape[:-1], -1)


class FixedFp8Linear(Fp8Linear):
    """The same with scales that are known before: what fp8 gains at best, were they measured on some pictures first."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.float()
        self.scale = weight.abs().max() / LARGEST
        self.kept = (weight / self.scale).to(torch.float8_e4m3fn)
        self.fixed = torch.tensor(1 / 16, device=weight.device)

    def scale_of(self, rows: torch.Tensor) -> torch.Tensor:
        return self.fixed


def replace_linears(model: nn.Module, kind: type[Fp8Linear]) -> None:
    """Those of the blocks that eight bits can be multiplied for, and whose weights nobody else looks at."""
    for block in model.blocks:  # type: ignore[union-attr]
        for module in list(block.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and not (child.in_features % 16 or child.out_features % 16):
                    separate = name == "qkv" and getattr(module, "q_bias", None) is not None  # EVA-02 joins the biases
                    if not separate:
                        setattr(module, name, kind(child))


# -- what they need ----------------------------------------------------------------------------------------------------


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """One call of many, the median."""
    times: list[float] = []
    while len(times) < 8 or sum(times) < SECONDS:
        started = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def originals(images: Path) -> list[Path]:
    return sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def count(images: Path) -> int:
    return len(originals(images))


def pictures(images: Path, many: int, embedder: TimmEmbedder) -> Pixels:
    """So many as the model takes them, again from the first where there are too few."""
    fitted = []
    for path in originals(images)[:many]:
        with Image.open(path) as image:
            fitted.append(fit_array(np.asarray(image.convert("RGB")), embedder.preprocess))
    return np.resize(np.stack(fitted), (many, *fitted[0].shape))


def spread(images: Path, target: Path, many: int) -> Path:
    """So many files of different bytes: the originals, and again with a few bytes behind their end."""
    target.mkdir()
    found = originals(images)
    for number in range(many):
        turn, which = divmod(number, len(found))
        (target / f"{number:07}.jpg").write_bytes(found[which].read_bytes() + b"\0" * turn)
    return target


def vectors_of(embedder: TimmEmbedder, fitted: Pixels) -> np.ndarray[Any, Any]:
    step = embedder.batch_size
    return np.concatenate([embedder.forward(fitted[at : at + step]).vectors for at in range(0, len(fitted), step)])


def clustered(rows: int, dim: int) -> np.ndarray[Any, Any]:
    """Unit rows as float16, made where products are quick; every thousandth is as the one before."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chance = torch.Generator(device).manual_seed(0)
    centres = torch.randn(20_000, dim, generator=chance, device=device)
    made = np.empty((rows, dim), np.float16)

    def parts() -> Iterator[tuple[int, int]]:
        for start in range(0, rows, 50_000):
            yield start, min(start + 50_000, rows)

    for start, end in parts():
        of = torch.randint(0, len(centres), (end - start,), generator=chance, device=device)
        part = centres[of] + torch.randn(end - start, dim, generator=chance, device=device)
        made[start:end] = nn.functional.normalize(part).half().cpu().numpy()
    made[7::1000] = made[6::1000][: len(made[7::1000])]
    return made


if __name__ == "__main__":
    main()
