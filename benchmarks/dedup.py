"""How many duplicates `dedup` finds and how sure they are, and what it costs to look for them. Prints two tables.

    python -m benchmarks.dedup [--only quality|scale] [--images FOLDER] [--distinct FOLDER|TAR] [--rows 100000]

Quality: every photograph of --images with eight edits of it, among 1,000 different pictures, with the tiny model.
Scale: all pairs of random unit vectors of 1,024 numbers, next to the rate of the machine's own sgemm.
"""

from __future__ import annotations

import argparse
import io
import resource
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from indexer import Catalog
from indexer.neighbours.pairs import STEP, pairs_above
from indexer.pictures.edits import EDITS

ROOT = Path(__file__).parents[1]
MADE = ("resized 50 %", "JPEG q30", "cropped 10 %", "blurred", "brighter", "watermark", "grey")
TURNED = "rotated by EXIF"
DIM = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["quality", "scale"], help="one half of it")
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of photographs")
    parser.add_argument("--distinct", type=Path, help="a folder or .tar of other pictures, each of its own")
    parser.add_argument("--others", type=int, default=1000, help="so many of those")
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    if args.only != "scale":
        with tempfile.TemporaryDirectory() as scratch:
            quality(Path(scratch), args.images, args.distinct, args.others)
    if args.only != "quality":
        scale(args.rows)


def quality(scratch: Path, images: Path, distinct: Path | None, others: int) -> None:
    folder = scratch / "pictures"
    folder.mkdir()
    made = 0
    for number, path in enumerate(
        sorted(p for p in images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    ):
        with Image.open(path) as image:
            write_edits(ImageOps.exif_transpose(image).convert("RGB"), folder, f"{number:05}")
        made += 1
    strangers = 0
    for number, data in enumerate(different(distinct, others) if distinct else ()):
        (folder / f"other-{number:05}.jpg").write_bytes(data)
        strangers += 1
    with Catalog.create(scratch / "catalog", model=str(ROOT / "data" / "eva-tiny")) as catalog:
        catalog.build([folder])
        report = catalog.duplicates()
    found: Counter[str] = Counter()
    wrong = []
    pairs = 0
    for group in report:
        keeper = Path(group.keep.path).stem
        for other in group.others:
            name = Path(other.path).stem
            pairs += 1
            if name.split("~")[0] != keeper.split("~")[0]:
                wrong.append((keeper, name))
            elif "~" in name:
                found[name.split("~")[1]] += 1
            elif "~" in keeper:  # an edit was kept in place of the original: the pair counts all the same
                found[keeper.split("~")[1]] += 1
    print(f"{made:,} photographs, eight edits each, {strangers:,} other pictures; tiny model; {report.seconds:.1f} s")
    for edit in (*MADE, TURNED):
        print(f"  recall, {edit:<20}{found[edit] / made:>8.3f}")
    print(f"  recall, all{'':<17}{sum(found.values()) / (made * (len(MADE) + 1)):>8.3f}")
    marked = len(report.removable) / max(pairs, 1)
    print(f"  marked for removal{'':<10}{marked:>8.3f}   the others have a local change: for a person to judge")
    print(f"  precision of {pairs:,} pairs{'':<8}{1 - len(wrong) / max(pairs, 1):>8.4f}")
    for keeper, name in wrong[:10]:
        print(f"    not the same: {keeper} {name}")


def write_edits(original: Image.Image, folder: Path, name: str) -> None:
    original.save(folder / f"{name}.jpg", quality=92)
    for edit in MADE:
        EDITS[edit](original).convert("RGB").save(folder / f"{name}~{edit}.jpg", quality=85)
    exif = Image.Exif()
    exif[0x0112] = 6
    original.rotate(90, expand=True).save(folder / f"{name}~{TURNED}.jpg", quality=85, exif=exif)


def different(source: Path, count: int) -> Iterator[bytes]:
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.is_file())[:count]:
            yield path.read_bytes()
        return
    with tarfile.open(source) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            data = file.read() if file else b""
            if count and is_picture(data):
                count -= 1
                yield data


def is_picture(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).verify()
    except Exception:
        return False
    return True


def scale(rows: int) -> None:
    rng = np.random.default_rng(0)
    vectors = np.empty((rows, DIM), np.float16)
    for start in range(0, rows, STEP):
        part = rng.standard_normal((len(vectors[start : start + STEP]), DIM), np.float32)
        vectors[start : start + STEP] = part / np.linalg.norm(part, axis=1, keepdims=True)
    vectors[1::1000] = vectors[::1000][: len(vectors[1::1000])]
    rate = sgemm()
    before = peak()
    times = {}
    for count in (rows // 4, rows // 2, rows):
        started = time.perf_counter()
        found = pairs_above(vectors[:count], 0.5, 16)
        times[count] = time.perf_counter() - started
        share = count * (count + 1) * DIM / times[count] / rate
        print(f"{count:>10,} rows: {times[count]:8.2f} s, {len(found.left):,} pairs, {share:6.1%} of sgemm (goal 60 %)")
    growth = np.log(times[rows] / times[rows // 4]) / np.log(4)
    print(f"  time grows as N^{growth:.2f}; memory {peak() - before:,.0f} MB beyond the vectors (goal 1,000)")
    close = 1 + rng.standard_normal((min(rows, 50_000), DIM), np.float32) * np.float32(1e-2)
    almost_equal = (close / np.linalg.norm(close, axis=1, keepdims=True)).astype(np.float16)
    started = time.perf_counter()
    found = pairs_above(almost_equal, 0.5, 16)
    print(
        f"{len(almost_equal):>10,} almost equal rows: {time.perf_counter() - started:.2f} s, "
        f"{len(found.left):,} pairs, "
        f"memory {peak() - before:,.0f} MB"
    )


def sgemm() -> float:
    """Floating point operations a second of the machine's own product, the best of five."""
    a, b = (np.random.default_rng(i).standard_normal((STEP, DIM), np.float32) for i in range(2))
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        a @ b.T
        best = min(best, time.perf_counter() - started)
    return 2 * STEP * STEP * DIM / best


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
