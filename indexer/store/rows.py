"""What goes into the store and what comes out of it, where that is not a record of the public API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..records import Fingerprint, ModelId, PictureInfo, Source

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The model that a catalog's vectors are of, and what it was loaded from."""

    row: int
    id: ModelId
    source: str


class Known(NamedTuple):
    """What the store knows of one file; it begins as a FoundFile does.

    reason None and image_id None: ignored. current: nothing is left to do.
    """

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    image_id: int | None
    reason: str | None
    current: int


class Entry(NamedTuple):
    """One image to store. info, fingerprint and vector are None where the content has them already.

    size: bytes. labels: (class index, probability), best first.
    """

    source: Source
    sha256: bytes
    size: int = 0
    info: PictureInfo | None = None
    fingerprint: Fingerprint | None = None
    vector: Vectors | None = None
    labels: tuple[tuple[int, float], ...] = ()


class Refusal(NamedTuple):
    """One file that is not indexed. reason None: it is no picture. tried_with: what would have to change."""

    source: Source
    reason: str | None
    tried_with: str


@dataclass(frozen=True, slots=True)
class Passing:
    """What a filter lets through: ids of contents and of images, both ascending, each once."""

    contents: Ids
    images: Ids


def has_vector(content: str, model: str = "?") -> str:
    """A condition: the content of a row has a vector of a model. model: what stands for its row in `models`."""
    return f"EXISTS (SELECT 1 FROM vectors WHERE vectors.content_id = {content} AND model_id = {model})"
