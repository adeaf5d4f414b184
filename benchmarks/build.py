"""How fast `build` is, next to what the hardware and the model card's own code do. Prints one table.

    python -m benchmarks.build [--images FOLDER] [--pictures 64] [--files 10000]

EVA-L has random weights here (its speed does not depend on them). All figures come from one run, so that a noisy
machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODEL = "eva_large_patch14_196.in22k_ft_in22k_in1k"
ROOT = Path(__file__).parents[1]
BATCHES = (1, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of real JPEGs")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["embedding", "starting"], help="one half of it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = collect(args.images, folder / "pictures", args.pictures)
        if args.only != "starting":
            embedding(pictures, save_eva_l(folder / "eva-l"), folder, args.rounds)
        if args.only != "embedding":
            starting(folder, args.files)


def collect(source: Path, target: Path, count: int) -> Path:
    """So many different JPEGs: the originals, and again without some columns where there are too few."""
    target.mkdir()
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number in range(count):
        original, turn = originals[number % len(originals)], number // len(originals)
        out = target / f"{number:04}.jpg"
        if turn == 0:
            shutil.copy(original, out)
        else:
            with Image.open(original) as image:
                image.convert("RGB").crop((0, 0, image.width - turn, image.height)).save(out, quality=90)
    return target


def save_eva_l(folder: Path) -> Path:
    """EVA-L with random weights, as a folder that timm reads."""
    import timm
    import torch
    from timm.models._hub import save_for_hf

    torch.manual_seed(0)
    save_for_hf(timm.create_model(MODEL), folder, safe_serialization=True)
    return folder


def embedding(pictures: Path, model: Path, folder: Path, rounds: int) -> None:
    """End to end, the embedder alone, timm's bare forward and the card's loop, in turns."""
    import timm
    import torch

    from indexer import Catalog, load_embedder
    from indexer.preprocess import fit_array

    started = time.perf_counter()
    embedder = load_embedder(str(model))
    report("EVA-L loaded from a local folder, timm imported before", time.perf_counter() - started, "s")
    files = sorted(pictures.iterdir())
    net = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)

    @torch.inference_mode()
    def forward(batch: int) -> None:
        pixels = torch.randn(batch, 3, 196, 196)
        for _ in range(max(16 // batch, 1)):
            net(pixels)

    @torch.inference_mode()
    def card() -> None:
        for path in files:
            with Image.open(path) as image:
                net(transform(image.convert("RGB")).unsqueeze(0))

    fitted = np.stack([fit_array(np.asarray(Image.open(path).convert("RGB")), embedder.preprocess) for path in files])

    def ours() -> None:
        catalog_folder = folder / "catalog"
        shutil.rmtree(catalog_folder, ignore_errors=True)
        with Catalog.create(catalog_folder, loader=lambda _: embedder) as catalog:
            assert catalog.build([pictures]).embedded == len(files)

    forward(8)
    ours()
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            rates.setdefault(f"forward {batch}", []).append(max(16, batch) / timed(functools.partial(forward, batch)))
        rates.setdefault("embedder", []).append(len(files) / timed(functools.partial(embedder.forward, fitted)))
        rates.setdefault("build", []).append(len(files) / timed(ours))
        rates.setdefault("card", []).append(len(files) / timed(card))
    best = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in best.items():
        report(f"{name} (EVA-L, {len(files)} JPEGs)", value, "pictures/s")
    bare = max(value for name, value in best.items() if name.startswith("forward"))
    report("build over the embedder alone (goal 0.95)", best["build"] / best["embedder"], "x")
    report("build over the bare forward's best batch (goal 0.95)", best["build"] / bare, "x")
    report("build over the model card's loop (goal 1.4)", best["build"] / best["card"], "x")


def starting(folder: Path, count: int) -> None:
    """Whole processes on a catalog of many small files, with the tiny model; and memory for a tenth and for all."""
    files = folder / "files"
    peaks = {}
    for total in (count // 10, count):
        write_small(files, total)
        command = ["build", str(files), "--model", str(ROOT / "data" / "eva-tiny"), "--json"]
        shutil.rmtree(folder / ".indexer", ignore_errors=True)
        built, peaks[total] = json.loads(run(folder, *command)[0]), peak_of(folder, command)
        report(f"build of {total:,} files, tiny model", built["images_per_second"], "pictures/s")
    time.sleep(2.5)  # files younger than two seconds are read again
    run(folder, "build")
    report(f"build that finds nothing new among {count:,} files (goal 1.0)", process(folder, "build"), "s")
    indexed = str(files / "000" / "00042.jpg")
    report(f"query of an indexed picture among {count:,} (goal 0.5)", process(folder, "query", indexed), "s")
    for total, peak in peaks.items():
        report(f"peak memory of building {total:,}", peak, "MB")


def write_small(folder: Path, total: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(total):
        path = folder / f"{number // 1000:03}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((96, 72)).save(path, quality=80)


def run(folder: Path, *words: str) -> tuple[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "indexer", *words], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode(), time.perf_counter() - started


def process(folder: Path, *words: str) -> float:
    return statistics.median(run(folder, *words)[1] for _ in range(5))


def peak_of(folder: Path, command: list[str]) -> float:
    """Megabytes of the largest moment of a build from nothing, in a process of its own."""
    shutil.rmtree(folder / ".indexer", ignore_errors=True)
    script = (
        "import sys, runpy\nsys.argv[1:] = " + repr(command) + "\n"
        "try:\n    runpy.run_module('indexer', run_name='__main__')\n"
        # not ru_maxrss: that of a child begins with its parent's
        "except SystemExit:\n    print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True, text=True)
    return int(done.stderr.split()[-1]) / 1024


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def report(what: str, value: float, unit: str) -> None:
    print(f"{what:<70}{value:10.3f} {unit}", flush=True)


if __name__ == "__main__":
    main()
