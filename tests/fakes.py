"""A fake embedder that behaves: alike pictures get alike vectors, in microseconds and without torch."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import numpy as np

from indexer.embed.embedder import Embedded, Vectors, fitted
from indexer.embed.streams import in_threads
from indexer.preprocess import Pixels
from indexer.records import Label, ModelId, Preprocess

SIDE = 32
CLASSES = (("n1", "dark, dim"), ("n2", "grey"), ("n3", "bright, light"))


class FakeEmbedder:
    """Vectors are the picture shrunk to 4 x 4, centred; classes are its brightness. All-black pictures give NaN."""

    source = "fake"
    device = "cpu"
    precision = "fp32"
    classes = CLASSES
    remarks: Sequence[str] = ()

    def __init__(self, weights: str = "0" * 64, batch_size: int = 8) -> None:
        self.preprocess = Preprocess((SIDE, SIDE), "bilinear", crop_mode="squash")
        self.id = ModelId("fake", weights, self.preprocess, dim=48)
        self.batch_size = batch_size
        self.batches: list[int] = []

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        self.batches.append(len(batch))
        cells = batch.astype(np.float32).reshape(len(batch), 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(batch), -1)
        brightness = cells.mean(axis=1)
        vectors = cells - brightness[:, None] * 0.9
        with np.errstate(invalid="ignore"):
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        order = np.stack([np.argsort([b, abs(b - 128), 255 - b]) for b in brightness])
        probabilities = np.tile(np.array([[0.6, 0.3, 0.1]], np.float32), (len(batch), 1))
        return Embedded(vectors, order[:, :k], probabilities[:, :k])

    def forward_tokens(self, batch: Pixels) -> Vectors:
        return self.forward(batch).vectors[:, None, :]

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        for batch in batches:
            yield None if batch is None else self.forward(batch)

    def embed(self, images: Sequence[Pixels]) -> Vectors:
        return self.forward(fitted(images, self.preprocess)).vectors

    def tokens(self, images: Sequence[Pixels]) -> Vectors:
        return self.forward_tokens(fitted(images, self.preprocess))

    def classify(self, images: Sequence[Pixels], k: int = 5) -> list[tuple[Label, ...]]:
        return self.forward(fitted(images, self.preprocess), k).labels(CLASSES)


class AheadEmbedder(FakeEmbedder):
    """The same with a thread that works ahead, as real embedders do."""

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        return in_threads(batches, self.forward)
