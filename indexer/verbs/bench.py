"""bench: what this machine does with a model, stage by stage, and which stage holds up the others."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from ..embed.agreement import agreement
from ..embed.embedder import TOP_LABELS, Embedder, Vectors, is_exact
from ..errors import InvalidArgument, PictureError
from ..machine import cores
from ..neighbours.choosing import FLAT
from ..neighbours.index import open_index
from ..neighbours.making import write_index
from ..neighbours.stamp import Stamp as IndexStamp
from ..pictures.decoders import Decoders
from ..pictures.prepare import Prepared
from ..pictures.samples import MADE_UP_SIZE, from_folder, made_up
from ..pictures.signature import SIGNATURE_BYTES
from ..preprocess import Pixels
from ..records import (
    INT8,
    BenchReport,
    DecodingRate,
    Fingerprint,
    ForwardRate,
    PictureInfo,
    PrecisionAgreement,
    Progress,
    SearchRate,
    Source,
    Stamp,
)
from ..store.rows import Entry
from ..store.store import Store
from .build import COMMIT_IMAGES, MAX_WORKERS, BuildOptions, build

PRECISIONS = {"cpu": ("fp32", "bf16", INT8), "cuda": ("fp32", "bf16", "fp16"), "mps": ("fp32", "fp16")}
SEARCHED = (5_000, 20_000)
K = 10
# different pictures that go through the model
_FITTED = 128
# passes, queries or commits that are timed at least; one more comes before them
_TIMES = 2
# pictures that a CPU's model is told are to come: every core works on batches of its own then, as in a long build.
# A GPU would compile for so many, which takes longer than all the rest
_TO_COME = 1_000_000
# pictures that agreement, and a build, are measured on at least, however slow the model is
_LEAST = 16
_LEAST_BATCHES = 4


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How to measure. images: a folder instead of made-up pictures. pictures: to use at most.

    seconds: that each measurement may take. precision: 'auto' for all that the device has.
    """

    images: Path | None = None
    pictures: int = 2_000
    seconds: float = 1.5
    precision: str = "auto"


class Load(Protocol):
    """load_embedder() of one model on one device, e.g. functools.partial(load_embedder, "data/eva-tiny")."""

    def __call__(self, *, precision: str, batch_size: int | None) -> Embedder:
        """See load_embedder()."""


def bench(
    load: Load, options: BenchOptions = BenchOptions(), progress: Callable[[Progress], None] = lambda _: None
) -> BenchReport:
    """Measure this machine; everything that is written lies in a passing folder.

    Raises InvalidArgument for pictures that cannot be used, and ModelError.
    """
    if options.seconds <= 0 or options.pictures < _TIMES:
        raise InvalidArgument(
            f"Nothing can be measured like this. Give --seconds above 0 and --pictures {_TIMES} or more."
        )
    return _Bench(load, options, progress).run()


@dataclass(frozen=True, slots=True)
class _File:
    """One encoded picture. kind: its format, told by content."""

    data: bytes
    kind: str


class _Bench:
    """One run of bench: what all its steps share."""

    def __init__(self, load: Load, options: BenchOptions, progress: Callable[[Progress], None]) -> None:
        self.load = load
        self.options = options
        self.progress = progress
        self.remarks: list[str] = []
        self.rates: dict[tuple[str, int], float] = {}  # of the model, by precision and batch
        self.agreements: list[PrecisionAgreement] = []
        self.peaks: dict[str, float] = {}

    def run(self) -> BenchReport:
        from ..embed import peak

        started = time.perf_counter()
        files, described = _pictures(self.options)
        self.progress(Progress("load"))
        first = self.load(precision=self.options.precision, batch_size=None)
        self.operations = peak.operations(first.source)
        self.progress(Progress("decode"))
        decoding, fitted = self._decoding(files, first)
        batch = first.batch_size
        self._forward(first, fitted, batch)
        self.progress(Progress("commit"))
        store = self._store(first)
        slowest = min(decoding.together, self.rates[first.precision, batch], store)
        built, end_to_end = self._end_to_end(first, files, slowest)
        self.progress(Progress("query"))
        with ThreadPoolExecutor(1, "search") as thread:  # as in peak.product_rate()
            searches = tuple(thread.map(self._search, SEARCHED, itertools.repeat(first.id.dim)))
        report = BenchReport(
            processor=_processor(),
            cores=cores(),
            device=first.device,
            device_name=peak.device_name(first.device),
            model=first.id.key,
            dim=first.id.dim,
            operations=self.operations,
            pictures=described,
            precision=first.precision,
            batch=batch,
            decoding=decoding,
            forwards=(),
            agreements=(),
            store=store,
            built=built,
            end_to_end=end_to_end,
            searches=searches,
            seconds=0.0,
        )
        del first  # there may not be room for two
        self._precisions(report, fitted)
        return replace(
            report,
            forwards=tuple(self._forwards()),
            agreements=tuple(self.agreements),
            remarks=tuple(self.remarks),
            seconds=time.perf_counter() - started,
        )

    # -- pictures --------------------------------------------------------------------------------------------------

    def _decoding(self, files: Sequence[_File], embedder: Embedder) -> tuple[DecodingRate, Pixels]:
        """How fast pictures are decoded and fitted, and some that are: (N, H, W, 3).

        Raises InvalidArgument where none can be decoded.
        """
        processes = min(cores(), MAX_WORKERS)
        fitted: list[Pixels] = []
        reason = ""
        done, decoding, fitting, since, elapsed = 0, 0.0, 0.0, 0.0, 0.0
        with (
            Decoders(embedder.preprocess, processes, exact=is_exact(embedder)) as decoders,
            closing(_decoded(decoders, files)) as outcomes,
        ):
            for turn, outcome in enumerate(outcomes):
                if isinstance(outcome, PictureError):
                    reason = outcome.reason
                else:
                    done += 1
                    decoding, fitting = decoding + outcome.decoding, fitting + outcome.fitting
                    if turn < min(len(files), _FITTED):
                        fitted.append(outcome.pixels)
                if turn + 1 >= len(files) and not fitted:
                    raise InvalidArgument(f"None of the pictures could be decoded ({reason}). Give a folder of others.")
                if turn == 2 * processes:  # by now all of them have started
                    since, done, decoding, fitting = time.perf_counter(), 0, 0.0, 0.0
                elapsed = time.perf_counter() - since if since else 0.0
                if turn + 1 >= min(len(files), _FITTED) and done >= _TIMES and elapsed > self.options.seconds:
                    break
        return DecodingRate(done / decoding, done / fitting, done / elapsed, processes), np.stack(fitted)

    # -- the model -------------------------------------------------------------------------------------------------

    def _forward(self, embedder: Embedder, fitted: Pixels, batch: int) -> None:
        """Measure a model with so many pictures a pass."""
        from ..embed import peak

        precision = embedder.precision
        self.progress(Progress("forward", len(self.rates)))
        # each time anew: something else may have been busy the last time
        best = peak.product_rate(embedder.device, precision, self.options.seconds / 4)
        self.peaks[precision] = max(best, self.peaks.get(precision, 0.0))
        pixels = np.resize(fitted, (batch, *fitted.shape[1:]))  # again from the first where there are too few
        room = embedder.batch_size
        rate = _rate(embedder, pixels, self.options.seconds)
        if embedder.batch_size < room:
            self.remarks.append(f"{precision} with {batch:,} pictures a pass does not fit {embedder.device}.")
            if self.rates:
                return
        self.rates[precision, batch] = rate

    def _forwards(self) -> Iterator[ForwardRate]:
        """What was measured, precision by precision."""
        precisions = list(self.peaks)
        for precision, batch in sorted(self.rates, key=lambda key: (precisions.index(key[0]), key[1])):
            rate, best = self.rates[precision, batch], self.peaks[precision]
            yield ForwardRate(precision, batch, rate, best, rate * self.operations / best)

    def _precisions(self, report: BenchReport, fitted: Pixels) -> None:
        """Measure every precision and batch that was not yet, and what the precision costs in agreement."""
        chosen = self.options.precision
        kind = report.device.partition(":")[0]
        precisions = PRECISIONS[kind] if chosen == "auto" else (report.precision,)
        reference: Vectors | None = None
        for precision in precisions:
            try:
                self._batches(precision, report.batch, fitted)
                if precision != "fp32":
                    self.progress(Progress("agree", len(self.agreements)))
                    if reference is None:
                        reference = self._vectors("fp32", self._affordable(fitted, report.precision))
                    vectors = self._vectors(precision, self._affordable(fitted, precision))
                    self._agreement(precision, vectors, reference)
            except InvalidArgument as error:  # int8, where torch cannot do it
                self.remarks.append(f"{precision} was left out. {error}")

    def _batches(self, precision: str, usual: int, fitted: Pixels) -> None:
        for batch in sorted({1, usual, 4 * usual}, key=lambda b: (b != usual, b)):
            if (precision, batch) in self.rates:
                continue
            rate = self._best(precision)
            if rate and batch / rate > self.options.seconds:
                self.remarks.append(
                    f"{precision} with {batch:,} pictures a pass was left out: one takes longer than --seconds."
                )
                continue
            self._forward(self.load(precision=precision, batch_size=batch), fitted, batch)

    def _best(self, precision: str) -> float:
        """The highest rate in a precision so far; 0 for none."""
        return max((rate for key, rate in self.rates.items() if key[0] == precision), default=0.0)

    def _affordable(self, fitted: Pixels, precision: str) -> Pixels:
        """As many pictures as the model manages in time."""
        return fitted[: max(_LEAST, int(self._best(precision) * self.options.seconds))]

    def _vectors(self, precision: str, pixels: Pixels) -> Vectors:
        embedder = self.load(precision=precision, batch_size=None)
        batches = (pixels[at : at + embedder.batch_size] for at in range(0, len(pixels), embedder.batch_size))
        return np.concatenate([result.vectors for result in embedder.stream(batches) if result])

    def _agreement(self, precision: str, vectors: Vectors, reference: Vectors) -> None:
        common = min(len(vectors), len(reference))
        vectors, reference = vectors[:common], reference[:common]
        sound = np.isfinite(vectors).all(1) & np.isfinite(reference).all(1)
        if sound.sum() >= 2:
            found = agreement(vectors[sound], reference[sound])
            self.agreements.append(
                PrecisionAgreement(
                    precision, int(sound.sum()), found.mean_cosine, found.lowest_cosine, found.same_first
                )
            )

    # -- the rest --------------------------------------------------------------------------------------------------

    def _store(self, embedder: Embedder) -> float:
        """Contents that are committed in a second, with all that belongs to them."""
        rng = np.random.default_rng(0)
        labels = tuple((number, 0.1) for number in range(min(TOP_LABELS, len(embedder.classes))))
        info = PictureInfo(*MADE_UP_SIZE, "JPEG")
        vector = np.full(embedder.id.dim, embedder.id.dim**-0.5, np.float32)
        times: list[float] = []
        with TemporaryDirectory(prefix="indexer-bench-") as folder, closing(Store.create(Path(folder))) as store:
            model = store.use_model(embedder.id, embedder.source, embedder.classes)
            root = store.add_root(b"/pictures")
            while len(times) <= _TIMES or sum(times) < self.options.seconds:
                entries = [
                    Entry(
                        Source(root, b"/pictures", b"%d/%d.jpg" % (len(times), number), Stamp(1, 1, 1)),
                        rng.bytes(32),
                        1,
                        info,
                        Fingerprint(rng.bytes(32), rng.bytes(SIGNATURE_BYTES)),
                        vector,
                        labels,
                    )
                    for number in range(COMMIT_IMAGES)
                ]
                started = time.perf_counter()
                store.commit(entries, [], model)
                times.append(time.perf_counter() - started)
        return COMMIT_IMAGES * (len(times) - 1) / sum(times[1:])

    def _end_to_end(self, embedder: Embedder, files: Sequence[_File], slowest: float) -> tuple[int, float]:
        """Build a catalog: how many pictures, and how many a second from when its first batch has come out."""
        wanted = max(_LEAST, _LEAST_BATCHES * embedder.batch_size, int(2 * slowest * self.options.seconds))
        marks: list[tuple[float, int]] = []
        loaded = 0.0

        def note(progress: Progress) -> None:
            if progress.stage == "embed":
                marks.append((time.monotonic(), progress.embedded))
                self.progress(progress)

        with TemporaryDirectory(prefix="indexer-bench-") as passing:
            pictures, catalog = Path(passing) / "pictures", Path(passing) / "catalog"
            pictures.mkdir()
            catalog.mkdir()
            for number, file in enumerate(files[:wanted]):
                (pictures / f"{number}.{file.kind.lower()}").write_bytes(file.data)
            with closing(Store.create(catalog)) as store:

                def load() -> Embedder:
                    nonlocal loaded
                    store.use_model(embedder.id, embedder.source, embedder.classes)
                    loaded = time.monotonic()
                    return embedder

                report = build(store, catalog, [pictures], load, BuildOptions(), note)
        at, before = marks[0]
        if report.embedded == before:  # a single batch
            return report.embedded, report.images_per_second
        return report.embedded, (report.embedded - before) / (loaded + report.embedding_seconds - at)

    def _search(self, count: int, dim: int) -> SearchRate:
        """How long one query takes among so many random vectors, exactly, as the index of a catalog that stays open."""
        rng = np.random.default_rng(count)
        vectors = rng.standard_normal((count, dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids, rows = np.arange(count), vectors.astype(np.float16)
        times: list[float] = []
        with TemporaryDirectory(prefix="indexer-bench-") as folder:
            stamp = write_index(Path(folder), [(ids, ids, rows)], IndexStamp("", "", FLAT, dim, count, count - 1, 1.0))
            path = next(Path(folder).iterdir())
            index = open_index(path, stamp)
            assert index is not None
            while len(times) <= _TIMES or sum(times) < self.options.seconds / 2:
                query = vectors[len(times) % count][None]
                started = time.perf_counter()
                index.search(query, K)
                times.append(time.perf_counter() - started)
        return SearchRate(count, float(np.median(times[1:])))


def _pictures(options: BenchOptions) -> tuple[list[_File], str]:
    """What to measure with, and what that is in words."""
    if options.images is None:
        files = [_File(data, "JPEG") for data in made_up(options.pictures)]
        return files, "made-up JPEGs of {} x {}".format(*MADE_UP_SIZE)
    contents = from_folder(options.images, options.pictures)
    return [_File(content.data, content.kind) for content in contents], os.fspath(options.images)


def _decoded(decoders: Decoders, files: Sequence[_File]) -> Generator[Prepared | PictureError]:
    """The files decoded in their order, again and again, twice as many under way as there are processes."""
    waiting: deque[Future[Prepared]] = deque()
    turn = 0
    while True:
        while len(waiting) <= 2 * decoders.count:
            file = files[turn % len(files)]
            waiting.append(decoders.submit(file.data, file.kind))
            turn += 1
        try:
            yield waiting.popleft().result()
        except PictureError as error:
            yield error


def _rate(embedder: Embedder, pixels: Pixels, seconds: float) -> float:
    """Pictures a second of one batch again and again, after the first, as a long build has them done."""
    passes, begun, last = 0, 0.0, 0.0

    def again() -> Iterator[Pixels]:
        while passes < _TIMES or last - begun < seconds:
            yield pixels

    to_come = _TO_COME if embedder.device == "cpu" else None
    with closing(embedder.stream(again(), to_come)) as results:
        for passes, _ in enumerate(results):  # noqa: B007  # again() looks at it
            last = time.perf_counter()
            begun = begun or last
    return passes * len(pixels) / (last - begun)


def _processor() -> str:
    """What the maker calls it, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
