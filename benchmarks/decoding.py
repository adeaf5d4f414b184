"""How fast JPEGs are decoded and prepared on one core, by what, and what that does to the vectors. Prints a table.

    python -m benchmarks.decoding [--images FOLDER] [--pictures 100] [--rounds 5]

Every way decodes the same pictures in turns; a picture's time is the shortest of its rounds, so that a noisy machine
spoils little. "Cosine" compares the tiny model's vectors of the 196 x 196 pixels of a way with those of a whole
decoding and timm's own resizing: a way under 0.999 (0.9995 on average) is not to be used. Decoders that are not
installed are passed over.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexer import load_embedder
from indexer.pictures.decode import decode
from indexer.pictures.workers import Decoders, Limits, prepare
from indexer.preprocess import Pixels, fit, fit_array
from indexer.records import Preprocess

from .build import ROOT, report

SPEC = Preprocess((196, 196))
Way = Callable[[bytes], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of real JPEGs")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    files = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    pictures = [path.read_bytes() for path in files[: args.pictures]]
    decoders, fitters = dict(decoding()), dict(fitting())
    whole: dict[str, Way] = {"decoded, fitted, fingerprint: ours": lambda d: prepare(d, "JPEG", SPEC, Limits())}
    rates = measured({**decoders, **fitters, **whole}, pictures, args.rounds)
    for name, rate in rates.items():
        report(f"{name}, one core", rate, "pictures/s")
    fastest = max(rates[name] for name in decoders)
    report("ours, decoded and fitted, over the fastest decoder alone", rates["decoded, fitted: ours"] / fastest, "x")
    for name in whole:
        report("ours, with fingerprint, over the fastest decoder alone (goal 0.85)", rates[name] / fastest, "x")
    for name, way in fitters.items():
        lowest, mean = cosines(way, pictures)
        report(f"{name}: 1 - lowest cosine (limit 0.001)", 1 - lowest, "")
        report(f"{name}: 1 - mean cosine (limit 0.0005)", 1 - mean, "")
    pipelines(pictures, args.rounds)


def measured(ways: dict[str, Way], pictures: list[bytes], rounds: int) -> dict[str, float]:
    best = {name: [np.inf] * len(pictures) for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            for i, data in enumerate(pictures):
                started = time.perf_counter()
                way(data)
                best[name][i] = min(best[name][i], time.perf_counter() - started)
    return {name: len(pictures) / sum(times) for name, times in best.items()}


def decoding() -> Iterator[tuple[str, Way]]:
    yield "decoded: Pillow", opened
    peers: tuple[tuple[str, Callable[[Any], Way]], ...] = (
        ("simplejpeg", lambda module: module.decode_jpeg),
        ("turbojpeg", lambda module: module.TurboJPEG().decode),
        ("torchvision.io", of_torchvision),
    )
    for name, make in peers:
        try:
            way = make(import_module(name))
            way(next((ROOT / "data" / "photos").glob("*.jpg")).read_bytes())
        except (ImportError, OSError, RuntimeError) as error:
            print(f"decoded: {name}: passed over ({type(error).__name__})")
            continue
        yield f"decoded: {name}", way


def of_torchvision(module: Any) -> Way:
    import torch

    torch.set_num_threads(1)

    def way(data: bytes) -> Any:
        return module.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=module.ImageReadMode.RGB)

    return way


def opened(data: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if draft:
            image.draft("RGB", draft)
        return image.convert("RGB")


def fitting() -> Iterator[tuple[str, Way]]:
    yield "decoded, fitted: ours", lambda data: fit(decode(data, "JPEG").picture, SPEC)
    yield "decoded, fitted: reference", lambda data: reference(opened(data))
    yield "decoded, fitted: Pillow with draft", lambda data: fit(opened(data, SPEC.size), SPEC)
    yield "decoded, fitted: Pillow with reducing_gap 2", lambda data: reference(opened(data), 2.0)
    yield "decoded, fitted: Pillow with reducing_gap 1", lambda data: reference(opened(data), 1.0)
    with suppress(ImportError):
        simplejpeg = import_module("simplejpeg")
        yield "decoded, fitted: simplejpeg, ours", lambda data: fit_array(simplejpeg.decode_jpeg(data), SPEC)


def reference(picture: Image.Image, gap: float | None = None) -> Pixels:
    """timm's transform for SPEC, as Pillow does it: short side to the size, then the middle."""
    side = SPEC.size[0]
    short = min(picture.size)
    to = (int(side * picture.width / short), int(side * picture.height / short))
    resized = picture.resize(to, Image.Resampling.BICUBIC, reducing_gap=gap)
    left, top = round((to[0] - side) / 2), round((to[1] - side) / 2)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def cosines(way: Way, pictures: list[bytes]) -> tuple[float, float]:
    embedder = load_embedder(str(ROOT / "data" / "eva-tiny"))
    ways: tuple[Way, Way] = (way, lambda data: reference(opened(data)))
    left, right = (embedder.embed([one(data) for data in pictures]) for one in ways)
    found = (left * right).sum(axis=1)
    return float(found.min()), float(found.mean())


def pipelines(pictures: list[bytes], rounds: int) -> None:
    """Supervised processes: one, and two, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, found in rates.items():
            with Decoders(SPEC, count) as decoders:
                for future in [decoders.submit(pictures[0], "JPEG") for _ in range(count)]:
                    future.result()
                started, waiting = time.perf_counter(), deque[Any]()
                for data in pictures * 3:
                    waiting.append(decoders.submit(data, "JPEG"))
                    if len(waiting) > 32:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
                found.append(3 * len(pictures) / (time.perf_counter() - started))
    one, two = (max(found) for found in rates.values())
    report("prepared by one supervised process", one, "pictures/s")
    report("prepared by two", two, "pictures/s")
    report("two over twice one (goal 0.90; both need a core that is free)", two / (2 * one), "x")


if __name__ == "__main__":
    main()
