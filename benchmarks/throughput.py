"""Pictures a second, from JPEG files to vectors, by four ways in one run on the same pictures and weights. One table.

    python -m benchmarks.throughput [--images FOLDER] [--pictures 48] [--device cpu] [--precisions fp32,int8]

card: the model card's own code, one picture at a time. script: timm and a DataLoader, as one would write it.
imagededup: that package, with the same model, where it is installed. build: an empty catalog, every vector committed;
below it the model's share of that. EVA-L has random weights here, unless --model says otherwise: its speed does not
depend on them.

Then a long build with the tiny model (--long pictures; 0 leaves it out): pictures/s of its last tenth over its first,
and how much its memory has grown between them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexer import Catalog, Progress, load_embedder
from indexer.embed.agreement import agreement
from indexer.preprocess import fit_array

from .build import ROOT, collect, save_eva_l, timed

SCRIPT_BATCH = 32
Ways = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of real JPEGs")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--model", type=Path, help="a folder with a model; default: EVA-L with random weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--precisions", default="fp32", help="of build, the first of them is the reference")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--long", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = collect(args.images, folder / "pictures", args.pictures)
        model = args.model or save_eva_l(folder / "eva-l")
        ways, vectors = ours(pictures, model, args.device, args.precisions.split(","), folder)
        ways = {**others(pictures, model, args.device), **ways}
        compare(ways, args.pictures, args.rounds, hardware(args.device))
        for name, found in list(vectors.items())[1:]:
            report = agreement(found, vectors[next(iter(vectors))])
            print(
                f"{name}: cosine {report.mean_cosine:.4f} on average, {report.lowest_cosine:.4f} at least; "
                f"same first neighbour {report.same_first:.1%}"
            )
        if args.long:
            watch(args.images, args.long, args.device, folder)


def compare(ways: Ways, pictures: int, rounds: int, machine: str) -> None:
    """Time every way in turns, and print a line each.

    Processor seconds count child processes too; unlike pictures/s they hardly change when others use the machine.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before = processor_seconds()
            rates[name].append(pictures / timed(way))
            costs[name].append((processor_seconds() - before) / pictures)
    card = statistics.median(rates["card"])
    print(f"{machine}; {pictures} JPEGs, median of {rounds}", flush=True)
    print("| way | pictures/s | over the card's loop | processor s a picture |\n| --- | --- | --- | --- |")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"| {name} | {rate:.2f} | {rate / card:.2f} x | {statistics.median(costs[name]):.2f} |", flush=True)


def processor_seconds() -> float:
    """Of this process, and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def others(pictures: Path, model: Path, device: str) -> Ways:
    """What people do without indexer."""
    import timm
    import torch
    from torch.utils.data import DataLoader, Dataset

    net = timm.create_model(f"local-dir:{model}", pretrained=True, num_classes=0).eval().to(device)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    files = sorted(pictures.iterdir())
    # the same arithmetic as build has on such a device
    half = torch.autocast("cuda", torch.bfloat16) if device.startswith("cuda") else contextlib.nullcontext()

    class Pictures(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(files[index]) as image:
                tensor: torch.Tensor = transform(image.convert("RGB"))
            return tensor

    @torch.inference_mode()
    def card() -> None:
        for path in files:
            with Image.open(path) as image, half:
                net(transform(image.convert("RGB")).unsqueeze(0).to(device)).cpu()

    @torch.inference_mode()
    def script() -> None:
        loader = DataLoader(Pictures(), batch_size=SCRIPT_BATCH, num_workers=os.cpu_count() or 1)
        with half:
            torch.cat([net(batch.to(device)).cpu() for batch in loader])

    with torch.inference_mode(), half, Image.open(files[0]) as image:  # what is made on first use is there then
        net(transform(image.convert("RGB")).unsqueeze(0).to(device))
    ways: Ways = {"card": card, f"script (timm, DataLoader, batches of {SCRIPT_BATCH})": script}
    if find_spec("imagededup") is None:
        print("imagededup is not installed: left out")
    else:
        ways["imagededup"] = imagededup(pictures, net, transform, half)
    return ways


def imagededup(pictures: Path, net: Any, transform: Any, half: Any) -> Callable[[], Any]:
    """The package's own loop; it chooses the device itself."""
    from imagededup.methods import CNN
    from imagededup.utils import CustomModel

    encoder = CNN(verbose=False, model_config=CustomModel("eva", net, transform))

    def encode() -> None:
        with half:
            encoder.encode_images(pictures, num_enc_workers=os.cpu_count() or 1)

    return encode


def ours(
    pictures: Path, model: Path, device: str, precisions: list[str], folder: Path
) -> tuple[Ways, dict[str, np.ndarray[Any, Any]]]:
    """build by precision, and the vectors that each gives."""
    ways: Ways = {}
    vectors: dict[str, np.ndarray[Any, Any]] = {}
    for precision in precisions:
        embedder = load_embedder(str(model), device=device, precision=precision)
        images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(pictures.iterdir())]
        fitted = np.stack([fit_array(image, embedder.preprocess) for image in images])
        embedder.forward(fitted[:1])  # what is made on first use is there then

        def build(precision: str = precision, embedder: Any = embedder) -> None:
            shutil.rmtree(folder / precision, ignore_errors=True)
            with Catalog.create(folder / precision, loader=lambda _: embedder) as catalog:
                catalog.build([pictures])
                catalog.export(folder / f"{precision}.npy")
            vectors[f"build, {precision}"] = np.load(folder / f"{precision}.npy")

        ways[f"build, {precision}"] = build
        ways[f"its model alone, {precision}"] = functools.partial(embedder.forward, fitted)
    return ways, vectors


def watch(images: Path, count: int, device: str, folder: Path) -> None:
    """A long build, its last tenth against its first."""
    pictures = collect(images, folder / "many", count)
    embedder = load_embedder(str(ROOT / "data" / "eva-tiny"), device=device)
    seen: list[tuple[float, int, int]] = []

    def note(progress: Progress) -> None:
        if progress.stage == "embed":
            seen.append((time.perf_counter(), progress.done, resident()))

    with Catalog.create(folder / "long", loader=lambda _: embedder) as catalog:
        catalog.build([pictures], progress=note)
    tenth = count // 10
    # what starts up is no part of it
    seen = [moment for moment in seen if moment[1] >= tenth // 2]

    def rate(low: int, high: int) -> float:
        within = [moment for moment in seen if low <= moment[1] <= high]
        return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])

    start, end = seen[0][1], seen[-1][1]
    first, last = rate(start, start + tenth), rate(end - tenth, end)
    grown = (seen[-1][2] - seen[0][2]) / 1e6
    print(
        f"{count:,} pictures with the tiny model: {first:.1f} pictures/s in the first tenth, {last:.1f} in the last "
        f"({last / first:.2f} x); memory grew by {grown:.0f} MB"
    )


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def hardware(device: str) -> str:
    """One line."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    threads = torch.get_num_threads()
    return f"{threads} threads on {os.cpu_count()} cores of {name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
