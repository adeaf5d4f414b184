"""What an embedder is, and how to get one. Torch is only imported when one is loaded."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument, ModelError
from ..halves import have_direction
from ..preprocess import Pixels, fit_array
from ..records import FLOAT, INT8, Label, ModelId, Preprocess
from .zoo import DEFAULT_MODEL

Vectors = npt.NDArray[np.float32]
"""float32, (N, dim), unit rows."""

TOP_LABELS = 5
# why a picture is skipped for which a pass gives nothing usable
NO_VECTOR = "the model gives no usable vector for it"


@dataclass(frozen=True, slots=True)
class Embedded:
    """What one forward pass gives.

    vectors: pooled pre-logits, (N, dim) float32, unit rows; a row that is not finite comes as NaN.
    indices, probabilities: the most probable classes, (N, k), best first; k is 0 for a model without a classifier.
    """

    vectors: Vectors
    indices: npt.NDArray[np.int64]
    probabilities: Vectors

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Whether a vector has a direction, and all that was found of the picture is finite, (N,)."""
        return have_direction(self.vectors) & finite(self.probabilities)

    def labels(self, classes: Sequence[tuple[str, str]]) -> list[tuple[Label, ...]]:
        """The most probable classes by row. classes: the model's, see Embedder."""
        both = zip(self.indices.tolist(), self.probabilities.tolist(), strict=True)
        return [tuple(Label(classes[i][1], i, p) for i, p in zip(*row, strict=True)) for row in both]


class Embedder(Protocol):
    """A model that turns pictures into vectors.

    Pictures that are fitted to it already are one array, (N, H, W, 3), and pictures of any size a sequence of arrays:
    what takes the one does not take the other.
    """

    @property
    def id(self) -> ModelId:
        """What decides the vectors."""

    @property
    def source(self) -> str:
        """What load_embedder() was given, so that it can be given again."""

    @property
    def device(self) -> str:
        """Where it runs: 'cpu', 'cuda:0', 'mps'."""

    @property
    def precision(self) -> str:
        """How it computes: 'fp32', 'bf16', 'fp16', 'int8'."""

    @property
    def batch_size(self) -> int:
        """Pictures a forward pass."""

    @property
    def remarks(self) -> Sequence[str]:
        """What it has decided by itself and a person may want to know: that it has compiled, that memory ran out."""

    @property
    def classes(self) -> Sequence[tuple[str, str]]:
        """Name and description of every class, by index; empty for a model without a classifier."""

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become its input."""

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        """Vectors and classes of pictures that are fitted already.

        batch: uint8 RGB, (N, H, W, 3) of the model's input size. k: so many classes; None is up to TOP_LABELS.
        Raises ModelError for a k without a classifier, InvalidArgument for one that it has not.
        """

    def forward_tokens(self, batch: Pixels) -> Vectors:
        """Unpooled features of pictures that are fitted already, (N, T, dim). batch: as for forward().

        Raises ModelError for a model whose features are several tensors, of different lengths.
        """

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        """forward() of one batch after the other, in order, the next ones under way meanwhile.

        batches: as for forward(), of at most batch_size pictures; drawn in the caller's thread, a few ahead of what is
        given back. None is no batch, and comes back as None in its place. total: how many pictures are to come, at
        most; it decides what preparations pay.
        """

    def embed(self, images: Sequence[Pixels]) -> Vectors:
        """Pooled pre-logits of pictures of any size."""

    def tokens(self, images: Sequence[Pixels]) -> Vectors:
        """Unpooled features of pictures of any size, (N, T, dim)."""

    def classify(self, images: Sequence[Pixels], k: int = TOP_LABELS) -> list[tuple[Label, ...]]:
        """The k most probable classes of pictures of any size."""


def finite(rows: Vectors) -> npt.NDArray[np.bool_]:
    """Whether all numbers of a row are, (N,). rows: of any shape, (N, ...)."""
    found: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=tuple(range(1, rows.ndim)))
    return found


def fitted(images: Sequence[Pixels], spec: Preprocess) -> Pixels:
    """Pictures of any size as a batch for forward()."""
    if not len(images):
        return np.empty((0, *spec.size, 3), np.uint8)
    return np.stack([fit_array(np.asarray(image), spec) for image in images])


def count_of_labels(embedder: Embedder, k: int | None) -> int:
    """What k is for a model; see Embedder.forward()."""
    have = len(embedder.classes)
    if k is None:
        return min(TOP_LABELS, have)
    if not have:
        raise ModelError(f"{embedder.id.name} has no classifier. Choose a model with one: indexer models.")
    if not 1 <= k <= have:
        raise InvalidArgument(f"k={k} is outside 1 to {have}, the classes of {embedder.id.name}.")
    return k


def is_exact(embedder: Embedder) -> bool:
    """Whether its vectors deserve the last bit of the pixels: bf16 moves them as far as resizing that is not exact."""
    return embedder.precision == "fp32"


def located(model: str) -> str:
    """A model's name, or the whole path of its folder, so that it is found from everywhere."""
    folder = os.path.expanduser(model)
    return os.path.abspath(folder) if os.path.isdir(folder) else model


def load_embedder(
    model: str = DEFAULT_MODEL,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    numerics: str = FLOAT,
) -> Embedder:
    """A timm backbone, ready to embed.

    model: a timm name, 'hf-hub:OWNER/NAME', or a folder with config.json and model.safetensors.
    device: 'auto', 'cpu', 'cuda' (all GPUs of the machine, a process each), 'cuda:N' (one of them) or 'mps'.
    precision: 'auto', 'fp32', 'bf16', 'fp16', or 'int8' on a CPU. numerics: of the vectors that the new ones are to be
    compared with (ModelId.numerics); it says what 'auto' is.
    Raises ModelError with the ways out, InvalidArgument for an unknown device or precision.
    """
    from .devices import choose_devices
    from .eva import TimmEmbedder
    from .several import SeveralDevices

    if device == "auto" and INT8 in (precision, numerics if precision == "auto" else ""):
        device = "cpu"  # the only kind that has it
    devices = choose_devices(device)
    first = TimmEmbedder.load(model, device=devices[0], precision=precision, batch_size=batch_size, numerics=numerics)
    return SeveralDevices(first, devices) if len(devices) > 1 else first
