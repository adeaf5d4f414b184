"""How fast and how good neighbours are found, next to other indexes over the same vectors. Prints one table.

    python -m benchmarks.search [--rows 100000] [--pictures FOLDER|TAR] [--only ours,hnsw32,...] [--cores 1 2]

Vectors have 1,024 numbers. Without --pictures they are made: clusters of very different sizes, each around a centre in
a space of 256 dimensions whose spread falls off, with noise; the intrinsic dimension is estimated and printed. With
--pictures they are embeddings of real pictures and of edits of them by the tiny model, turned into 1,024 dimensions by
a random isometry, which changes no similarity. Queries are of the same kind, and none of them is in the index. Beside
them others are asked for that are of another kind ("unusual"): around other centres, or negatives and mosaics.

Every contender builds in a process of its own, and searches in others that are held to some cores. Ours is the whole
way from a catalog: the index nominates, the store's vectors decide. hnswlib and usearch are left out where they are not
installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from indexer import Catalog
from indexer.neighbours.stamp import remove_others
from indexer.records import Fingerprint, ModelId, PictureInfo, Preprocess, Progress, Source, Stamp
from indexer.store.rows import Entry
from indexer.store.store import Store
from indexer.verbs import nearest

ROOT = Path(__file__).parents[1]
DIM = 1024
K = 10
QUERIES = 1000
BLOCK = 10_000
GOAL = 0.99
EFFORTS = (8, 16, 32, 64, 128, 256, 512, 1024)
MODEL = ModelId(
    "made", "0" * 64, Preprocess((196, 196), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3), DIM, numerics="float"
)
# from queries (N, DIM) to the rows that are nearest (N, K)
Search = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=Path, help="a folder or .tar of pictures")
    parser.add_argument("--only", default="", help=f"some of {','.join(CONTENDERS)}")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--filters", action="store_true", help="also ours with filters of 50 %%, 1 %% and 0.01 %%")
    parser.add_argument("--folder", type=Path, help="where vectors and indexes are made, and kept for the next run")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        what, name = args.step
        report = {"build": build, "search": search, "filter": filtered}[what](name, args.folder)
        print(json.dumps(report))
        return
    with tempfile.TemporaryDirectory() as passing:
        folder = args.folder or Path(passing)
        folder.mkdir(exist_ok=True)
        if not needed_of(folder, "unusual").exists():
            make_vectors(folder, args.rows, args.pictures)
        compare(folder, [name for name in CONTENDERS if name in (args.only or ",".join(CONTENDERS)).split(",")], args)


def compare(folder: Path, names: list[str], args: argparse.Namespace) -> None:
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    print(
        f"{len(rows):,} x {DIM}, intrinsic dimension {intrinsic_dimension(rows):.0f}, recall@{K} of {QUERIES:,} queries"
    )
    print(f"{'':<28}{'recall':>8}{'unusual':>9}{'build s':>9}{'disk %':>8}{'resident %':>11}", end="")
    print("".join(f"{f'q/s, {count} core':>14}" for count in args.cores) + "   how")
    for name in names:
        built = step(folder, "build", name)
        if "missing" in built:
            print(f"{name:<28}{built['missing']}")
            continue
        searched = [step(folder, "search", name, count)["lines"] for count in args.cores]
        for lines in zip(*searched, strict=True):
            line = lines[0]
            disk, memory = (100 * size / (len(rows) * DIM * 4) for size in (built["bytes"], line["resident"]))
            rates = "".join(f"{rate:14,.0f}" for rate in (held["rate"] for held in lines))
            print(f"{line['name']:<28}{line['recall']:8.3f}{line['unusual']:9.3f}", end="")
            print(f"{built['seconds']:9.0f}{disk:8.1f}{memory:11.1f}{rates}   {line['how']}", flush=True)
        if name == "ours":
            for line in ours_cold(folder) + (step(folder, "filter", name)["lines"] if args.filters else []):
                print(line, flush=True)


def step(folder: Path, what: str, name: str, count: int | None = None) -> Any:
    """Build or search in a process of its own, which has so many cores, or all."""
    command = [sys.executable, "-m", "benchmarks.search", "--step", what, name, "--folder", str(folder)]
    some = sorted(os.sched_getaffinity(0))[:count]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(len(some)), "OPENBLAS_NUM_THREADS": str(len(some))},
        preexec_fn=lambda: os.sched_setaffinity(0, some),
    )
    return json.loads(done.stdout.splitlines()[-1])


# -- vectors -----------------------------------------------------------------------------------------------------------


def make_vectors(folder: Path, count: int, pictures: Path | None) -> None:
    """rows.npy, queries.npy and unusual.npy, and how near the K-th neighbour of every query is."""
    blocks = embedded(pictures, count + QUERIES) if pictures else clustered(count + QUERIES)
    unusual = of_another_kind(pictures) if pictures else next(clustered(QUERIES, max(count // 100, 50), seed=2))
    # queries are spread over all that there is
    asked = np.sort(np.random.default_rng(1).choice(count + QUERIES, QUERIES, replace=False))
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float16, (count, DIM))
    queries, done, seen = [], 0, 0
    for block in blocks:
        is_query = np.isin(np.arange(seen, seen + len(block)), asked)
        queries.append(block[is_query])
        rest = block[~is_query][: count - done]
        rows[done : done + len(rest)] = rest
        done, seen = done + len(rest), seen + len(block)
    assert done == count, f"only {done:,} vectors"
    rows.flush()
    for name, wanted in (("queries", np.concatenate(queries)), ("unusual", unusual)):
        every = wanted.astype(np.float16).astype(np.float32)
        np.save(folder / f"{name}.npy", every)
        best = np.full((len(every), K), -1, np.float32)
        for start in range(0, count, BLOCK):
            scores = every @ rows[start : start + BLOCK].astype(np.float32).T
            best = -np.sort(-np.hstack([best, scores]), axis=1)[:, :K]
        np.save(needed_of(folder, name), best[:, -1])


def needed_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-needed.npy"


def clustered(count: int, clusters: int = 0, seed: int = 1) -> Iterator[np.ndarray]:
    """Vectors around so many centres, which another seed places elsewhere in the same space."""
    clusters = clusters or max(count // 100, 50)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, 256)))[0].T.astype(np.float32)
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(np.arange(1, 257, dtype=np.float32))
    centres = rng.standard_normal((clusters, 256)).astype(np.float32) * spread
    sizes = rng.pareto(1.2, clusters) + 0.1
    for start in range(0, count, BLOCK):
        many = min(BLOCK, count - start)
        of = rng.choice(clusters, many, p=sizes / sizes.sum())
        rows = (centres[of] + 0.55 * spread * rng.standard_normal((many, 256), np.float32)) @ basis
        rows += 0.01 * rng.standard_normal((many, DIM), np.float32)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(source: Path, count: int) -> Iterator[np.ndarray]:
    """Pictures and edits of them, as many of each as it takes."""
    from indexer import load_embedder

    embedder = load_embedder(str(ROOT / "data" / "eva-tiny"), batch_size=64)
    rng = np.random.default_rng(0)
    pictures = list(small_pictures(source, embedder.preprocess.size[0]))
    each = -(-count // len(pictures))
    for start in range(0, len(pictures), 500):
        made = [edited(picture, rng, turn) for picture in pictures[start : start + 500] for turn in range(each)]
        yield lifted(embedder.forward(np.stack(made)).vectors)


def of_another_kind(source: Path) -> np.ndarray:
    """Negatives of pictures, and mosaics of four."""
    from indexer import load_embedder

    embedder = load_embedder(str(ROOT / "data" / "eva-tiny"), batch_size=64)
    side = embedder.preprocess.size[0]
    some = [np.asarray(picture) for picture in itertools.islice(small_pictures(source, side), 4 * QUERIES)]
    made = [255 - picture for picture in some[: QUERIES // 2]]
    for number in range(QUERIES // 2):
        a, b, c, d = (some[(turn * QUERIES + number) % len(some)][::2, ::2] for turn in range(4))
        made.append(np.vstack([np.hstack([a, b]), np.hstack([c, d])]))
    return lifted(embedder.forward(np.stack(made)).vectors)


def lifted(vectors: np.ndarray) -> np.ndarray:
    """Vectors in DIM dimensions, as similar to each other as they are."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, vectors.shape[1])))[0]
    return vectors @ axes.T.astype(np.float32)


def small_pictures(source: Path, side: int) -> Iterator[Image.Image]:
    if source.is_dir():
        for path in sorted(source.rglob("*.[jJ][pP]*[gG]")):
            yield Image.open(path).convert("RGB").resize((side, side))
    else:
        with tarfile.open(source) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file:
                    yield Image.open(io.BytesIO(file.read())).convert("RGB").resize((side, side))


def edited(picture: Image.Image, rng: np.random.Generator, turn: int) -> np.ndarray:
    """The picture itself, and then cut, mirrored and brightened versions of it."""
    if turn:
        side = picture.width
        cut = int(side * rng.uniform(0.65, 1))
        left, top = rng.integers(0, side - cut + 1, 2).tolist()
        picture = picture.crop((left, top, left + cut, top + cut)).resize((side, side))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(picture)


def intrinsic_dimension(rows: np.ndarray, sample: int = 200, neighbours: int = 20) -> float:
    """The maximum likelihood estimate of Levina and Bickel (2004), from the distances to the nearest neighbours."""
    queries = np.array(rows[:: max(len(rows) // sample, 1)][:sample], np.float32)
    best = np.full((len(queries), neighbours + 1), -1, np.float32)
    for start in range(0, len(rows), BLOCK):
        scores = queries @ rows[start : start + BLOCK].astype(np.float32).T
        best = -np.sort(-np.hstack([best, scores]), axis=1)[:, : neighbours + 1]
    distances = np.sqrt(np.maximum(2 - 2 * best[:, 1:], 1e-9))
    return float(1 / np.log(distances[:, -1:] / distances[:, :-1]).mean())


# -- contenders --------------------------------------------------------------------------------------------------------


def build(name: str, folder: Path) -> dict[str, Any]:
    """Make an index and save it. Returns how long that took, and how large it is."""
    target, notes = folder / name, folder / f"{name}.json"
    if notes.exists():
        return dict(json.loads(notes.read_text()))
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    try:
        seconds = CONTENDERS[name][0](rows, target)
    except ImportError as error:
        return {"missing": f"not installed ({error.name})"}
    files = [target] if target.is_file() else [path for path in target.iterdir() if path.suffix == ".faiss"]
    built = {"seconds": seconds, "bytes": sum(path.stat().st_size for path in files)}
    notes.write_text(json.dumps(built))
    return built


def search(name: str, folder: Path) -> dict[str, Any]:
    """What a saved index finds, and how fast: recall, queries a second, resident bytes."""
    for library in ("faiss", "hnswlib", "usearch.index"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    before = resident()
    queries, unusual = np.load(folder / "queries.npy"), np.load(folder / "unusual.npy")
    judge = functools.partial(recall, folder, "queries")
    lines = []
    for line, how, run in CONTENDERS[name][1](folder / name, judge):
        found = run(queries)
        after = resident()
        rate = QUERIES / timed(functools.partial(run, queries))
        recalls = {"recall": judge(found), "unusual": recall(folder, "unusual", run(unusual))}
        lines.append({"name": line, "how": how, **recalls, "rate": rate, "resident": after - before})
    return {"lines": lines}


def recall(folder: Path, name: str, found: np.ndarray) -> float:
    """The share of the true nearest that was found; what is as near as the K-th is as good."""
    queries, needed = np.load(folder / f"{name}.npy"), np.load(needed_of(folder, name))[:, None]
    rows = np.load(folder / "rows.npy", mmap_mode="r")  # unmapped again at the end: not to count as resident
    scores = np.einsum("nkd,nd->nk", rows[np.maximum(found, 0)], queries, dtype=np.float32)
    return float(((scores >= needed - 2e-5) & (found >= 0)).mean())


def timed(work: Callable[[], Any], rounds: int = 3, seconds: float = 2.0) -> float:
    """The least of some times: what else the machine does only ever adds, and so does memory that is new."""
    times: list[float] = []
    while len(times) < rounds or sum(times) < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK].astype(np.float32)


def build_ours(rows: np.ndarray, target: Path) -> float:
    """What the rule chooses. A store that is there is kept, and its index made anew."""
    if target.exists():
        store = Store.open(target)
        assert store.count("vectors") >= len(rows), f"{target} was left half-made: delete it"
    else:
        target.mkdir()
        started = time.perf_counter()
        store = build_store(target, rows)
        print(f"{len(rows) / (time.perf_counter() - started):,.0f} contents a second were stored", file=sys.stderr)
    remove_others(target / "none")
    stages = Stages()
    for warning in nearest.refresh(store, target, stages.note):
        print(warning, file=sys.stderr)
    stages.end()
    store.seal()
    store.close()
    return stages.seconds


class Stages:
    """How long each stage of making an index takes: rows are written, then lists trained, filled, and measured."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stage, self._since = "index", time.perf_counter()

    def note(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self.end()
            self._stage = progress.stage

    def end(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        print(f"{self._stage}: {now - self._since:,.1f} s", file=sys.stderr)
        self._since = now


def build_store(target: Path, rows: np.ndarray) -> Store:
    """A catalog of made-up images."""
    store = Store.create(target)
    store.use_model(MODEL, "made", [(f"class {number}",) * 2 for number in range(1000)])
    root = store.add_root(b"/made")
    for start in range(0, len(rows), 1000):
        entries = [entry(root, number, row) for number, row in enumerate(rows[start : start + 1000], start)]
        store.commit(entries, [], store.model())
    return store


def entry(root: int, number: int, row: np.ndarray) -> Entry:
    """An image that is not on any disk; without a fingerprint, which only duplicates need."""
    digest = hashlib.sha256(b"%d" % number).digest()
    source = Source(root, b"/made", b"%09d.jpg" % number, Stamp(number, 1, 1))
    labels = tuple((number % 1000 + rank, 0.2 / (1 + rank)) for rank in range(5) if number % 1000 + rank < 1000)
    return Entry(
        source,
        digest,
        number,
        PictureInfo(640, 480, "JPEG"),
        None,
        row.astype(np.float32),
        labels,
    )


def search_ours(target: Path, judge: Callable[[np.ndarray], float]) -> Iterator[tuple[str, str, Search]]:
    store = Store.open(target, readonly=True)
    model = store.model()
    assert model
    found = nearest.Nearest(store, nearest.IndexFiles(target), model)
    index = found.index
    assert index

    def raw(queries: np.ndarray) -> np.ndarray:
        stamp = index.stamp
        places: np.ndarray = (
            index.nominate(queries, K, stamp.effort, stamp.depth)[1] if stamp.effort else index.exact(queries, K)[1]
        )
        return places

    def indexed(queries: np.ndarray) -> np.ndarray:
        return index.search(queries, K)[1] - 1

    def whole(queries: np.ndarray) -> np.ndarray:
        return found.search(queries, K).ids - 1  # contents are numbered from 1, rows from 0

    how = f"{index.stamp.kind}, effort {index.stamp.effort}, depth {index.stamp.depth}"
    yield "our raw faiss calls", how, raw
    yield "our index", how, indexed
    yield "ours, catalog to answer", how, whole


def add_picture(catalog: Path, picture: Path) -> None:
    """Have a real file in a catalog of made-up ones."""
    with closing(Store.open(catalog)) as store:
        digest = hashlib.sha256(picture.read_bytes()).digest()
        folder = os.fsencode(picture.parent)
        root = store.roots().get(folder) or store.add_root(folder)
        source = Source(root, folder, os.fsencode(picture.name), Stamp(1, 1, 1))
        row = np.full(DIM, DIM**-0.5, np.float32)
        shown = Fingerprint(digest, bytes(4096))
        store.commit([Entry(source, digest, 1, PictureInfo(8, 8, "JPEG"), shown, row)], [], store.model())
        store.seal()


def ours_cold(folder: Path) -> list[str]:
    """Whole processes that ask for one picture of the catalog."""
    picture = folder / "asked.jpg"
    Image.new("RGB", (8, 8), "red").save(picture)
    add_picture(folder / "ours", picture)
    small = folder / "small"
    if not small.exists():
        small.mkdir()
        with closing(build_store(small, np.load(folder / "rows.npy", mmap_mode="r")[:10])) as store:
            nearest.refresh(store, small, lambda _: None)
    add_picture(small, picture)
    ask = ["query", str(picture), "--catalog"]
    run = functools.partial(subprocess.run, stdout=subprocess.DEVNULL, check=True)
    whole = timed(lambda: run([sys.executable, "-m", "indexer", *ask, str(folder / "ours")]), 7)
    least = timed(lambda: run([sys.executable, "-c", _IMPORT, *ask, str(small)]), 7)
    weighed = [sys.executable, "-c", _WEIGH, *ask, str(folder / "ours")]
    peak = subprocess.run(weighed, capture_output=True, check=True, text=True).stderr.split()[-1]
    return [
        f"  query of an indexed picture: whole process {whole:.2f} s, {1000 * (whole - least):.0f} ms more than in a "
        f"catalog of ten and importing as much; peak {int(peak) / 1024:.0f} MB"
    ]


_IMPORT = """
import faiss, runpy  # a small catalog would do without faiss
runpy.run_module("indexer", run_name="__main__")
"""

_WEIGH = """
import sys, runpy
try:
    runpy.run_module("indexer", run_name="__main__")
except SystemExit:
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def filtered(name: str, folder: Path) -> dict[str, Any]:
    """Ours, one query at a time, where only some may come."""
    queries = np.load(folder / "queries.npy")[:20]
    count = len(np.load(folder / "rows.npy", mmap_mode="r"))
    lines = []
    with Catalog.open(folder / name, readonly=True) as catalog:
        for share in (None, 0.5, 0.01, 0.0001):
            where = None if share is None else f"bytes % {round(1 / share)} = 1"
            catalog.nearest(queries[:1], k=K, where=where)
            seconds = timed(functools.partial(one_by_one, catalog, queries, where), 1)
            found = catalog.nearest(queries, k=K, where=where)
            passing = count if share is None else len(range(1, count, round(1 / share))) + 1  # the picture asked for
            assert found.ids.shape == (len(queries), min(K, passing))
            what = "no filter" if share is None else f"{share:.2%} pass"
            lines.append(f"  {what:<14}{1000 * seconds / len(queries):8.1f} ms a query")
    return {"lines": lines}


def one_by_one(catalog: Catalog, queries: np.ndarray, where: str | None) -> None:
    for query in queries:
        catalog.nearest(query[None], k=K, where=where)


def build_faiss(factory: str) -> Callable[[np.ndarray, Path], float]:
    def work(rows: np.ndarray, target: Path) -> float:
        import faiss

        started = time.perf_counter()
        index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            sample = np.random.default_rng(0).choice(len(rows), min(len(rows), 150_000), replace=False)
            index.train(rows[np.sort(sample)].astype(np.float32))
        for block in blocks(rows):
            index.add(block)
        seconds = time.perf_counter() - started
        faiss.write_index(index, str(target))
        return seconds

    return work


def search_faiss(effort: str) -> Callable[..., Iterator[tuple[str, str, Search]]]:
    """effort: the parameter that trades time for recall; the least value that reaches the goal is taken."""

    def work(target: Path, judge: Callable[[np.ndarray], float]) -> Iterator[tuple[str, str, Search]]:
        import faiss

        index = faiss.read_index(str(target))
        queries = np.load(target.parent / "queries.npy")

        def run(queries: np.ndarray) -> np.ndarray:
            places: np.ndarray = index.search(queries, K)[1]
            return places

        how = ""
        for value in EFFORTS if effort else ():
            faiss.ParameterSpace().set_index_parameter(index, effort, value)
            how = f"{effort} {value}"
            if judge(run(queries)) >= GOAL:
                break
        yield target.name, how, run

    return work


def build_hnswlib(rows: np.ndarray, target: Path) -> float:
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index("ip", DIM)
    index.init_index(len(rows), M=16, ef_construction=200)  # its own M counts half of faiss's
    for number, block in enumerate(blocks(rows)):
        index.add_items(block, np.arange(number * BLOCK, number * BLOCK + len(block)))
    seconds = time.perf_counter() - started
    index.save_index(str(target))
    return seconds


def search_hnswlib(target: Path, judge: Callable[[np.ndarray], float]) -> Iterator[tuple[str, str, Search]]:
    import hnswlib

    index = hnswlib.Index("ip", DIM)
    index.load_index(str(target))

    def run(queries: np.ndarray) -> np.ndarray:
        return np.asarray(index.knn_query(queries, K, num_threads=cores())[0], np.int64)

    queries = np.load(target.parent / "queries.npy")
    for value in EFFORTS:
        index.set_ef(max(value, K))
        if judge(run(queries)) >= GOAL:
            break
    yield target.name, f"ef {value}", run


def build_usearch(rows: np.ndarray, target: Path) -> float:
    from usearch.index import Index

    started = time.perf_counter()
    index = Index(ndim=DIM, metric="ip", dtype="f16")
    for number, block in enumerate(blocks(rows)):
        index.add(np.arange(number * BLOCK, number * BLOCK + len(block)), block, threads=2)
    seconds = time.perf_counter() - started
    index.save(str(target))
    return seconds


def search_usearch(target: Path, judge: Callable[[np.ndarray], float]) -> Iterator[tuple[str, str, Search]]:
    from usearch.index import Index

    index = Index.restore(str(target))
    assert index is not None

    def run(queries: np.ndarray) -> np.ndarray:
        return np.asarray(index.search(queries, K, threads=cores()).keys, np.int64)

    queries = np.load(target.parent / "queries.npy")
    for value in EFFORTS:
        index.expansion_search = value
        if judge(run(queries)) >= GOAL:
            break
    yield target.name, f"expansion {value}, fp16", run


CONTENDERS: dict[str, tuple[Callable[[np.ndarray, Path], float], Callable[..., Iterator[tuple[str, str, Search]]]]] = {
    "ours": (build_ours, search_ours),
    "flat": (build_faiss("Flat"), search_faiss("")),
    "hnsw32": (build_faiss("HNSW32"), search_faiss("efSearch")),
    # what autofaiss chooses for a million vectors where memory is short
    "autofaiss": (build_faiss("OPQ64_128,IVF4096,PQ64x8"), search_faiss("nprobe")),
    "hnswlib": (build_hnswlib, search_hnswlib),
    "usearch": (build_usearch, search_usearch),
}


if __name__ == "__main__":
    main()
