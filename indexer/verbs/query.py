"""query: the nearest neighbours of pictures, indexed or new."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..embed.embedder import NO_VECTOR, Embedder
from ..errors import InvalidArgument, PictureError, WrongModel
from ..halves import have_direction
from ..pictures.decode import MAX_PIXELS, to_rgb, upright
from ..pictures.scan import read_path
from ..records import ImageRecord, Match, Progress, QueryResult, Skipped
from ..store.rows import Passing, StoredModel
from ..store.store import Store
from ..store.vectors import as_stored
from .nearest import Graph, IndexFiles, Nearest, Neighbours, graph

Vectors = npt.NDArray[np.float32]
# what adding up float32 products may take from the score of a vector with itself, which is 1
_ROUNDING = 1e-6
# squared lengths from here to as much above 1 are had from float32, in a quarter of the time
_LEAST_SQUARE = 1e-20
# vectors that are brought to length 1 at once, in double precision
_AT_ONCE = 1024
_Asked: TypeAlias = "bytes | npt.NDArray[Any] | None"


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What to look for. where: an SQL condition; label: a class name; both let k stay k."""

    k: int = 10
    min_score: float = -1.0
    where: str | None = None
    label: str | None = None
    include_self: bool = False
    max_pixels: int = MAX_PIXELS

    def check(self) -> None:
        """Raises InvalidArgument for values that cannot be meant."""
        if not isinstance(self.k, Integral):
            raise InvalidArgument(f"k={self.k!r} is no number of neighbours. Give a whole number.")
        if self.k < 1:
            raise InvalidArgument(f"k={self.k} asks for nothing. Give 1 or more.")
        if not -1.0 <= self.min_score <= 1.0:
            raise InvalidArgument(f"min_score={self.min_score} is no cosine similarity. Give -1 to 1; 1 is the same.")
        if self.where is not None and not self.where.strip():
            raise InvalidArgument("An empty condition was refused. Write an SQL condition, or leave it out.")


def query(
    store: Store, files: IndexFiles, pictures: Sequence[Any], embedder: Callable[[], Embedder], options: QueryOptions
) -> tuple[list[QueryResult], list[Skipped]]:
    """The neighbours of each picture: a path, an image of the catalog, a PIL image, a uint8 RGB array (H, W, 3), or a
    vector (dim,).

    embedder: asked for when a picture is not in the catalog. Pictures that cannot be used come second.
    """
    options.check()
    started = time.monotonic()
    asked, skipped = _read(pictures)
    with store.snapshot():
        model = store.require_model()
        passing = store.images.where(options.where, options.label)
        vectors = [_known(store, model, one) for one in asked]
        for i, picture in enumerate(pictures):
            if isinstance(picture, ImageRecord) and vectors[i] is None:
                asked[i] = None
                skipped.append(Skipped(picture.path, "not in the catalog any more"))
        new = [i for i, one in enumerate(asked) if one is not None and vectors[i] is None]
        found = None if new else _answers(store, files, model, pictures, vectors, passing, options)
    if found is None:  # a model takes a while, and a build that ends meanwhile cannot seal beside somebody who reads
        for i, row in _embedded([(i, pictures[i], asked[i]) for i in new], embedder(), skipped, options.max_pixels):
            if have_direction(row[None]).all():
                vectors[i] = as_stored(row[None])[0]
            else:
                skipped.append(Skipped(_name(pictures[i]), NO_VECTOR))
        with store.snapshot():
            if store.require_model().id != model.id:
                raise WrongModel("The catalog went over to another model meanwhile. Ask again.")
            passing = store.images.where(options.where, options.label)
            found = _answers(store, files, store.require_model(), pictures, vectors, passing, options)
    share = (time.monotonic() - started) / max(len(pictures), 1)
    usable = [picture for picture, row in zip(pictures, vectors, strict=True) if row is not None]
    results = [QueryResult(_name(picture), matches, share) for picture, matches in zip(usable, found, strict=True)]
    return results, skipped


def _answers(
    store: Store,
    files: IndexFiles,
    model: StoredModel,
    pictures: Sequence[Any],
    vectors: Sequence[Vectors | None],
    passing: Passing | None,
    options: QueryOptions,
) -> list[tuple[Match, ...]]:
    """What is near each picture that has a vector; for use within Store.snapshot()."""
    search = Nearest(store, files, model)
    contents = None if passing is None else passing.contents
    images = None if passing is None else frozenset(passing.images.tolist())
    usable = [(picture, row) for picture, row in zip(pictures, vectors, strict=True) if row is not None]
    rows = np.array([row for _, row in usable], np.float32).reshape(len(usable), model.id.dim)
    best = search.search(rows, int(options.k) + (not options.include_self), contents)
    return [
        _matches(store, picture, dict(zip(ids, scores, strict=True)), options, images)
        for (picture, _), ids, scores in zip(usable, best.ids.tolist(), best.scores.tolist(), strict=True)
    ]


def nearest(
    store: Store, files: IndexFiles, vectors: npt.ArrayLike, k: int, where: str | None, label: str | None
) -> Neighbours:
    """The nearest contents of many vectors, (N, dim), as arrays."""
    QueryOptions(k, where=where).check()
    with store.snapshot():
        model = store.require_model()
        given = _numbers(vectors)
        if given.ndim != 2 or given.shape[1] != model.id.dim:
            raise InvalidArgument(f"Vectors of shape {given.shape} were given; this takes (N, {model.id.dim}).")
        passing = store.images.where(where, label)
        contents = None if passing is None else passing.contents
        return Nearest(store, files, model).search(_unit(given), int(k), contents)


def knn_graph(store: Store, files: IndexFiles, k: int, progress: Callable[[Progress], None]) -> Graph:
    """The nearest neighbours of every content, as arrays."""
    QueryOptions(k).check()
    with store.snapshot():
        return graph(store, files, store.require_model(), int(k), progress)


def _matches(
    store: Store, picture: Any, best: dict[int, float], options: QueryOptions, images: frozenset[int] | None
) -> tuple[Match, ...]:
    """Contents become images here: every content has at least one, so k contents are enough for k images."""
    itself = None if options.include_self else _image_of(store, picture)
    scores = {content: score for content, score in best.items() if score >= options.min_score - _ROUNDING}
    held = store.images.of(list(scores))
    chosen = [
        (score, image)
        for content, score in scores.items()
        for image in held.get(content, [])
        if image != itself and (images is None or image in images)
    ]
    records = store.images.by_id([image for _, image in chosen])
    ranked = sorted(((score, records[image]) for score, image in chosen), key=lambda pair: (-pair[0], pair[1].path))
    return tuple(Match(rank, score, image) for rank, (score, image) in enumerate(ranked[: options.k], 1))


def _read(pictures: Sequence[Any]) -> tuple[list[_Asked], list[Skipped]]:
    """What to look up or to embed for each picture: its file's digest, an RGB array (H, W, 3), or a vector (dim,).

    None where there is nothing; those come second.
    """
    asked: list[_Asked] = []
    skipped: list[Skipped] = []
    for picture in pictures:
        try:
            asked.append(_read_one(picture))
        except PictureError as error:
            asked.append(None)
            skipped.append(Skipped(_name(picture), error.reason))
    return asked, skipped


def _read_one(picture: Any) -> _Asked:
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, ImageRecord):
        return bytes.fromhex(picture.sha256)
    if isinstance(picture, (str, os.PathLike)):
        return read_path(os.fsencode(picture)).sha256
    if hasattr(picture, "convert"):
        try:
            return np.asarray(to_rgb(upright(picture)))
        except (OSError, ValueError, SyntaxError) as error:  # as Pillow's plugins say that a file is damaged
            raise PictureError(f"it cannot be decoded ({error})") from None
    raise InvalidArgument(f"A {type(picture).__name__} is no picture. Give a path, a PIL image, an array or a vector.")


def _known(store: Store, model: StoredModel, asked: _Asked) -> Vectors | None:
    """The unit vector, (dim,), of what has one already."""
    if isinstance(asked, bytes):
        content = store.images.content_of(asked)
        return None if content is None else store.vectors.of_content(content, model)
    return _checked(asked, model.id.dim) if asked is not None and asked.ndim == 1 else None


def _embedded(
    new: Sequence[tuple[int, Any, _Asked]], embedder: Embedder, skipped: list[Skipped], max_pixels: int
) -> Iterator[tuple[int, Vectors]]:
    """Place and vector of each picture that can be used. Files are read again, so that few are in memory at once."""
    from .embed import stretches  # and the decoders, which a picture of the catalog does not need

    arrays = {i: pixels for i, _, pixels in new if isinstance(pixels, np.ndarray)}
    files = [(i, path) for i, path, _ in new if i not in arrays]
    if arrays:
        yield from zip(arrays, embedder.embed(list(arrays.values())), strict=True)
    with closing(stretches(embedder, [path for _, path in files], skipped, max_pixels)) as batches:
        for places, pixels in batches:
            vectors = embedder.forward(pixels).vectors
            yield from zip((files[place][0] for place in places), vectors, strict=True)


def _checked(vector: npt.NDArray[Any], dim: int) -> Vectors:
    if len(vector) != dim:
        raise InvalidArgument(f"A vector of {len(vector)} numbers was given; this catalog's have {dim}.")
    unit: Vectors = _unit(_numbers(vector)[None])[0]
    return unit


def _numbers(vectors: Any) -> npt.NDArray[Any]:
    """What was given for vectors, as an array of real numbers."""
    try:
        array = np.asarray(vectors)
    except (ValueError, RuntimeError) as error:  # rows of several lengths; tensors that want gradients
        raise InvalidArgument(f"These vectors are no array ({error}). Give one of shape (N, dim).") from None
    if array.dtype.kind not in "fiu":
        raise InvalidArgument(f"Vectors of {array.dtype} were given; this takes real numbers.")
    return array


def _unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows (N, dim) of length 1. Raises InvalidArgument for one without a direction."""
    if vectors.dtype == np.float32:
        with np.errstate(all="ignore"):
            squares = np.matmul(vectors[:, None, :], vectors[:, :, None])[:, 0, 0]
            if ((squares > _LEAST_SQUARE) & (squares < 1 / _LEAST_SQUARE)).all():
                unit: Vectors = vectors / np.sqrt(squares)[:, None]
                return unit
    if not have_direction(vectors).all():
        raise InvalidArgument("A vector that is zero or not finite has no direction. Give another.")
    unit = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _AT_ONCE):
        part = vectors[start : start + _AT_ONCE].astype(np.float64)
        part /= np.abs(part).max(axis=1, keepdims=True)  # whose squares neither overflow nor vanish
        unit[start : start + _AT_ONCE] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return unit


def _image_of(store: Store, picture: Any) -> int | None:
    if isinstance(picture, ImageRecord):
        picture = picture.path
    if not isinstance(picture, (str, os.PathLike)):
        return None
    path = os.fsencode(picture)
    place = store.images.place_of(os.path.abspath(path)) or store.images.place_of(os.path.realpath(path))
    return place[0] if place else None


def _name(picture: Any) -> str:
    if isinstance(picture, ImageRecord):
        return picture.path
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    return getattr(picture, "filename", None) or f"<{type(picture).__name__}>"
