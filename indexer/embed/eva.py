"""A timm backbone on torch: EVA above all, and any other with pooled pre-logits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..errors import InvalidArgument, ModelError, OutOfMemory
from ..machine import cores
from ..preprocess import Pixels
from ..records import FLOAT, INT8, Label, ModelId, Preprocess
from .devices import DTYPES, choose_batch_size, choose_device, choose_precision, is_out_of_memory, kernels
from .embedder import TOP_LABELS, Embedded, Vectors, count_of_labels, fitted
from .fused import fuse
from .loading import classes_of, load_model, model_id
from .pipeline import SLOTS, Outputs, Pipeline, saved_by_compiling
from .streams import Finish, in_order, in_threads, wanted

# batches that a thread of its own should have before it: the others wait for the last one's end
_BATCHES_A_THREAD = 8

T = TypeVar("T")


class TimmEmbedder:
    """An Embedder over a timm model; see load_embedder()."""

    def __init__(
        self, model: torch.nn.Module, id: ModelId, source: str, device: torch.device, precision: str, batch_size: int
    ) -> None:
        """The model must be in eval mode; it is moved to the device and the precision."""
        self.id = id
        self.source = source
        self.precision = precision
        self.batch_size = batch_size
        self.classes = classes_of(model)
        self.remarks: list[str] = []
        self._device = device
        self._dtype = DTYPES[precision]
        if device.type == "cuda" and precision in ("bf16", "fp16"):
            fuse(model)
        self._model: Any = model.to(device=device, dtype=self._dtype)
        self._kernels = kernels(device, precision)
        if device.type != "cuda":
            _interruptible(model)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(self.preprocess.mean, device=device).mul(255).reshape(shape)
        self._std = torch.tensor(self.preprocess.std, device=device).mul(255).reshape(shape)

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        numerics: str = FLOAT,
    ) -> TimmEmbedder:
        """See load_embedder(); on one device."""
        where = choose_device(device)
        how = choose_precision(precision, where, numerics)
        if batch_size is not None and batch_size < 1:
            raise InvalidArgument(f"A batch of {batch_size} pictures is none. Give --batch-size 1 or more.")
        model, spec, weights = load_model(source)
        id = model_id(model, spec, weights, INT8 if how == INT8 else FLOAT)
        return cls(model, id, source, where, how, batch_size or choose_batch_size(where, id.preprocess))

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._device)

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become its input."""
        return self.id.preprocess

    def forward(self, batch: Pixels, k: int | None = None) -> Embedded:
        """Vectors and classes of fitted pictures, uint8 (N, H, W, 3), in one forward pass each; see Embedder.forward().

        Out of memory halves the batch and goes on.
        Raises OutOfMemory when one single picture does not fit the device.
        """
        labels = count_of_labels(self, k)
        if not len(batch):
            nothing = np.empty((0, labels), np.float32)
            return Embedded(np.empty((0, self.id.dim), np.float32), nothing.astype(np.int64), nothing)
        return _joined(self._in_batches(batch, lambda part: self._embed_once(part, labels)))

    def forward_tokens(self, batch: Pixels) -> Vectors:
        """Unpooled features of fitted pictures, uint8 (N, H, W, 3), as tokens() gives them; see Embedder."""
        if not len(batch):
            return np.empty((0, 0, self.id.dim), np.float32)
        return np.concatenate(self._in_batches(batch, self._tokens_once))

    def stream(self, batches: Iterable[Pixels | None], total: int | None = None) -> Generator[Embedded | None]:
        """forward() of one batch after the other; see Embedder.stream().

        On CUDA pictures and results are copied while the device computes, batches have one shape and are launched as a
        CUDA graph, and the model is compiled where the pictures to come are many enough. On a CPU the cores work on
        several batches at a time where there are enough: cores that share one wait for each other at every layer, and
        for any that is busy otherwise.
        """
        if self._device.type == "cuda":
            return self._piped(batches, total or 0)
        return self._shared_out(batches, total or 0)

    def _shared_out(self, batches: Iterable[Pixels | None], total: int) -> Generator[Embedded | None]:
        before = torch.get_num_threads()
        allowed = min(before, cores())
        streams = allowed if self._device.type == "cpu" else 1
        threads = max(1, min(streams, total // (self.batch_size * _BATCHES_A_THREAD)))
        each = allowed // threads
        try:
            with threadpool_limits(each, "blas"):  # numpy's, see OpenBlasLinears
                yield from in_threads(batches, self.forward, threads, lambda: torch.set_num_threads(each))
        finally:
            torch.set_num_threads(before)  # torch's threads begin with what was set last, wherever

    def _piped(self, batches: Iterable[Pixels | None], total: int) -> Generator[Embedded | None]:
        pipeline, started = self._pipeline(), 0

        def start(batch: Pixels) -> Finish:
            nonlocal pipeline, started
            if pipeline.rows > self.batch_size:  # memory ran out since
                pipeline = self._pipeline()
            started += len(batch)
            timed = pipeline.seconds is not None
            try:
                if not len(batch) or len(batch) > pipeline.rows:
                    finished = self.forward(batch)
                    return lambda: finished
                finish = pipeline.start(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                halved = self.forward(batch)
                return lambda: halved
            if pipeline.seconds is not None and not timed:
                self._consider_compiling(pipeline, total - started)
            return finish

        return in_order(batches, start, SLOTS)

    def _pipeline(self) -> Pipeline:
        width = self.id.dim, min(TOP_LABELS, len(self.classes))
        return Pipeline(self._outputs, self._device, self.preprocess.size, self.batch_size, width)

    def _consider_compiling(self, pipeline: Pipeline, to_come: int) -> None:
        saved = saved_by_compiling(to_come, pipeline.seconds or 0.0)
        if saved > 0:
            self.remarks.append(
                f"The model was compiled: for {to_come:,} pictures that should save {saved:,.0f} s on the whole."
            )
            pipeline.compile(lambda: self.remarks.append("It could not be compiled, and went on as it was."))

    def embed(self, images: Sequence[Pixels]) -> Vectors:
        """Pooled pre-logits of a batch.

        images: uint8 RGB arrays of any size, (H, W, 3).
        Returns (N, dim) float32, unit length, in input order.
        Raises OutOfMemory when one single image does not fit the device.
        Source: the timm model card of eva_large_patch14_196.in22k_ft_in22k_in1k, 'Image Embeddings'.
        """
        return self.forward(fitted(images, self.preprocess)).vectors

    def tokens(self, images: Sequence[Pixels]) -> Vectors:
        """Unpooled features of a batch.

        images: uint8 RGB arrays of any size, (H, W, 3).
        Returns (N, T, dim) float32, as forward_features() gives them: (N, 197, 1024) for EVA-L/196, the class token
        first; for a convolutional model every place of its last feature map is a token.
        Raises ModelError as forward_tokens() does.
        """
        return self.forward_tokens(fitted(images, self.preprocess))

    def classify(self, images: Sequence[Pixels], k: int = TOP_LABELS) -> list[tuple[Label, ...]]:
        """The k most probable classes of each picture, best first.

        images: uint8 RGB arrays of any size, (H, W, 3).
        Raises ModelError for a model without a classifier.
        """
        return self.forward(fitted(images, self.preprocess), k).labels(self.classes)

    def _in_batches(self, batch: Pixels, run: Callable[[Pixels], T]) -> list[T]:
        results, start = [], 0
        while start < len(batch):
            part = batch[start : start + self.batch_size]
            try:
                with self._kernels, _threads_allowed():
                    results.append(run(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise OutOfMemory(
                        f"{self.id.name} does not fit {self.device} with a single picture. "
                        "Use --device cpu or a smaller model (indexer models)."
                    ) from None
                self.batch_size = len(part) // 2
                self.remarks.append(f"Memory ran out on {self.device}: batches are of {self.batch_size} now.")
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                start += len(part)
        return results

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unpooled features of uint8 pixels on the device, (N, H, W, 3); of a few kinds of models, a list."""
        normalised = pixels.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)  # (N, 3, H, W)
        features: torch.Tensor = self._model.forward_features(normalised.to(self._dtype))
        return features

    def _outputs(self, pixels: torch.Tensor, k: int = TOP_LABELS) -> Outputs:
        """What makes an Embedded, still on the device; nothing here waits for it."""
        features = self._features(pixels)
        pooled = self._model.forward_head(features, pre_logits=True).float()  # (N, dim)
        if pooled.ndim != 2:  # as a model gives them that was made with global_pool=""
            raise ModelError(f"{self.id.name} does not pool. Name a global_pool in the model_args of its config.json.")
        vectors = torch.nn.functional.normalize(pooled)
        # a zero vector has no direction, and NaN or Inf would spread through every index it enters
        sound = torch.isfinite(pooled).all(1) & (vectors.square().sum(1) > 0.5)
        vectors = torch.where(sound[:, None], vectors, torch.nan)
        if not self.classes:
            empty = vectors[:, :0]
            return vectors, empty.long(), empty
        logits = self._model.forward_head(features).float()
        top = logits.softmax(1).topk(min(k, len(self.classes)))
        return vectors, top.indices, top.values

    @torch.inference_mode()
    def _embed_once(self, batch: Pixels, k: int) -> Embedded:
        outputs = self._outputs(torch.from_numpy(batch).to(self._device), k)
        vectors, indices, probabilities = (output.cpu().numpy() for output in outputs)
        return Embedded(vectors, indices, probabilities)

    @torch.inference_mode()
    def _tokens_once(self, batch: Pixels) -> Vectors:
        features = self._features(torch.from_numpy(batch).to(self._device))
        if not isinstance(features, torch.Tensor):  # of several branches or stages: CrossViT, CoaT, EfficientViM
            raise ModelError(f"The tokens of {self.id.name} are of several lengths. Take its pooled vectors instead.")
        if features.ndim == 4:  # (N, C, H, W), or (N, H, W, C) where the channels come last
            channels_last = features.shape[-1] == self._model.num_features != features.shape[1]
            features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        tokens: Vectors = features.float().cpu().numpy()
        return tokens


@contextmanager
def _threads_allowed() -> Iterator[None]:
    """Have torch take no more threads than cores may be used: it counts those of the machine, also in a container."""
    before = torch.get_num_threads()
    if before == 1 or before <= (allowed := cores()):  # one where batches are shared out, see stream()
        yield
        return
    torch.set_num_threads(allowed)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _interruptible(model: torch.nn.Module) -> None:
    """Have a forward pass that nobody waits for any more end at its next costly layer."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_pre_hook(lambda *_: wanted())


def _joined(parts: Sequence[Embedded]) -> Embedded:
    if len(parts) == 1:
        return parts[0]
    return Embedded(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )
