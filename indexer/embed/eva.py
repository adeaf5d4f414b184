"""A timm backbone on torch: EVA above all, and any other with pooled pre-logits. The one door to torch and timm."""

from __future__ import annotations

import difflib
import hashlib
import logging
import mmap
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits

from ..errors import InvalidArgument, ModelError, OutOfMemory
from ..machine import cores
from ..preprocess import RESAMPLING, Pixels
from ..records import FLOAT, INT8, Label, ModelId, Preprocess
from .embedder import TOP_LABELS, Embedded, Vectors, count_of_labels, fitted
from .fused import fuse
from .linears import Int8Linears, best_linears, can_int8
from .pipeline import SLOTS, Outputs, Pipeline, saved_by_compiling
from .streams import Finish, in_order, in_threads, wanted

# int8 is for the products alone; what lies between them stays in fp32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, INT8: torch.float32}
BATCH_SIZES = {"cuda": 256, "mps": 32}
# on a CPU a batch gains little, and what a layer gives should stay in the caches: four pictures of 196 x 196, or fewer
# where they are larger, whose single ones are as much work
_CPU_BATCH, _CPU_PIXELS = 4, 4 * 196 * 196
SAFE_WEIGHTS = "model.safetensors"
# read by timm with weights_only=True where there is nothing better
OTHER_WEIGHTS = ("pytorch_model.bin", "pytorch_model.pth", "model.pth")

_KNOCK_SECONDS = 10
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
        self.classes = _classes(model)
        self.remarks: list[str] = []
        self._device = device
        self._dtype = DTYPES[precision]
        if device.type == "cuda" and precision in ("bf16", "fp16"):
            fuse(model, timm.layers.Mlp)
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
        spec = _spec(source)
        model, weights = _load(spec, source)
        id = _model_id(model, spec, weights, INT8 if how == INT8 else FLOAT)
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
        """Unpooled features of fitted pictures, uint8 (N, H, W, 3), as tokens() gives them."""
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
                if not _is_out_of_memory(error):
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
                if not _is_out_of_memory(error):
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
        """Unpooled features of uint8 pixels on the device, (N, H, W, 3)."""
        normalised = pixels.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)  # (N, 3, H, W)
        features: torch.Tensor = self._model.forward_features(normalised.to(self._dtype))
        return features

    def _outputs(self, pixels: torch.Tensor, k: int = TOP_LABELS) -> Outputs:
        """What makes an Embedded, still on the device; nothing here waits for it."""
        features = self._features(pixels)
        pooled = self._model.forward_head(features, pre_logits=True).float()  # (N, dim)
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
        if features.ndim == 4:  # (N, C, H, W), or (N, H, W, C) where the channels come last
            channels_last = features.shape[-1] == self._model.num_features != features.shape[1]
            features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        tokens: Vectors = features.float().cpu().numpy()
        return tokens


def choose_device(wanted: str) -> torch.device:
    """The torch device for 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.

    Raises InvalidArgument for one that is unknown or not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device.type not in there:
        raise InvalidArgument(f"There is no device '{wanted}'. Use auto, cpu, cuda, cuda:N or mps.")
    if not there[device.type] or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise InvalidArgument(f"This machine has no {wanted} that torch can use. Leave --device out, or use cpu.")
    return device


def choose_devices(wanted: str) -> list[str]:
    """The devices that embed together: all GPUs for 'cuda', else the one that choose_device() takes."""
    device = choose_device(wanted)
    if wanted == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def choose_batch_size(device: torch.device, preprocess: Preprocess) -> int:
    """Pictures in a forward pass."""
    if device.type != "cpu":
        return BATCH_SIZES[device.type]
    height, width = preprocess.size
    return min(max(round(_CPU_PIXELS / (height * width)), 1), _CPU_BATCH)


def choose_precision(wanted: str, device: torch.device, numerics: str = FLOAT) -> str:
    """'fp32', 'bf16', 'fp16' or 'int8'; 'auto' is what the device does well and gives vectors of such numerics.

    bf16 on a CPU without matrix units is several times slower than fp32, so it is chosen with AMX only.
    """
    if wanted not in (*DTYPES, "auto"):
        raise InvalidArgument(f"There is no precision '{wanted}'. Use auto, {', '.join(DTYPES)}.")
    if wanted == INT8 or (wanted == "auto" and numerics == INT8):
        if device.type != "cpu" or not can_int8():
            raise InvalidArgument(
                f"int8 is for CPUs, with a torch that has oneDNN; not for {device} here. "
                "Use --device cpu; or, for a catalog without int8 vectors, another --precision."
            )
        return INT8
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 cannot tell
    if device.type == "cpu" and capabilities.get("amx_bf16"):
        return "bf16"
    return "fp32"


def kernels(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Within what a model of this precision runs."""
    if precision == INT8:
        return Int8Linears()
    linears = best_linears() if device.type == "cpu" and precision == "fp32" else None
    return linears() if linears else nullcontext()


@contextmanager
def _threads_allowed() -> Iterator[None]:
    """Have torch take no more threads than cores may be used: it counts those of the machine, also in a container."""
    before, allowed = torch.get_num_threads(), cores()
    if before <= allowed:
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


def outline(source: str) -> Any:
    """The model that load_embedder() takes this for, in eval mode, without any numbers: on torch's meta device."""
    spec, _ = _weights(_spec(source))
    with torch.device("meta"):
        return timm.create_model(spec, pretrained=False).eval()


def input_shape(model: torch.nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of what it takes."""
    channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    return channels, height, width


def _spec(source: str) -> str:
    """What timm calls it: a folder as 'local-dir:PATH', a name as itself."""
    if source.startswith(("hf-hub:", "local-dir:")):
        return source
    folder = Path(os.path.expanduser(source))
    if os.path.isdir(folder):  # where Path.is_dir() raises for a name that is too long, this is False
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"The folder {source} holds no config.json. Give a folder with config.json and {SAFE_WEIGHTS}."
            )
        return f"local-dir:{folder.resolve()}"
    if "/" in source:
        raise ModelError(f"There is no folder {source}. For a model of the hub write hf-hub:{source}.")
    architecture = source.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(source, timm.list_models(pretrained=True) + timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "See indexer models, or timm.list_models()."
        raise ModelError(f"timm knows no model '{source}'. {hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if "." in source and source.partition(".")[2] not in tags:
        raise ModelError(f"timm knows no weights '{source}'. There are: {', '.join(tags) or 'none'}.")
    return source


def _load(spec: str, source: str) -> tuple[torch.nn.Module, str]:
    """The model with its weights, in eval mode, and the SHA-256 of the weights in hex.

    The model is laid out on torch's meta device and takes the file's tensors as they are: nothing is filled with
    random numbers first. Where names or shapes differ, timm's own loading converts the weights.
    """
    spec, file = _weights(spec)
    try:
        with ThreadPoolExecutor(1) as thread:  # hashing lets the interpreter go, so it costs next to nothing here
            digest = thread.submit(_sha256, file)
            model = _assigned(spec, file) if file.suffix == ".safetensors" else None
            if model is None:
                overlay = None if spec.startswith("local-dir:") else {"file": str(file)}
                model = timm.create_model(spec, pretrained=True, pretrained_cfg_overlay=overlay)
            return model.eval().requires_grad_(False), digest.result()
    except Exception as error:  # whatever a damaged weight file or a wrong config makes torch, timm or json raise
        if _is_out_of_memory(error):
            raise OutOfMemory(f"{source} does not fit in memory. Choose a smaller model: indexer models.") from error
        raise ModelError(
            f"The model {source} cannot be loaded: {_first_line(error)}. Check its config.json and {file.name}."
        ) from error


def _assigned(spec: str, file: Path) -> torch.nn.Module | None:
    """The model with the file's own tensors, or None where they need converting first."""
    weights = load_file(file)
    with torch.device("meta"):
        model: torch.nn.Module = timm.create_model(spec, pretrained=False)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in weights.items()}:
        return None
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        # buffers that are computed, not stored: EVA-02's rotary position tables
        unset = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        if unset and not hasattr(module, "init_non_persistent_buffers"):
            return None
        for name in unset:
            setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
        if unset:
            module.init_non_persistent_buffers()  # type: ignore[operator]
    if any(buffer.is_meta for buffer in model.buffers()):
        return None
    return model


def _weights(spec: str) -> tuple[str, Path]:
    """What timm is to be asked for, and the weight file, fetched from the hub where need be."""
    kind, _, place = spec.rpartition(":")
    if kind == "local-dir":
        for name in (SAFE_WEIGHTS, *OTHER_WEIGHTS):
            if (file := Path(place) / name).is_file():
                return spec, file
        raise ModelError(f"The folder {place} holds no {SAFE_WEIGHTS}. Put the weights beside its config.json.")
    if kind == "hf-hub":
        config = _download(place, ("config.json",))
        same_commit = f"{place.partition('@')[0]}@{config.parent.name}"
        return f"local-dir:{config.parent}", _download(same_commit, (SAFE_WEIGHTS, *OTHER_WEIGHTS))
    pretrained = timm.get_pretrained_cfg(spec)
    if pretrained is None or not pretrained.hf_hub_id:
        raise ModelError(f"timm knows the architecture {spec}, but no weights for it. Give a folder that holds them.")
    repository = pretrained.hf_hub_id
    if repository.endswith("/"):
        repository += ".".join(filter(None, (pretrained.architecture, pretrained.tag)))
    named = (pretrained.hf_hub_filename,) if pretrained.hf_hub_filename else (SAFE_WEIGHTS, *OTHER_WEIGHTS)
    return spec, _download(repository, named)


def _download(repository: str, names: Sequence[str]) -> Path:
    """The first of some files that a hub repository has; one that is in the cache is taken without a question."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    id, _, revision = repository.partition("@")
    try:
        for name in names:
            if isinstance(cached := try_to_load_from_cache(id, name, revision=revision or None), str):
                return Path(cached)
        with _quiet("huggingface_hub"):
            for name in names:
                try:
                    _knock(id, name, revision or None)
                except EntryNotFoundError:
                    continue
                return Path(hf_hub_download(id, name, revision=revision or None))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"The hub has no {repository}, or does not show it to everyone. "
            "Check the name; set HF_TOKEN if it is private."
        ) from error
    except Exception as error:  # HTTP, network and cache errors come from several libraries
        why = "the hub cannot be reached" if isinstance(error, ConnectionError) else _first_line(error)
        raise ModelError(
            f"The weights of {repository} are not on this machine, and {why}. Connect and try "
            "again; or copy the hub cache of a machine that has them; or give --model a folder with config.json and "
            "model.safetensors."
        ) from error
    raise ModelError(f"The repository {id} holds none of {', '.join(names)}. See: indexer models.")


def _knock(id: str, name: str, revision: str | None) -> None:
    """Ask for a file once: the download itself would ask a hub that is out of reach again and again for half a minute.

    Raises ConnectionError, or what the hub says.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(hf_hub_url(id, name, revision=revision), timeout=_KNOCK_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:  # of the HTTP library below, whichever that is
        raise ConnectionError(str(error)) from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's warnings to itself: what they come to is said in the error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _model_id(model: torch.nn.Module, spec: str, weights: str, numerics: str) -> ModelId:
    pretrained: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    config = timm.data.resolve_model_data_config(model)
    if config["input_size"][0] != 3:
        raise ModelError(f"{spec} takes {config['input_size'][0]} channels. Choose a model for RGB: indexer models.")
    preprocess = Preprocess(
        size=tuple(config["input_size"][1:]),
        interpolation=config["interpolation"] if config["interpolation"] in RESAMPLING else "bicubic",
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
    )
    architecture, tag = pretrained.get("architecture") or spec, pretrained.get("tag")
    name = f"{architecture}.{tag}" if tag else architecture
    return ModelId(name, weights, preprocess, dim=_dim(model), numerics=numerics)


def _dim(model: Any) -> int:
    """Width of the pooled pre-logits; models that have a hidden layer in their head say so."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _classes(model: Any) -> list[tuple[str, str]]:
    """Name and description of every class, by index."""
    count = int(getattr(model, "num_classes", 0) or 0)
    names = model.pretrained_cfg.get("label_names")
    descriptions = model.pretrained_cfg.get("label_descriptions") or {}
    if names is None and (subset := timm.data.infer_imagenet_subset(model)):
        info = timm.data.ImageNetInfo(subset)
        names, descriptions = info.label_names(), info.label_descriptions(as_dict=True)
    if not names or len(names) != count:
        return [(str(index), str(index)) for index in range(count)]
    return [(str(name), str(descriptions.get(name, name))) for name in names]


def _joined(parts: Sequence[Embedded]) -> Embedded:
    if len(parts) == 1:
        return parts[0]
    return Embedded(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):  # torch lists what is missing or does not fit below it
        lines[0] += " " + "".join(lines[1:2]).strip()
    return lines[0].rstrip(" .:")[:200]


def _sha256(file: Path) -> str:
    # mapped, as the loading does it too: a gigabyte is not copied on the way
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return hashlib.sha256(whole).hexdigest()
