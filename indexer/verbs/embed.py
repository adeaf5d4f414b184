"""embed and classify: what the model says of some pictures, without a catalog."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..embed.embedder import NO_VECTOR, Embedder, finite
from ..errors import InvalidArgument, PictureError
from ..files import replacement
from ..pictures.decode import MAX_PIXELS
from ..pictures.prepare import Limits
from ..pictures.single import prepare_each
from ..preprocess import Pixels
from ..records import Label, Skipped

Paths = Sequence["str | os.PathLike[str]"]


def embed_files(
    embedder: Embedder, paths: Paths, out: Path, *, tokens: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[int, ...], list[Skipped]]:
    """Write the pooled pre-logits (N, dim) or tokens (N, T, dim) of some pictures, float32, as one .npy file.

    Rows are in the order of the paths, without the skipped ones, which come second. The file appears when complete;
    where there is no row at all, none is written, and one that is there stays.
    """
    require_ending(out)
    skipped: list[Skipped] = []
    shape: tuple[int, ...] = (0, embedder.id.dim)
    with (
        suppress(_Nothing),
        replacement(out) as temporary,
        temporary.open("wb") as file,
        closing(stretches(embedder, paths, skipped, max_pixels)) as batches,
    ):
        _write_header(file, shape)
        for places, pixels in batches:
            if tokens:
                rows = embedder.forward_tokens(pixels)
                usable = finite(rows)
            else:
                embedded = embedder.forward(pixels)
                rows, usable = embedded.vectors, embedded.usable
            skipped += _without_vector(paths, places, usable)
            rows = np.ascontiguousarray(rows[usable])
            file.write(rows.tobytes())
            shape = (shape[0] + len(rows), *rows.shape[1:])
        if not shape[0]:
            raise _Nothing
        file.seek(0)
        _write_header(file, shape)  # numpy leaves room in the header for the rows to grow
    return shape, skipped


def require_ending(out: Path) -> None:
    """Raises InvalidArgument for a name that is none of a .npy file."""
    if out.suffix.lower() != ".npy":
        raise InvalidArgument(f"{out} does not end in .npy. Name the file that way; it is NumPy's format.")


class _Nothing(Exception):
    """No picture could be used."""


def classify_files(
    embedder: Embedder, paths: Paths, k: int, *, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[str, tuple[Label, ...]] | Skipped]:
    """The k most probable classes of each picture, in order, skips inline."""
    skipped: list[Skipped] = []
    with closing(stretches(embedder, paths, skipped, max_pixels)) as batches:
        for places, pixels in batches:
            embedded = embedder.forward(pixels, k)
            usable = embedded.usable
            skipped += _without_vector(paths, places, usable)
            for place, fine, labels in zip(places, usable, embedded.labels(embedder.classes), strict=True):
                if fine:
                    yield os.fspath(paths[place]), labels
    yield from skipped


def stretches(
    embedder: Embedder, paths: Paths, skipped: list[Skipped], max_pixels: int
) -> Generator[tuple[list[int], Pixels], None, None]:
    """At most a batch each: places in `paths`, and fitted pictures for Embedder.forward(), (N, H, W, 3).

    What cannot be used is added to `skipped`.
    """
    places: list[int] = []
    pixels: list[Pixels] = []
    full = [os.fsencode(path) for path in paths]
    with closing(prepare_each(full, embedder.preprocess, Limits.for_pixels(max_pixels))) as pictures:
        for place, picture in enumerate(pictures):
            if isinstance(picture, PictureError):
                skipped.append(Skipped(os.fspath(paths[place]), picture.reason))
                continue
            places.append(place)
            pixels.append(picture.pixels)
            if len(places) >= embedder.batch_size:
                yield places, np.stack(pixels)
                places, pixels = [], []
        if places:
            yield places, np.stack(pixels)


def _without_vector(paths: Paths, places: Sequence[int], usable: npt.NDArray[np.bool_]) -> Iterator[Skipped]:
    return (Skipped(os.fspath(paths[place]), NO_VECTOR) for place, fine in zip(places, usable, strict=True) if not fine)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
