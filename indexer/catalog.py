"""Catalog: the one door that users hold. Every verb of the command line is a method here, with the same words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from .embed.embedder import Embedder, load_embedder, located
from .embed.zoo import DEFAULT_MODEL
from .errors import CatalogError, CatalogNotFound, InvalidArgument, ModelError, PictureError, WrongModel
from .pictures.decode import MAX_PIXELS
from .records import (
    FLOAT,
    Action,
    Applied,
    ApplyAction,
    BuildReport,
    Calibration,
    CatalogInfo,
    DuplicateGroup,
    DuplicatesReport,
    ExportReport,
    ImageRecord,
    Match,
    ModelId,
    Progress,
    QueryResult,
    Skipped,
    Tier,
    VerifyReport,
)
from .store.rows import StoredModel
from .store.store import Store

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    from .neighbours.choosing import Wish
    from .pictures.single import Thumbnails
    from .verbs.build import BuildOptions
    from .verbs.nearest import Graph, IndexFiles, Neighbours
    from .verbs.plans import Plan

T = TypeVar("T")
Loader = Callable[..., Embedder]
"""From what `model` names to an embedder; given numerics= as well where a catalog's are not FLOAT."""


class Catalog:
    """A folder with everything that is known of some pictures; see the README's Format section.

    It is for the thread that opened it; another one opens its own, of the same folder.
    len() is the number of images, iteration gives ImageRecords by root and path, `path in catalog` and
    `catalog[path]` look one up.
    """

    def __init__(self, folder: Path, store: Store, model: str | None, loader: Loader) -> None:
        """Use open() or create()."""
        self.folder = Path(os.path.abspath(folder))  # as of the store
        self._store = store
        self._model = None if model is None else located(model)
        self._loader = loader
        self._embedder: Embedder | None = None

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        model: str | None = None,
        loader: Loader = load_embedder,
        readonly: bool = False,
    ) -> Catalog:
        """An existing catalog.

        model: what to load instead of what the catalog names, for example its weights in another place.
        loader: how to get an embedder from a model's name, e.g. functools.partial(load_embedder, device="cuda").
        Raises CatalogNotFound, WrongFormat or CatalogDamaged.
        """
        return cls(Path(folder), Store.open(Path(folder), readonly=readonly), model, loader)

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], *, model: str | None = None, loader: Loader = load_embedder
    ) -> Catalog:
        """A new catalog, or the one that is there. The model is fixed by the first build."""
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogError(
                f"The folder {path} cannot be made ({error.strerror}). Choose another with --catalog."
            ) from error
        return cls(path, Store.create(path), model, loader)

    def close(self) -> None:
        """Close the store; the catalog cannot be used any more."""
        self._store.close()

    def interrupt(self) -> None:
        """Have a condition that takes too long refused, where one is being looked at; from another thread."""
        self._store.interrupt()

    @property
    def is_in_place(self) -> bool:
        """Whether its file is still that of the folder. A repair puts another there: open the catalog again then."""
        return self._store.is_in_place

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See close()."""
        self.close()

    # -- the verbs -------------------------------------------------------------------------------------------------

    def build(
        self,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        prune: bool = False,
        dry_run: bool = False,
        switch_model: bool = False,
        wait: bool = False,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        neighbours: str | None = None,
        recall: float | None = None,
        memory: int | None = None,
        optimize: bool = False,
        exclude: Iterable[str] | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> BuildReport:
        """Bring the catalog in line with folders (or files), or with all its roots where none is named.

        prune: also forget images when more than a tenth of a root is gone. dry_run: only count, reading no picture and
        writing nothing.
        switch_model: go on with another model than the catalog's; vectors of the old one stay. wait: for another build
        of this catalog to end. neighbours: 'flat', 'ivf', 'hnsw' or a string of faiss.index_factory instead of what the
        rule chooses; recall: the recall@10 that its index must reach (0.99); memory: bytes that it may take (a quarter
        of what the machine or its container has). optimize: bring the index up to date, however little has changed.
        exclude: patterns of what to leave out, in this build and in later ones that name none: of names ('thumbs',
        '*.png'), or with a slash of paths ('photos/raw'), as in fnmatch.
        Raises CatalogLocked, UnsafeRemoval for a root that is missing or empty, WrongModel, and ModelError.
        """
        from .store.lock import building
        from .verbs.build import BuildOptions

        if self._store.readonly and not dry_run:
            raise CatalogError(f"{self.folder} was opened for reading. Open it without readonly to build.")
        named, left_out = _listed(paths), None if exclude is None else _listed(exclude)
        wish = _wish(neighbours, recall, memory)
        options = BuildOptions(prune, dry_run, workers, max_pixels, wish, optimize, left_out)
        if dry_run:
            return self._build(named, options, switch_model, progress)
        with building(self.folder, wait=wait):
            return self._build(named, options, switch_model, progress)

    def _build(
        self,
        paths: Sequence[str | os.PathLike[str]],
        options: BuildOptions,
        switch_model: bool,
        progress: Callable[[Progress], None],
    ) -> BuildReport:
        from .verbs.build import build

        self._store.require_in_place()
        stored = self._store.model()
        another = self._model and stored and self._model != stored.source
        if stored and (another or switch_model) and not options.dry_run:
            self._load_for_build(switch_model)  # before anything is compared: it may be refused
        load = lambda: self._load_for_build(switch_model)  # noqa: E731
        return build(self._store, self.folder, paths, load, options, progress)

    @classmethod
    def verify(
        cls,
        folder: str | os.PathLike[str],
        *,
        repair: bool = False,
        loader: Loader = load_embedder,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> VerifyReport:
        """Check every promise of the format; with repair, make again what can be made again.

        Takes a folder, since a catalog that is damaged may not open.
        """
        from .store.lock import building
        from .verbs import verify
        from .verbs.build import BuildOptions

        path = Path(folder)
        if not Store.exists(path):
            raise CatalogNotFound(f"There is no catalog in {path}. Make one with: indexer build FOLDER.")
        if not repair:
            return verify.verify(path)

        def build_all(model: str | None) -> BuildReport:
            with cls.open(path, model=model, loader=loader) as catalog:
                return catalog._build((), BuildOptions(), False, progress)

        with building(path, wait=False):
            return verify.repair(path, build_all)

    def query(
        self,
        image: Any,
        *,
        k: int = 10,
        min_score: float = -1.0,
        where: str | None = None,
        label: str | None = None,
        include_self: bool = False,
    ) -> list[Match]:
        """The k nearest neighbours of one picture, best first.

        image: a path, an ImageRecord of this catalog, whose file is not read, a PIL image, a uint8 RGB array (H, W, 3),
        or a vector (dim,). where: an SQL condition over the columns that the README lists. label: a class name. A
        queried file that is in the catalog is left out.
        Raises PictureError for a picture that cannot be used, InvalidArgument for the rest.
        """
        results, skipped = self.query_many(
            [image], k=k, min_score=min_score, where=where, label=label, include_self=include_self
        )
        if skipped:
            raise PictureError(skipped[0].reason, skipped[0].path)
        return list(results[0].matches)

    def query_many(
        self,
        images: Iterable[Any],
        *,
        k: int = 10,
        min_score: float = -1.0,
        where: str | None = None,
        label: str | None = None,
        include_self: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> tuple[list[QueryResult], list[Skipped]]:
        """The same for several pictures; those that cannot be used come second, with the reason."""
        from .verbs.query import QueryOptions, query

        options = QueryOptions(k, min_score, where, label, include_self, max_pixels)
        return query(self._store, self._index_files, _listed(images), self.embedder, options)

    def duplicates(
        self,
        *,
        threshold: float | Literal["auto"] = "auto",
        tier: Tier | None = None,
        keep: str | None = None,
        mirrors: bool = False,
        thorough: bool = False,
        against: str | os.PathLike[str] | None = None,
        all_pairs: bool = False,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> DuplicatesReport:
        """Groups of images that show the same picture, each with the one to keep.

        threshold: lowest cosine similarity; 'auto' is what calibrate() has found, or a cautious default. tier: the
        least sure one to include, by default 'copy', or 'probable' with thorough; only 'exact', 'pixels' and 'copy'
        are ever marked for removal. keep: rules in their order, as the README lists them. mirrors: also mirrored and
        turned copies. thorough: read pictures where their signatures do not decide. against: the folder of another
        catalog; groups are then of what is in both, with that one's image kept. all_pairs: look at every pair of
        vectors, also where that takes longer than five minutes and the neighbour index could name the nearest instead
        (the report's `recall` says how many it is expected to).
        Raises InvalidArgument, WrongModel where the two catalogs cannot be compared, and CatalogError.
        """
        from .verbs.duplicates import DuplicateOptions, duplicates
        from .verbs.keeping import DEFAULT

        lowest = None if threshold == "auto" else threshold
        least = tier or ("probable" if thorough else "copy")
        options = DuplicateOptions(lowest, least, DEFAULT if keep is None else keep, mirrors, thorough, all_pairs)
        if against is None:
            return duplicates(self._store, self.folder, options, progress)
        other = Store.open(Path(against), readonly=True)
        try:
            return duplicates(self._store, self.folder, options, progress, (other, Path(against)))
        finally:
            other.close()

    def keep_all(self, report: DuplicatesReport, ids: Iterable[str]) -> list[DuplicateGroup]:
        """Remember that the images of some groups of a report are no duplicates; returns these groups.

        They come back when a new image joins them. ids: the groups' ids, or their beginnings.
        Raises InvalidArgument for an id that names none or several, CatalogLocked during a build.
        """
        from .verbs.duplicates import keep_all

        chosen = _listed(ids)
        with self._changing():
            return keep_all(self._store, report, chosen)

    def ask_again(self) -> int:
        """Forget which groups are no duplicates, whether keep_all() or an edited plan said so; returns how many.

        Raises CatalogLocked during a build.
        """
        with self._changing():
            return self._store.forget_decisions()

    def calibrate(self, *, sample: int = 100, progress: Callable[[Progress], None] = lambda _: None) -> Calibration:
        """Measure what thresholds mean for this collection and model, on known edits of a sample; and remember it.

        Raises InvalidArgument, CatalogError, ModelError, CatalogLocked during a build.
        """
        from .verbs.calibration import calibrate

        with self._changing():
            return calibrate(self._store, self.embedder, sample, progress)

    @staticmethod
    def plan(
        report: DuplicatesReport, file: str | os.PathLike[str], actions: Mapping[str, Action] | None = None
    ) -> None:
        """Write a report as a plan, for a person to review and for apply() to carry out.

        actions: what is to be done with the images at some paths, where that is not what the report proposes.
        Raises InvalidArgument where a group would then be removed and nothing of it kept, for a path that is in no
        group, for an unknown action, and for a file that is there and no .json.
        """
        from .verbs.duplicates import planned
        from .verbs.plans import write_plan

        write_plan(file, planned(report, actions or {}))

    def apply(
        self,
        plan: str | os.PathLike[str],
        *,
        action: ApplyAction = "trash",
        to: str | os.PathLike[str] | None = None,
        yes: bool = False,
        log: str | os.PathLike[str] | None = None,
    ) -> Iterator[Applied]:
        """Carry a plan out, file by file, as the result is gone through; without yes only say what would be done.

        action: what becomes of the files that the plan removes; to: the folder for 'move'. log: where to note what is
        done, for undo(); default: the plan's name with .log. Every file is checked again just before. Groups of which
        the plan keeps every image are remembered as no duplicates. The catalog learns of it with the next build.
        Raises at once InvalidArgument, WrongFormat for a plan of a newer indexer, and with yes CatalogError for a
        catalog that was opened for reading; while files are gone through, CatalogLocked during a build, and
        CatalogError for a log that cannot be written.
        """
        from .verbs.apply import apply
        from .verbs.plans import read_plan

        read = read_plan(plan)
        where = f"{os.fspath(plan)}.log" if log is None else log
        roots = list(self._store.roots())
        steps = apply(read, uuid=self._store.uuid, roots=roots, action=action, to=to, yes=yes, log=where)
        if not yes:
            return steps
        self._require_writable()
        return self._applied(read, steps)

    def _applied(self, plan: Plan, steps: Iterator[Applied]) -> Iterator[Applied]:
        from .verbs.duplicates import keep_kept

        with self._changing():
            yield from steps
            keep_kept(self._store, plan)

    @staticmethod
    def undo(log: str | os.PathLike[str]) -> Iterator[Applied]:
        """Put back what an apply() has done, as far as it can be put back, as the result is gone through.

        Nothing is overwritten. Raises at once InvalidArgument for what is no undo log, and WrongFormat for one of a
        newer indexer; while files are gone through, CatalogError for a log that cannot be written.
        """
        from .verbs.undo import undo

        return undo(log)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What a build holds while it writes, and the seal that it leaves."""
        from .store.lock import building

        self._require_writable()
        with building(self.folder, wait=False):
            self._store.require_in_place()
            sealed = self._store.is_sealed
            yield
            if sealed:
                self._store.seal()

    def _require_writable(self) -> None:
        if self._store.readonly:
            raise CatalogError(f"{self.folder} was opened for reading. Open it without readonly to change it.")

    def nearest(
        self, vectors: npt.ArrayLike, *, k: int = 10, where: str | None = None, label: str | None = None
    ) -> Neighbours:
        """The k nearest contents of each of many vectors, (N, dim), as arrays: `ids` and `scores`, both (N, k).

        vectors: of any length but zero. paths() tells what an id stands for. A vector of the catalog finds itself
        first, or what is as near.
        Raises InvalidArgument for vectors of another dimension, or that are zero or not finite.
        """
        from .verbs.query import nearest

        return nearest(self._store, self._index_files, vectors, k, where, label)

    def knn_graph(self, k: int = 10, *, progress: Callable[[Progress], None] = lambda _: None) -> Graph:
        """The k nearest neighbours of every content: `ids` (N,), `neighbours` (N, k) and `scores` (N, k)."""
        from .verbs.query import knn_graph

        return knn_graph(self._store, self._index_files, k, progress)

    @cached_property
    def _index_files(self) -> IndexFiles:
        from .verbs.nearest import IndexFiles

        return IndexFiles(self.folder)

    def paths(self, ids: Iterable[int]) -> dict[int, list[str]]:
        """Where the images of some contents are; an id that is not there is left out."""
        return self._store.images.paths_of([int(id) for id in ids])

    def info(self) -> CatalogInfo:
        """What is in the catalog."""
        from .verbs.info import info

        return info(self._store, self.folder)

    def skips(self) -> Iterator[Skipped]:
        """The files that could not be indexed, with the reasons, ordered by path."""
        return self._store.skips()

    def images(
        self,
        *,
        after: str | os.PathLike[str] = "",
        count: int = 60,
        where: str | None = None,
        label: str | None = None,
    ) -> list[ImageRecord]:
        """A page of images, in the order of iteration: so many of those beyond a path for which a filter holds.

        where, label: as for query().
        """
        from .verbs.browse import images

        return images(self._store, os.fsencode(after), count, where, label)

    def holding(self, sha256: str) -> list[ImageRecord]:
        """Every image with these bytes: a digest in lower-case hex, as in ImageRecord. Raises InvalidArgument."""
        from .verbs.browse import holding

        return holding(self._store, sha256)

    @staticmethod
    def read(image: ImageRecord) -> bytes:
        """The bytes of an image's file, in any thread. Raises PictureError where they are not what was indexed."""
        from .pictures.single import read_unchanged

        return read_unchanged(image).data

    @staticmethod
    def thumbnails(side: int) -> Thumbnails:
        """What makes small JPEGs of images, in any thread: `with Catalog.thumbnails(320) as small: small.of(image)`."""
        from .pictures.single import Thumbnails

        return Thumbnails(side)

    def export(self, file: str | os.PathLike[str]) -> ExportReport:
        """Write vectors and metadata, a row an image: .parquet, .npy (+ .csv), .csv or .jsonl by the ending."""
        from .verbs.export import export

        return export(self._store, Path(file))

    # -- a collection of images ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Images, counting every copy."""
        return self._store.count("images")

    def __iter__(self) -> Iterator[ImageRecord]:
        """Every image, by root, then path."""
        return iter(self._store.images)

    def __contains__(self, path: object) -> bool:
        """Whether the file at a path is in the catalog."""
        return isinstance(path, (str, os.PathLike)) and self._store.images.place_of(_full(path)) is not None

    def __getitem__(self, path: str | os.PathLike[str]) -> ImageRecord:
        """The image at a path. Raises KeyError."""
        image = self._store.images.at(_full(path))
        if image is None:
            raise KeyError(os.fspath(path))
        return image

    # -- the model -------------------------------------------------------------------------------------------------

    def embedder(self) -> Embedder:
        """The catalog's model, loaded on first use.

        Raises WrongModel if what is loaded is not what the vectors were made with.
        """
        stored = self._store.model()
        embedder = self._loaded()
        if stored and embedder.id != stored.id:
            raise WrongModel(_wrong_model(stored, embedder.id, "query"))
        return embedder

    def _load_for_build(self, switch: bool) -> Embedder:
        stored = self._store.model()
        embedder = self._loaded()
        if stored and embedder.id != stored.id and not switch:
            raise WrongModel(_wrong_model(stored, embedder.id, "build"))
        self._store.use_model(embedder.id, embedder.source, embedder.classes)
        return embedder

    def _loaded(self) -> Embedder:
        if self._embedder is None:
            stored = self._store.model()
            source = self._model or (stored.source if stored else DEFAULT_MODEL)
            options = {} if stored is None or stored.id.numerics == FLOAT else {"numerics": stored.id.numerics}
            try:
                self._embedder = self._loader(source, **options)
            except ModelError as error:
                if stored is None:
                    raise
                if source == stored.source:
                    if not os.path.isabs(source) or os.path.exists(source):
                        raise
                    raise ModelError(f"{error} If it has moved: indexer build --model FOLDER.") from error
                raise ModelError(f"{error} The catalog's own is {stored.source}: leave --model out for it.") from error
        return self._embedder


def _wrong_model(stored: StoredModel, asked: ModelId, verb: str) -> str:
    have = stored.id
    hint = "to embed everything with the other one, add --switch-model" if verb == "build" else "leave --model out"
    if replace(asked, numerics=have.numerics) == have:
        return (
            f"The catalog's vectors are {have.numerics}, and {asked.numerics} ones were asked for; they cannot be "
            f"compared. Leave --precision out; or use another --catalog"
            f"{'; or ' + hint if verb == 'build' else ''}."
        )
    return (
        f"The catalog's vectors are of {have.key}, and {asked.key} was asked for; they cannot be compared. "
        f"Use --model {stored.source}; or another --catalog; or {hint}."
    )


def _wish(kind: str | None, recall: float | None, memory: int | None) -> Wish | None:
    """None where nothing is asked for: then what there is may stay."""
    from .neighbours.choosing import DEFAULT_RECALL, Wish

    if kind is None and recall is None and memory is None:
        return None
    return Wish(kind, DEFAULT_RECALL if recall is None else recall, memory)


def _listed(given: Iterable[T]) -> list[T]:
    """A list of what was given. Raises InvalidArgument for one thing alone: text would be taken letter by letter."""
    if isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Iterable):
        raise InvalidArgument(f"{given!r} was given, where several may be. Give a list: [{given!r}].")
    return list(given)


def _full(path: str | os.PathLike[str]) -> bytes:
    return os.path.abspath(os.fsencode(path))
