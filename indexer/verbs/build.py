"""build: bring the catalog in line with the folders. New, changed, moved, removed; committed as it goes."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ..embed.embedder import NO_VECTOR, Embedded, Embedder, is_exact
from ..errors import InvalidArgument, UnsafeRemoval
from ..files import remove_left_over
from ..machine import cores
from ..neighbours.choosing import Wish
from ..pictures.batches import CHUNK, Batch, batches
from ..pictures.decode import MAX_PIXELS, abilities
from ..pictures.decoders import Decoders
from ..pictures.exclusion import Exclusion, resolved
from ..pictures.prepare import Limits
from ..pictures.scan import UNSETTLED, Refused, find, settled
from ..preprocess import Pixels
from ..records import BuildReport, FoundFile, Progress, Skipped, Source, Stamp, Unlisted
from ..store.lock import vouch
from ..store.rows import Entry, Known, Refusal, StoredModel
from ..store.store import Store
from ..store.survey import Survey
from ..store.writer import Writer
from . import nearest
from .roots import Place, parts, resolve

COMMIT_IMAGES = 1000
COMMIT_SECONDS = 5.0
# files that are compared at once with what is known of them
STRETCH = 1000
MAX_WORKERS = 32
# more than this share of a root vanishing at once looks like an accident
SAFE_REMOVAL = 0.10


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. workers None: one decoding process a core. neighbours, optimize: see nearest.refresh().

    exclude: patterns of what to leave out from now on, see exclusion.resolved(); None: what the catalog remembers.
    """

    prune: bool = False
    dry_run: bool = False
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    neighbours: Wish | None = None
    optimize: bool = False
    exclude: Sequence[str] | None = None


@dataclass(slots=True)
class _Tally:
    """What has been counted so far."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    moved: int = 0
    skipped: int = 0
    ignored: int = 0
    embedded: int = 0
    done: int = 0
    new_skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Count:
    """What a dry run keeps of a Survey: numbers, for which nothing is written, not even into a temporary table."""

    def __init__(self) -> None:
        self.new = 0
        self.known = 0
        self.gone_by_root: Counter[int | None] = Counter()

    def add_todo(self, _root_id: int | None, _path: bytes, _stamp: Stamp, image_id: int | None) -> None:
        """A file that would be read; image_id where the store knows an older state of it."""
        if image_id is None:
            self.new += 1
        else:
            self.known += 1

    def add_gone(self, root_id: int | None, _path: bytes, image_id: int | None) -> None:
        """An image, or (image_id None) a skip, whose file is gone."""
        self.gone_by_root[root_id] += image_id is not None


def build(
    store: Store,
    folder: Path,
    paths: Sequence[str | os.PathLike[str]],
    embedder: Callable[[], Embedder],
    options: BuildOptions,
    progress: Callable[[Progress], None],
) -> BuildReport:
    """Bring a store in line with folders and files, or with all its roots where none is named.

    embedder: asked for when the first picture has to be embedded, so that a build that finds nothing loads no model.
    """
    return _Build(store, folder, embedder, options, progress).run(paths)


class _Build:
    """One run of build: what all its steps share."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        embedder: Callable[[], Embedder],
        options: BuildOptions,
        progress: Callable[[Progress], None],
    ) -> None:
        self.store = store
        self.folder = folder
        self.load = embedder
        self.options = options
        self.progress = progress
        self.tally = _Tally()
        self.started = time.monotonic()
        self.embedder: Embedder | None = None
        self.exclusion = Exclusion(())
        self.abilities = abilities(options.max_pixels)
        self.without_vector: set[bytes] = set()
        self.skipped_before: dict[tuple[int, bytes], str] = {}  # skips of files as they were, by root and path, and why
        self.fresh: set[bytes] = set()  # files on their way that may change again without their times moving
        self.total = 0
        self.named = False
        self.loaded_at = 0.0
        self.embedding_seconds = 0.0

    def run(self, paths: Sequence[str | os.PathLike[str]]) -> BuildReport:
        self.named = bool(paths)
        if self.options.workers is not None and self.options.workers < 1:
            raise InvalidArgument(f"{self.options.workers} decoding processes decode nothing. Give 1 or more.")
        if self.options.neighbours is not None:
            self.options.neighbours.check()
        if not self.options.dry_run:
            self._tidy()
        places, self.tally.warnings = resolve(self.store, paths, prune=self.options.prune)
        self.exclusion = self._exclusion(places)
        if self.options.dry_run:
            count = _Count()
            self._compare_all(places, count)
            self._count_only(count)
        else:
            survey = Survey(self.store)
            self._compare_all(places, survey)
            if self.exclusion.patterns != self.store.exclude:  # only now: what was compared has not been refused
                self.store.remember_exclude(self.exclusion.patterns)
            before = self.store.generation
            self._read_all(survey)
            self._remove(survey, before, places)
            self.tally.warnings += self._refresh()
            self.store.seal()
        return self._report()

    def _tidy(self) -> None:
        remove_left_over(self.folder)
        if not self.store.is_sealed:  # whatever was writing last may have been cut off
            nearest.check_left_over(self.store, self.folder)
        vouch(self.folder)

    def _exclusion(self, places: Sequence[Place]) -> Exclusion:
        """What to leave out. Raises InvalidArgument where a place lies in that."""
        wanted = self.options.exclude
        exclusion = Exclusion(self.store.exclude if wanted is None else resolved(wanted))
        for place in places:
            if left_out := exclusion.around(place.root, place.below):
                raise InvalidArgument(
                    f"{os.fsdecode(left_out)} is left out of this catalog ({' '.join(exclusion.patterns)}). "
                    "Say anew what to leave out with --exclude; nothing with --exclude ''."
                )
        return exclusion

    # -- comparing -------------------------------------------------------------------------------------------------

    def _compare_all(self, places: Sequence[Place], survey: Survey | _Count) -> None:
        model = self.store.model()
        ids = self._root_ids(places)
        for place in places:
            self._compare(place, ids.get(place.root), self._known(place, ids, model), survey)

    def _root_ids(self, places: Sequence[Place]) -> dict[bytes, int]:
        """Every root's id; new ones get theirs, but for a dry run."""
        known = self.store.roots()
        new = dict.fromkeys(place.root for place in places if place.root not in known)
        for place in places:
            if place.root in new and place.full in known:
                self._require_files(place, known[place.full])
        if self.options.dry_run or not new:
            return known
        for root in new:
            self.store.add_root(root)
        return self.store.roots()

    def _require_files(self, place: Place, root_id: int) -> None:
        """Refuse an empty root before another takes it in: what is gone from a folder below a root may be forgotten."""
        if self.options.prune or next(find(place.root, place.below), None) is not None:
            return
        lost = sum(1 for _ in self.store.known(root_id, b"", None, set()))
        if lost:
            raise UnsafeRemoval(_emptied(place.full, lost))

    def _known(self, place: Place, ids: Mapping[bytes, int], model: StoredModel | None) -> Iterator[Known]:
        """What the store knows at a place, ordered by path."""
        tried_with = {self.abilities, model.id.key} if model else {self.abilities}
        if place.root in ids:
            return self.store.known(ids[place.root], place.below, model, tried_with)
        return (  # a dry run adds no root, so what a new one would take in is still where it was
            known._replace(path=start + known.path)
            for part, start in parts(place, ids)
            for known in self.store.known(ids[part.root], part.below, model, tried_with)
        )

    def _compare(self, place: Place, root_id: int | None, known: Iterator[Known], survey: Survey | _Count) -> None:
        """Sort the files below a place into those to read, those that are gone, and those that are as they were.

        root_id: None for a root that a dry run does not add.
        """
        there = os.path.lexists(place.full)
        found = find(place.root, place.below, self.exclusion.excludes) if there else iter(())
        seen = lost = 0
        unlisted: bytes | None = None
        for item in _merge(found, known):
            if isinstance(item, int):
                seen += item
                self.tally.unchanged += item
                self.progress(Progress("scan", seen))
                continue
            file, old = item
            if isinstance(file, Unlisted):
                unlisted = file.path
                self._note_unlisted(file, place, root_id, old)
            elif file is not None:
                seen += 1
                self._note_found(file, old, root_id, survey)
                if seen % STRETCH == 0:
                    self.progress(Progress("scan", seen))
            elif old is not None and unlisted is not None and _is_below(old.path, unlisted):
                self.tally.unchanged += old.image_id is not None
            elif old is not None:
                lost += 1
                survey.add_gone(root_id, old.path, old.image_id)
        if lost and not seen and not place.below and self.named and not self.options.prune:
            raise UnsafeRemoval(_emptied(place.root, lost, self.exclusion))

    def _note_found(self, file: FoundFile, old: Known | None, root_id: int | None, survey: Survey | _Count) -> None:
        if old is None or old[:4] != file or not old.current:
            survey.add_todo(root_id, file.path, file.stamp, old.image_id if old else None)
            if root_id is not None and old is not None and old.reason is not None and old[2:4] == file[2:4]:
                self.skipped_before[root_id, file.path] = old.reason  # of a fresh one the size is not known
        elif old.image_id is not None:
            self.tally.unchanged += 1
        elif old.reason is not None:
            self.tally.skipped += 1
        else:
            self.tally.ignored += 1

    def _note_unlisted(self, folder: Unlisted, place: Place, root_id: int | None, old: Known | None) -> None:
        self.tally.skipped += 1
        if old is not None or root_id is None or self.options.dry_run:
            return
        source = Source(root_id, place.root, folder.path, UNSETTLED)
        self.tally.new_skipped.append(Skipped(os.fsdecode(source.full), folder.reason))
        self.store.commit([], [Refusal(source, folder.reason, "")], None)

    def _count_only(self, count: _Count) -> None:
        self.tally.added, self.tally.changed = count.new, count.known
        self.tally.removed = count.gone_by_root.total()
        for root, root_id in self.store.roots().items():
            lost, images = count.gone_by_root[root_id], self.store.images.count_in(root_id)
            if self._is_too_many(lost, images):
                self.tally.warnings.append(
                    _too_many_gone(root, lost, images, self.exclusion, "if they have not moved ")
                )

    def _is_too_many(self, lost: int, images: int) -> bool:
        return lost > SAFE_REMOVAL * images and not self.options.prune

    # -- reading and embedding -------------------------------------------------------------------------------------

    def _read_all(self, survey: Survey) -> None:
        new, known, _ = survey.counts()
        if not new + known:
            return
        self.total = new + known
        window = _Window(self.store, self.tally, self.skipped_before)
        decoders = _Lazy(self._decoders)
        older: dict[bytes, int] = {}  # files on their way that the store knows an older state of
        sources = self._sources(survey, older)
        stream = batches(sources, size=self._batch_size, known=self.store.with_vector, decoders=decoders.get)
        try:
            for batch in stream:
                if batch.pixels is None:
                    window.commit_if_due(len(batch))
                    self._take(batch, None, older, window)
                else:
                    self._embed(itertools.chain([batch], stream), older, window)
        finally:
            stream.close()
            if decoders.made is not None:
                decoders.made.close()
            window.close()  # also after Ctrl-C: what is embedded is kept
        if self.embedder is not None:
            self.embedding_seconds = time.monotonic() - self.loaded_at

    def _sources(self, survey: Survey, older: dict[bytes, int]) -> Iterator[Source]:
        roots = {number: path for path, number in self.store.roots().items()}
        for source, image_id in survey.todo(roots):
            if image_id is not None:
                older[source.full] = image_id
            if settled(source.stamp) != source.stamp:
                self.fresh.add(source.full)
            yield source

    def _to_store(self, source: Source) -> Source:
        """The file with the stamp to store: that of a file which was fresh when it was read cannot be trusted."""
        if not self.fresh or source.full not in self.fresh:
            return source
        self.fresh.remove(source.full)
        return source._replace(stamp=source.stamp._replace(size=UNSETTLED.size))

    def _embed(self, batches: Iterable[Batch], older: dict[bytes, int], window: _Window) -> None:
        """Put batches through the model and into the commit window, as they come out of it."""
        under_way: deque[Batch] = deque()

        def pixels() -> Iterator[Pixels | None]:
            for batch in batches:
                under_way.append(batch)
                window.commit_if_due(sum(map(len, under_way)))
                yield batch.pixels

        results = self._model().stream(pixels(), self.total - self.tally.done)
        with closing(results):
            for embedded in results:
                self._take(under_way.popleft(), embedded, older, window)

    def _take(self, batch: Batch, embedded: Embedded | None, older: dict[bytes, int], window: _Window) -> None:
        """Put what came of a batch into the commit window."""
        usable = embedded.usable.tolist() if embedded else []
        labels = _labels(embedded) if embedded else []
        before = {}
        if older:
            before = {o.source.full: older.pop(o.source.full) for o in batch.outcomes if o.source.full in older}
        digests = self.store.images.digests(list(before.values()))
        for outcome in batch.outcomes:
            image_id = before.get(outcome.source.full) if before else None
            source = self._to_store(outcome.source)
            if isinstance(outcome, Refused):
                window.refuse(source, outcome.reason, self.abilities)
            elif outcome.sha256 in self.without_vector or (outcome.slot is not None and not usable[outcome.slot]):
                self.without_vector.add(outcome.sha256)
                window.refuse(source, NO_VECTOR, self._model().id.key)
            else:
                entry = Entry(source, outcome.sha256)
                if outcome.slot is not None and embedded is not None:
                    size, row = outcome.source.stamp.size, embedded.vectors[outcome.slot]
                    entry = Entry(
                        source, outcome.sha256, size, outcome.info, outcome.fingerprint, row, labels[outcome.slot]
                    )
                window.add(entry, image_id, digests.get(image_id) if image_id else None)
        self.tally.embedded += len(usable)
        self.tally.done += len(batch)
        window.commit_if_due()
        skipped = len(self.tally.new_skipped)
        self.progress(Progress("embed", self.tally.done, self.total, self.tally.embedded, skipped))

    def _model(self) -> Embedder:
        if self.embedder is None:
            self.progress(Progress("load"))
            self.embedder = self.load()
            if self.options.neighbours is not None:  # rather now than when everything has been embedded
                nearest.require_possible(self.options.neighbours, self.embedder.id.dim)
            self.loaded_at = time.monotonic()
        return self.embedder

    def _decoders(self) -> Decoders:
        workers = self.options.workers or min(cores(), MAX_WORKERS)
        model, limits = self._model(), Limits.for_pixels(self.options.max_pixels)
        return Decoders(model.preprocess, workers, limits, is_exact(model), stretch=model.batch_size)

    def _batch_size(self) -> int:
        """Pictures a batch; until the model is loaded there are none, and the number is of files to look up."""
        return self.embedder.batch_size if self.embedder else CHUNK

    # -- finishing -------------------------------------------------------------------------------------------------

    def _remove(self, survey: Survey, before: int, places: Sequence[Place]) -> None:
        """Forget what is gone, unless so much of a root is gone that it looks like an accident."""
        roots = self.store.roots()
        since = self.store.finished  # a build that was cut off may have taken in what has moved
        moved = survey.moved_by_root(since)
        for root, root_id in roots.items():
            lost = survey.gone_by_root.get(root_id, 0) - moved.get(root_id, 0)
            images = self.store.images.count_in(root_id) - (moved.get(root_id, 0))
            if self._is_too_many(lost, images):
                self.tally.warnings.append(_too_many_gone(root, lost, images, self.exclusion))
                survey.spare(root_id, since)
        gone = survey.counts()[2]
        if moved:
            self.tally.moved = survey.moved(since)
            self.tally.added -= survey.moved(before)
        self.tally.removed = gone - self.tally.moved
        left = []
        if self.options.prune:
            left = [roots[place.root] for place in places if not place.below and not os.path.lexists(place.root)]
        if gone or left or survey.gone_skips() or self.store.generation > since:
            survey.finish(left)

    def _refresh(self) -> list[str]:
        wish, optimize = self.options.neighbours, self.options.optimize
        return nearest.refresh(self.store, self.folder, self.progress, wish, optimize=optimize)

    def _report(self) -> BuildReport:
        model, tally = self.store.model(), self.tally
        return BuildReport(
            catalog=str(self.folder),
            model=model.id.key if model else None,
            dim=model.id.dim if model else None,
            device=self.embedder.device if self.embedder else None,
            precision=self.embedder.precision if self.embedder else None,
            images=self.store.count("images"),
            contents=self.store.count("contents"),
            added=tally.added,
            changed=tally.changed,
            moved=tally.moved,
            removed=tally.removed,
            unchanged=tally.unchanged,
            skipped=tally.skipped,
            new_skipped=tuple(tally.new_skipped),
            ignored=tally.ignored,
            embedded=tally.embedded,
            seconds=time.monotonic() - self.started,
            embedding_seconds=self.embedding_seconds,
            dry_run=self.options.dry_run,
            warnings=tuple(tally.warnings),
            remarks=tuple(self.embedder.remarks) if self.embedder else (),
            exclude=self.exclusion.patterns,
        )


class _Window:
    """What is not committed yet: at most COMMIT_IMAGES files, or COMMIT_SECONDS of work.

    A quarter of them goes to the writer whenever it has nothing to do, so that nobody has to wait for it.
    """

    def __init__(self, store: Store, tally: _Tally, skipped_before: dict[tuple[int, bytes], str]) -> None:
        self.store = store
        self.writer = Writer(store)
        self.tally = tally
        self.skipped_before = skipped_before
        self.entries: list[Entry] = []
        self.refusals: list[Refusal] = []
        self.since = time.monotonic()

    def add(self, entry: Entry, image_id: int | None, old_digest: bytes | None) -> None:
        """An image, and what the store held at its path before."""
        self.entries.append(entry)
        if image_id is None:
            self.tally.added += 1
        elif entry.sha256 == old_digest:
            self.tally.unchanged += 1
        else:
            self.tally.changed += 1

    def refuse(self, source: Source, reason: str | None, tried_with: str) -> None:
        """A file that is not indexed."""
        self.refusals.append(Refusal(source, reason, tried_with))
        if reason is None:
            self.tally.ignored += 1
        else:
            self.tally.skipped += 1
            if self.skipped_before.get((source.root_id, source.path)) != reason:
                self.tally.new_skipped.append(Skipped(os.fsdecode(source.full), reason))

    def commit_if_due(self, coming: int = 0) -> None:
        """Commit where it is time, or so many files more would be too many to lose."""
        waiting, pending = len(self.entries) + len(self.refusals), self.writer.pending()
        if waiting + pending + coming > COMMIT_IMAGES:
            self.commit()
            if self.writer.pending() + coming > COMMIT_IMAGES:
                self.writer.wait()
        elif (waiting > COMMIT_IMAGES // 4 and not pending) or time.monotonic() - self.since >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Have what is waiting committed; a commit that fails is not tried again with the same."""
        entries, refusals = self.entries, self.refusals
        self.entries, self.refusals = [], []
        if entries or refusals:
            self.writer.commit(entries, refusals, self.store.model())
        self.since = time.monotonic()

    def close(self) -> None:
        """Commit what is left, and wait for it."""
        try:
            self.commit()
        finally:
            self.writer.close()


class _Lazy:
    """Something that is made on first use, and can be looked at without making it."""

    def __init__(self, make: Callable[[], Decoders]) -> None:
        self.make = make
        self.made: Decoders | None = None

    def get(self) -> Decoders:
        if self.made is None:
            self.made = self.make()
        return self.made


def _labels(embedded: Embedded) -> list[tuple[tuple[int, float], ...]]:
    """Class and probability of the most probable classes of each picture."""
    both = zip(embedded.indices.tolist(), embedded.probabilities.tolist(), strict=True)
    return [tuple(zip(indices, probabilities, strict=True)) for indices, probabilities in both]


def _merge(
    found: Iterator[FoundFile | Unlisted], known: Iterator[Known]
) -> Iterator[tuple[FoundFile | Unlisted | None, Known | None] | int]:
    """Pairs of equal paths from two streams that are ordered by path; None where one has no such path.

    Or a number: so many images in a row are as they were. In most builds nearly all are, so they are compared many at
    once.
    """
    files: list[FoundFile | Unlisted] = []
    olds: list[Known] = []
    while True:
        files += itertools.islice(found, STRETCH - len(files))
        olds += itertools.islice(known, STRETCH - len(olds))
        both = min(len(files), len(olds))
        if both and _as_they_were(files[:both], olds[:both]):
            yield both
            del files[:both], olds[:both]
            continue
        i = j = 0
        while i < len(files) and j < len(olds):
            file, old = files[i], olds[j]
            i += file.path <= old.path
            j += old.path <= file.path
            yield (file if file.path <= old.path else None), (old if old.path <= file.path else None)
        if len(olds) < STRETCH:  # there are no more
            yield from ((file, None) for file in files[i:])
            i = len(files)
        if len(files) < STRETCH:
            yield from ((None, old) for old in olds[j:])
            j = len(olds)
        if not i and not j:
            return
        del files[:i], olds[:j]


def _as_they_were(files: Sequence[FoundFile | Unlisted], olds: Sequence[Known]) -> bool:
    """Whether these are the same files, each an image of which nothing is left to do."""
    return all(old.image_id is not None and old.current for old in olds) and [old[:4] for old in olds] == files


def _is_below(path: bytes, folder: bytes) -> bool:
    """Whether a path lies in a folder that could not be listed: b"" is the root, others end in a slash."""
    return path.startswith(folder) if folder.endswith(b"/") or not folder else path == folder


def _emptied(folder: bytes, lost: int, exclusion: Exclusion | None = None) -> str:
    but, hint = "", "Mount its disk"
    if exclusion and exclusion.patterns:
        but, hint = " but for what is left out", f"{hint}, or leave out less with --exclude"
    return (
        f"The folder {os.fsdecode(folder)} is empty{but}, but the catalog knows {lost:,} files in it; they are kept. "
        f"{hint}; or forget them with --prune."
    )


def _too_many_gone(root: bytes, lost: int, images: int, exclusion: Exclusion, where: str = "") -> str:
    gone = "gone or left out" if exclusion.patterns else "gone"
    return (
        f"{lost:,} of the {images:,} images known in {os.fsdecode(root)} are {gone}: more than {SAFE_REMOVAL:.0%}, "
        f"so {where}they are kept. If that is meant, run again with --prune."
    )
