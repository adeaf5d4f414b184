"""query: the nearest neighbours of pictures, indexed or new."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..embed.embedder import NO_VECTOR, Embedder
from ..errors import CatalogError, InvalidArgument, PictureError
from ..pictures.decode import MAX_PIXELS, to_rgb
from ..pictures.scan import read_path
from ..preprocess import Pixels
from ..records import Match, QueryResult, Skipped
from ..store.rows import StoredModel
from ..store.store import Store
from ..store.vectors import as_stored
from .nearest import Graph, IndexFiles, Nearest, Neighbours, graph

Vectors = npt.NDArray[np.float32]


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
        if self.k < 1:
            raise InvalidArgument(f"k={self.k} asks for nothing. Give 1 or more.")
        if not -1.0 <= self.min_score <= 1.0:
            raise InvalidArgument(f"min_score={self.min_score} is no cosine similarity. Give -1 to 1; 1 is the same.")


def query(
    store: Store, files: IndexFiles, pictures: Sequence[Any], embedder: Callable[[], Embedder], options: QueryOptions
) -> tuple[list[QueryResult], list[Skipped]]:
    """The neighbours of each picture: a path, a PIL image, a uint8 RGB array (H, W, 3), or a vector (dim,).

    embedder: asked for when a picture is not in the catalog. Pictures that cannot be used come second.
    """
    options.check()
    started = time.monotonic()
    with store.snapshot():
        model = _model(store)
        passing = store.images.where(options.where, options.label)
        vectors, skipped = _vectors(store, model, pictures, embedder, options.max_pixels)
        search = Nearest(store, files, model)
        contents = None if passing is None else passing.contents
        images = None if passing is None else frozenset(passing.images.tolist())
        usable = [(picture, row) for picture, row in zip(pictures, vectors, strict=True) if row is not None]
        rows = np.array([row for _, row in usable], np.float32).reshape(len(usable), model.id.dim)
        best = search.search(rows, options.k + (not options.include_self), contents)
        matches = [
            _matches(store, picture, dict(zip(ids, scores, strict=True)), options, images)
            for (picture, _), ids, scores in zip(usable, best.ids.tolist(), best.scores.tolist(), strict=True)
        ]
    share = (time.monotonic() - started) / max(len(pictures), 1)
    results = [QueryResult(_name(usable[i][0]), found, share) for i, found in enumerate(matches)]
    return results, skipped


def nearest(
    store: Store, files: IndexFiles, vectors: npt.NDArray[Any], k: int, where: str | None, label: str | None
) -> Neighbours:
    """The nearest contents of many vectors, (N, dim), as arrays."""
    QueryOptions(k).check()
    with store.snapshot():
        model = _model(store)
        if vectors.ndim != 2 or vectors.shape[1] != model.id.dim:
            raise InvalidArgument(f"Vectors of shape {vectors.shape} were given; this takes (N, {model.id.dim}).")
        passing = store.images.where(where, label)
        contents = None if passing is None else passing.contents
        return Nearest(store, files, model).search(_unit(vectors), k, contents)


def knn_graph(store: Store, files: IndexFiles, k: int) -> Graph:
    """The nearest neighbours of every content, as arrays."""
    QueryOptions(k).check()
    with store.snapshot():
        return graph(store, files, _model(store), k)


def _model(store: Store) -> StoredModel:
    model = store.model()
    if model is None:
        raise CatalogError("The catalog holds no vectors yet. Fill it with: indexer build FOLDER.")
    return model


def _matches(
    store: Store, picture: Any, best: dict[int, float], options: QueryOptions, images: frozenset[int] | None
) -> tuple[Match, ...]:
    """Contents become images here: every content has at least one, so k contents are enough for k images."""
    itself = None if options.include_self else _image_of(store, picture)
    scores = {content: score for content, score in best.items() if score >= options.min_score}
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


def _vectors(
    store: Store, model: StoredModel, pictures: Sequence[Any], embedder: Callable[[], Embedder], max_pixels: int
) -> tuple[list[Vectors | None], list[Skipped]]:
    """A unit vector for every picture, None where there is none. Only contents that are new go through the model."""
    found: list[Vectors | None] = [None] * len(pictures)
    skipped: list[Skipped] = []
    files: list[int] = []
    arrays: dict[int, Pixels] = {}
    for i, picture in enumerate(pictures):
        try:
            known = _known_vector(store, model, picture)
        except PictureError as error:
            skipped.append(Skipped(_name(picture), error.reason))
            continue
        if known is None:
            files.append(i)
        elif known.ndim == 1:
            found[i] = known
        else:
            arrays[i] = known
    if files or arrays:
        for i, row in _embedded([(i, pictures[i]) for i in files], arrays, embedder(), skipped, max_pixels):
            if np.isfinite(row).all():
                found[i] = as_stored(row[None])[0]
            else:
                skipped.append(Skipped(_name(pictures[i]), NO_VECTOR))
    return found, skipped


def _embedded(
    files: Sequence[tuple[int, Any]],
    arrays: dict[int, Pixels],
    embedder: Embedder,
    skipped: list[Skipped],
    max_pixels: int,
) -> Iterator[tuple[int, Vectors]]:
    """Place and vector of each picture that can be used. Files are read again, so that few are in memory at once."""
    from .embed import stretches  # and the decoders, which a picture of the catalog does not need

    if arrays:
        yield from zip(arrays, embedder.embed(list(arrays.values())), strict=True)
    with closing(stretches(embedder, [path for _, path in files], skipped, max_pixels)) as batches:
        for places, pixels in batches:
            vectors = embedder.forward(pixels).vectors
            yield from zip((files[place][0] for place in places), vectors, strict=True)


def _known_vector(store: Store, model: StoredModel, picture: Any) -> npt.NDArray[Any] | None:
    """The vector, (dim,), or else what is to be embedded: an RGB array (H, W, 3), or None for a file.

    Raises PictureError for a file that is no picture.
    """
    if isinstance(picture, np.ndarray) and picture.ndim == 1:
        return _checked(picture, model.id.dim)
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        known = store.images.content_of(read_path(os.fsencode(picture)).sha256)
        return store.vectors.of_content(known, model) if known is not None else None
    if hasattr(picture, "convert"):
        return np.asarray(to_rgb(picture))
    raise InvalidArgument(f"A {type(picture).__name__} is no picture. Give a path, a PIL image, an array or a vector.")


def _checked(vector: npt.NDArray[Any], dim: int) -> Vectors:
    if len(vector) != dim:
        raise InvalidArgument(f"A vector of {len(vector)} numbers was given; this catalog's have {dim}.")
    unit: Vectors = _unit(vector[None])[0]
    return unit


def _unit(vectors: npt.NDArray[Any]) -> Vectors:
    if not np.isfinite(vectors).all() or not np.any(vectors, axis=1).all():
        raise InvalidArgument("A vector that is zero or not finite has no direction. Give another.")
    whole = np.asarray(vectors, np.float64)  # whose squares neither overflow nor vanish
    unit: Vectors = (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _image_of(store: Store, picture: Any) -> int | None:
    if not isinstance(picture, (str, os.PathLike)):
        return None
    place = store.images.place_of(os.path.abspath(os.fsencode(picture)))
    return place[0] if place else None


def _name(picture: Any) -> str:
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    return getattr(picture, "filename", None) or f"<{type(picture).__name__}>"
