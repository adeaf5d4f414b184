"""How many duplicates `dedup` finds and how sure they are, and what it costs to look for them. Prints three tables.

    python -m benchmarks.dedup [--only quality|scale|index] [--images FOLDER] [--distinct FOLDER|TAR] [--rows 100000]
                               [--counts 50000 200000]

Quality: every photograph of --images with eight edits of it, among 1,000 different pictures, with the tiny model.
Scale: all pairs of random unit vectors of 1,024 numbers, next to the rate of the machine's own sgemm.
Index: catalogs of made-up vectors and signatures, every tenth near to the one before it: what the neighbour index finds
of these, and how time grows. Only where it is asked for: a million take some 13 GB in the folder of temporary files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from indexer import Catalog
from indexer.neighbours.choosing import Wish
from indexer.neighbours.pairs import STEP, pairs_above
from indexer.pictures.edits import EDITS
from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess, Source, Stamp
from indexer.store.rows import Entry, StoredModel
from indexer.store.store import Store
from indexer.verbs import candidates, nearest

ROOT = Path(__file__).parents[1]
MADE = ("resized 50 %", "JPEG q30", "cropped 10 %", "blurred", "brighter", "watermark", "grey")
TURNED = "rotated by EXIF"
DIM = 1024
# made-up pictures: so many scenes of pictures that are alike, at this cosine, in so many ways; how near a copy is
SCENES, ALIKE, FREEDOM, COPY = 500, 0.3, 48, 0.9
BLOCK = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["quality", "scale", "index"], help="one part of it")
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "photos", help="a folder of photographs")
    parser.add_argument("--distinct", type=Path, help="a folder or .tar of other pictures, each of its own")
    parser.add_argument("--others", type=int, default=1000, help="so many of those")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[50_000, 200_000], help="sizes of catalogs for the index"
    )
    args = parser.parse_args()
    if args.only in (None, "quality"):
        with tempfile.TemporaryDirectory() as scratch:
            quality(Path(scratch), args.images, args.distinct, args.others)
    if args.only in (None, "scale"):
        scale(args.rows)
    if args.only == "index":
        index(args.counts)


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
    before = from_now_on()
    times = {}
    for count in (rows // 4, rows // 2, rows):
        started = time.perf_counter()
        found = pairs_above(vectors[:count], 0.5, 16)
        times[count] = time.perf_counter() - started
        share = count * (count + 1) * DIM / times[count] / rate
        print(f"{count:>10,} rows: {times[count]:8.2f} s, {len(found.left):,} pairs, {share:6.1%} of sgemm (goal 60 %)")
    growth = np.log(times[rows] / times[rows // 4]) / np.log(4)
    print(f"  time grows as N^{growth:.2f}; memory {peak() - before:,.0f} MB beyond the vectors (goal 1,000)")
    almost_equal = vectors[:50_000]
    for start in range(0, len(almost_equal), STEP):
        close = 1 + rng.standard_normal(almost_equal[start : start + STEP].shape, np.float32) * np.float32(1e-2)
        almost_equal[start : start + STEP] = close / np.linalg.norm(close, axis=1, keepdims=True)
    before = from_now_on()
    started = time.perf_counter()
    found = pairs_above(almost_equal, 0.5, 16)
    print(
        f"{len(almost_equal):>10,} almost equal rows: {time.perf_counter() - started:.2f} s, "
        f"{len(found.left):,} pairs, "
        f"memory {peak() - before:,.0f} MB beyond the vectors (goal 1,000)"
    )


def index(counts: list[int]) -> None:
    """Candidates through the neighbour index, of catalogs of several sizes."""
    candidates.PATIENCE = -1.0
    times = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch, closing(Store.create(Path(scratch))) as store:
            model = fill(store, count)
            started = time.perf_counter()
            nearest.refresh(store, Path(scratch), lambda _: None, Wish("ivf"))
            made = time.perf_counter() - started
            before = from_now_on()
            with store.snapshot():
                nodes = candidates.Nodes.of(store, model)
                started = time.perf_counter()
                found = candidates.candidates(nodes, None, 0.6, lambda _: None, with_looks=True, all_pairs=False)
                times[count] = time.perf_counter() - started
            share = copies_found(store, nodes, found, count)
        beyond = peak() - before - count * DIM * 2 / 1e6
        print(
            f"{count:>10,} pictures: {times[count]:8.2f} s (index made in {made:.0f} s), {len(found.left):,} pairs, "
            f"{share:.2%} of copies, expected {found.recall:.2%}; memory {beyond:,.0f} MB beyond the vectors"
        )
    growth = np.log(times[counts[-1]] / times[counts[0]]) / np.log(counts[-1] / counts[0])
    print(f"  time grows as N^{growth:.2f} (goal N^1.2)")


def fill(store: Store, count: int) -> StoredModel:
    """Pictures that are none: every tenth is a copy of the one before it, by its vector and by its look."""
    rng = np.random.default_rng(0)
    store.use_model(ModelId("made up", "0" * 64, Preprocess((32, 32)), DIM), "made up", ())
    model = store.model()
    assert model
    root = store.add_root(b"/made-up")
    bases = [rng.standard_normal((SCENES + FREEDOM, width), np.float32) for width in (DIM, 16 * 16)]
    for start in range(0, count, BLOCK):
        rows, cells = (alike(rng, basis / np.linalg.norm(basis, axis=1, keepdims=True)) for basis in bases)
        seen = np.clip(128 + 600 * cells, 0, 255).astype(np.uint8).reshape(-1, 16, 16).repeat(4, 1).repeat(4, 2)
        entries = [
            Entry(
                Source(root, b"/made-up", b"%09d.png" % (start + i), Stamp(1, 2, 3)),
                digest_of(start + i),
                start + i,
                PictureInfo(64, 64, "PNG"),
                Fingerprint(digest_of(-1 - start - i), seen[i].tobytes()),
                rows[i],
            )
            for i in range(min(BLOCK, count - start))
        ]
        store.commit(entries, [], model)
    return model


def alike(rng: np.random.Generator, basis: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Unit rows, each in a scene, with a few ways to differ from the others in it."""
    own = rng.standard_normal((BLOCK, FREEDOM), np.float32) @ basis[SCENES:] / np.float32(np.sqrt(FREEDOM))
    rows = np.sqrt(ALIKE) * basis[rng.integers(0, SCENES, BLOCK)] + np.sqrt(1 - ALIKE) * own
    rows[1::10] = rows[::10] + np.sqrt(1 / COPY**2 - 1) * own[1::10]
    unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def digest_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def copies_found(store: Store, nodes: candidates.Nodes, found: candidates.Candidates, count: int) -> float:
    place = {content: i for i, content in enumerate(nodes.contents.tolist())}
    originals, copies = (
        np.array([place[store.images.content_of(digest_of(i))] for i in range(first, count, 10)]) for first in (0, 1)
    )
    wanted = np.minimum(originals, copies) * count + np.maximum(originals, copies)
    return float(np.isin(wanted, found.left * count + found.right).mean())


def sgemm() -> float:
    """Floating point operations a second of the machine's own product, the best of five."""
    a, b = (np.random.default_rng(i).standard_normal((STEP, DIM), np.float32) for i in range(2))
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        a @ b.T
        best = min(best, time.perf_counter() - started)
    return 2 * STEP * STEP * DIM / best


def from_now_on() -> float:
    """Megabytes of memory in use; the peak is that of what comes from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Megabytes of memory, the most that were in use."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
