"""From what a model is called to the model with its weights. The door to timm, and to the hub."""

from __future__ import annotations

import difflib
import hashlib
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from ..errors import ModelError, OutOfMemory
from ..preprocess import RESAMPLING
from ..records import ModelId, Preprocess
from .devices import is_out_of_memory

SAFE_WEIGHTS = "model.safetensors"
# read by timm with weights_only=True where there is nothing better
OTHER_WEIGHTS = ("pytorch_model.bin", "pytorch_model.pth", "model.pth")

_KNOCK_SECONDS = 10


def load_model(source: str) -> tuple[torch.nn.Module, str, str]:
    """The model with its weights, in eval mode; what timm calls it; and the SHA-256 of the weights in hex.

    source: as for load_embedder(). Raises ModelError with the ways out, and OutOfMemory.
    The model is laid out on torch's meta device and takes the file's tensors as they are: nothing is filled with
    random numbers first. Where names or shapes differ, timm's own loading converts the weights.
    """
    name = _spec(source)
    spec, file = _weights(name)
    try:
        with ThreadPoolExecutor(1) as thread:  # hashing lets the interpreter go, so it costs next to nothing here
            digest = thread.submit(_sha256, file)
            model = _assigned(spec, file) if file.suffix == ".safetensors" else None
            if model is None:
                overlay = None if spec.startswith("local-dir:") else {"file": str(file)}
                model = timm.create_model(spec, pretrained=True, pretrained_cfg_overlay=overlay)
            return model.eval().requires_grad_(False), name, digest.result()
    except Exception as error:  # whatever a damaged weight file or a wrong config makes torch, timm or json raise
        if is_out_of_memory(error):
            raise OutOfMemory(f"{source} does not fit in memory. Choose a smaller model: indexer models.") from error
        raise ModelError(
            f"The model {source} cannot be loaded: {_first_line(error)}. Check its config.json and {file.name}."
        ) from error


def outline(source: str) -> Any:
    """The model that load_embedder() takes this for, in eval mode, without any numbers: on torch's meta device."""
    spec, _ = _weights(_spec(source))
    with torch.device("meta"):
        return timm.create_model(spec, pretrained=False).eval().requires_grad_(False)


def input_shape(model: torch.nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of what it takes."""
    channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    return channels, height, width


def model_id(model: torch.nn.Module, spec: str, weights: str, numerics: str) -> ModelId:
    """What vectors of a model are known by. spec: what timm calls it. weights: their SHA-256 in hex."""
    pretrained: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    config = timm.data.resolve_model_data_config(model)
    if config["input_size"][0] != 3:
        raise ModelError(f"{spec} takes {config['input_size'][0]} channels. Choose a model for RGB: indexer models.")
    if not hasattr(model, "get_classifier"):  # which every backbone of timm has, without a classifier too
        raise ModelError(f"{spec} is an encoder that gives no pooled pre-logits. Choose another: indexer models.")
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


def classes_of(model: Any) -> list[tuple[str, str]]:
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
    kind, _, place = spec.partition(":")
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


def _dim(model: Any) -> int:
    """Width of the pooled pre-logits; models that have a hidden layer in their head say so."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):  # torch lists what is missing or does not fit below it
        lines[0] += " " + "".join(lines[1:2]).strip()
    return lines[0].rstrip(" .:")[:200]


def _sha256(file: Path) -> str:
    # mapped, as the loading does it too: a gigabyte is not copied on the way
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return hashlib.sha256(whole).hexdigest()
