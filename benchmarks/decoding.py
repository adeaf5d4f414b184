"""How fast JPEGs are decoded and prepared on one core, by what, and what that does to the vectors. Prints a table.

    python -m benchmarks.decoding [--images FOLDER] [--pictures 100] [--rounds 5] [--enlarged 1]

Every way decodes the same pictures in turns; a picture's time is the shortest of its rounds, so that a noisy machine
spoils little. --enlarged makes pictures so many times as wide and high first: 8 gives 12 megapixels, as of a phone.
Cosines are between the tiny model's vectors of the pixels that a way gives for it, and of those of a whole decoding and
timm's own resizing: a way under 0.999 (0.9995 on average) is not to be used. Decoders that are not installed are passed
over.
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
import timm
from PIL import Image

from indexer import Embedder, load_embedder
from indexer.embed.embedder import Vectors
from indexer.pictures.decode import decode
from indexer.pictures.decoders import Decoders
from indexer.pictures.prepare import Limits, prepare
from indexer.preprocess import Pixels, fit, fit_array
from indexer.records import Preprocess

from .build import ROOT, report

SPEC = Preprocess((196, 196))
BATCH = 8
Way = Callable[[bytes], Any]
Fitting = Callable[[bytes, Preprocess], Pixels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of real JPEGs")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--enlarged", type=int, default=1)
    args = parser.parse_args()
    files = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    pictures = [enlarged(path.read_bytes(), args.enlarged) for path in files[: args.pictures]]
    decoders, fitters = dict(decoding()), dict(fitting())
    fitted: dict[str, Way] = {name: to_spec(way) for name, way in fitters.items()}
    whole: dict[str, Way] = {
        "decoded, fitted, fingerprint: ours": lambda d: prepare(d, "JPEG", SPEC, Limits()),
        "decoded, fitted, fingerprint: ours, not exact": lambda d: prepare(d, "JPEG", SPEC, Limits(), exact=False),
    }
    rates = measured({**decoders, **fitted, **whole}, pictures, args.rounds)
    for name, rate in rates.items():
        report(f"{name}, one core", rate, "pictures/s")
    fastest = max(rates[name] for name in decoders)
    for name in ("decoded, fitted: ours", "decoded, fitted: ours, not exact", *whole):
        report(f"{name}, over the fastest decoder alone (goal 0.85)", rates[name] / fastest, "x")
    embedder = load_embedder(str(ROOT / "data" / "eva-tiny"))
    reference = vectors(embedder, pictures, card(embedder.preprocess))
    for name, way in fitters.items():
        found = (vectors(embedder, pictures, way) * reference).sum(axis=1)
        lowest, mean = float(found.min()), float(found.mean())
        report(f"{name}: 1 - lowest cosine (limit 1,000)", 1e6 * (1 - lowest), "millionths")
        report(f"{name}: 1 - mean cosine (limit 500)", 1e6 * (1 - mean), "millionths")
    pipelines(pictures, args.rounds)


def enlarged(data: bytes, times: int) -> bytes:
    if times == 1:
        return data
    picture, file = opened(data), io.BytesIO()
    size = times * picture.width, times * picture.height
    picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


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


def fitting() -> Iterator[tuple[str, Fitting]]:
    yield "decoded, fitted: ours", lambda data, spec: fit(decode(data, "JPEG").picture, spec)
    yield "decoded, fitted: ours, not exact", lambda data, spec: fit(decode(data, "JPEG").picture, spec, exact=False)
    yield "decoded, fitted: Pillow with draft", lambda data, spec: fit(opened(data, spec.size), spec)
    with suppress(ImportError):
        simplejpeg = import_module("simplejpeg")
        yield "decoded, fitted: simplejpeg, ours", lambda data, spec: fit_array(simplejpeg.decode_jpeg(data), spec)


def to_spec(way: Fitting) -> Way:
    return lambda data: way(data, SPEC)


def card(spec: Preprocess) -> Fitting:
    """The model card's own transform."""
    transform = timm.data.create_transform(
        input_size=(3, *spec.size), interpolation=spec.interpolation, crop_pct=spec.crop_pct, normalize=False
    )
    return lambda data, _: np.asarray(transform(opened(data)).permute(1, 2, 0))


def vectors(embedder: Embedder, pictures: list[bytes], way: Fitting) -> Vectors:
    pixels = [way(data, embedder.preprocess) for data in pictures]
    parts = (np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))
    return np.concatenate([embedder.forward(part).vectors for part in parts])


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
