"""From a folder to a model that computes: what is taken, what is converted, what is refused and how."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from indexer import ModelError
from indexer.embed.eva import TimmEmbedder
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY
from .hostile import Payload
from .random_models import save_model

Weights = dict[str, torch.Tensor]


def load(folder: Path | str) -> TimmEmbedder:
    return TimmEmbedder.load(str(folder), device="cpu", precision="fp32")


def refusal(folder: Path | str) -> str:
    """What ModelError says: one line, of a length that a terminal shows."""
    with pytest.raises(ModelError) as caught:
        load(folder)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 600
    assert text.endswith((".", "?"))
    return text


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A small model to spoil."""
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change({name: tensor.clone() for name, tensor in load_file(file).items()}), file)


def reconfigure(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("architecture", ["eva02_tiny_patch14_336", "eva_large_patch14_196", "test_resnet"])
def test_the_files_tensors_are_taken_as_they_are(architecture: str, tmp_path: Path) -> None:
    arguments = {} if architecture == "test_resnet" else {"embed_dim": 64, "depth": 2, "num_heads": 2}
    folder = save_model(architecture, tmp_path / "model", **arguments)
    dice = torch.random.get_rng_state()
    model = load(folder)._model
    assert torch.equal(torch.random.get_rng_state(), dice)  # nothing was filled with random numbers first
    file = load_file(folder / "model.safetensors")
    taken = model.state_dict()
    assert taken.keys() == file.keys()
    assert all(torch.equal(taken[name], tensor) for name, tensor in file.items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["trained", "small", "eva02_tiny_patch14_336"])
def test_what_is_computed_and_not_in_the_file(name: str, small_folder: Path, tmp_path: Path) -> None:
    """EVA-02's rotary positions, and the key bias that is always zero."""
    folders = {"trained": EVA_TINY, "small": small_folder}
    folder = folders.get(name) or save_model(name, tmp_path / "model")
    ours = load(folder)._model
    timms = timm.create_model(f"local-dir:{folder}", pretrained=True)
    stored = timms.state_dict().keys()
    computed = {name: buffer for name, buffer in timms.named_buffers() if name not in stored}
    assert any(name.startswith("rope") for name in computed)
    assert dict(ours.named_buffers()).keys() == dict(timms.named_buffers()).keys()
    for name, buffer in computed.items():
        assert torch.equal(ours.get_buffer(name), buffer), name


def test_half_precision_weights_compute_in_fp32(folder: Path, arrays: list[Pixels]) -> None:
    expected = load(folder).embed(arrays)
    rewrite(folder, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    embedder = load(folder)
    assert {parameter.dtype for parameter in embedder._model.parameters()} == {torch.float32}
    assert (embedder.embed(arrays) * expected).sum(axis=1).min() > 0.9999


def test_names_that_timm_converts(folder: Path, arrays: list[Pixels]) -> None:
    """As a training script with DistributedDataParallel saves them."""
    expected = load(folder).embed(arrays)
    rewrite(folder, lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()})
    assert np.allclose(load(folder).embed(arrays), expected, atol=1e-6)


def test_shapes_that_timm_converts(folder: Path, arrays: list[Pixels]) -> None:
    """Positions of 4 x 4 patches for a model of 6 x 6."""
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    reconfigure(folder, model_args={**arguments, "img_size": 48})
    embedder = load(folder)
    assert embedder.preprocess.size == (48, 48)
    assert embedder.tokens(arrays[:1]).shape == (1, 37, 64)
    assert np.isfinite(embedder.embed(arrays)).all()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.pth", "model.pth"])
def test_tensors_in_a_pickle(folder: Path, arrays: list[Pixels], name: str) -> None:
    before = load(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    after = load(folder)
    assert np.allclose(after.embed(arrays), before.embed(arrays), atol=1e-6)
    assert after.id.weights != before.id.weights


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused(folder: Path, tmp_path: Path, how: str) -> None:
    mark, file = tmp_path / "was here", folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    if how == "torch":
        torch.save({"head.weight": Payload(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"head.weight": Payload(mark)}, protocol=2))
    assert "weights_only" in refusal(folder)
    assert not mark.exists()


def test_safetensors_come_before_a_pickle(folder: Path, tmp_path: Path) -> None:
    before = load(folder).id
    torch.save({"head.weight": Payload(tmp_path / "was here")}, folder / "pytorch_model.bin")
    assert load(folder).id == before
    assert not (tmp_path / "was here").exists()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def scramble(data: bytes) -> bytes:
    return data[:8] + bytes(byte ^ 0x55 for byte in data[8:80]) + data[80:]


@pytest.mark.parametrize("damage", [cut, scramble, lambda _: b"", lambda _: b"<html>404</html>"])
def test_damaged_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    text = refusal(folder)
    assert text.startswith(f"The model {folder} cannot be loaded: ")
    assert text.endswith("Check its config.json and model.safetensors.")


def without_head(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name != "head.weight"}


def with_narrow_head(weights: Weights) -> Weights:
    return {**weights, "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}


@pytest.mark.parametrize("change", [without_head, with_narrow_head, lambda _: {"x": torch.zeros(1)}])
def test_weights_of_another_model(folder: Path, change: Callable[[Weights], Weights]) -> None:
    rewrite(folder, change)
    assert "cannot be loaded: Error(s) in loading state_dict for Eva: " in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"eva"', '{"architecture": "no_such_model"}', "\x00\xff"])
def test_damaged_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert refusal(folder).startswith(f"The model {folder} cannot be loaded: ")


def test_a_model_for_other_channels(tmp_path: Path) -> None:
    folder = save_model("test_resnet", tmp_path / "model", in_chans=1)
    assert "takes 1 channels. Choose a model for RGB" in refusal(folder)


@pytest.mark.parametrize("architecture", ["gemma4_vit_167m_enc", "qwen3_vit_88m_enc"])
def test_an_encoder_of_a_language_model(architecture: str, tmp_path: Path) -> None:
    """These have no pooled pre-logits; timm says so only where they are asked for."""
    folder = save_model(architecture, tmp_path / "model", embed_dim=64, depth=1, num_heads=2)
    assert "is an encoder that gives no pooled pre-logits. Choose another: indexer models." in refusal(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"The folder {folder} holds no model.safetensors. Put the weights beside its config.json."


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder) == (
        f"The folder {folder} holds no config.json. Give a folder with config.json and model.safetensors."
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eva02_tinny_patch14_336", ["timm knows no model", "Did you mean eva02_tiny_patch14_336"]),
        ("eva_large_patch14_196.in22k_ft_in1q", ["knows no weights", "There are: in22k_ft_in1k, in22k_ft_in22k_in1k"]),
        ("qqqqqqqqqqqq", ["timm knows no model 'qqqqqqqqqqqq'", "See indexer models"]),
        ("botnet50ts_256", ["no weights for it", "Give a folder that holds them"]),
        ("someone/model", ["There is no folder someone/model", "hf-hub:someone/model"]),
        ("./models/mine", ["There is no folder ./models/mine"]),
        ("~nobody-of-this-name/model", ["There is no folder ~nobody-of-this-name/model"]),
        ("local-dir:/there/is/none", ["The folder /there/is/none holds no model.safetensors"]),
        ("hf-hub:one/two/three", ["one/two/three", "Repo id must be in the form"]),
        ("x" * 300, ["timm knows no model"]),
        ("", ["holds no config.json"]),
    ],
)
def test_names_that_lead_nowhere(name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(name)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("spelling", ["{}", "local-dir:{}", "{}/", "{}/../model"])
def test_a_folder_can_be_spelled_in_many_ways(folder: Path, spelling: str) -> None:
    embedder = load(spelling.format(folder))
    assert embedder.source == spelling.format(folder)
    assert embedder.id == load(folder).id


def test_a_folder_may_have_a_colon_in_its_name(folder: Path, small_folder: Path) -> None:
    other = shutil.copytree(folder, folder.with_name("model: mine"))
    assert load(str(other)).id == load(small_folder).id


def test_the_same_model_in_another_folder(folder: Path, small_folder: Path) -> None:
    assert load(folder).id == load(small_folder).id
    assert load(folder).id.key == load(small_folder).id.key


def test_other_weights_are_another_model(folder: Path, small_folder: Path) -> None:
    rewrite(folder, lambda weights: {**weights, "head.bias": weights["head.bias"] + 1})
    one, other = load(folder).id, load(small_folder).id
    assert one.name == other.name
    assert one.key != other.key


@pytest.mark.parametrize("change", [{"crop_pct": 0.9}, {"interpolation": "bilinear"}, {"mean": [0.5, 0.5, 0.5]}])
def test_other_preprocessing_is_another_model(folder: Path, small_folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    reconfigure(folder, pretrained_cfg={**config, **change})
    one, other = load(folder).id, load(small_folder).id
    assert one.weights == other.weights
    assert one.key != other.key


def test_the_name_says_which_weights(folder: Path) -> None:
    assert load(EVA_TINY).id.name == "eva02_tiny_patch14_224.tiny_imagenet_64"
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    del config["tag"]
    reconfigure(folder, pretrained_cfg=config)
    assert load(folder).id.name == "eva02_tiny_patch14_336"


def test_classes_are_those_of_imagenet(folder: Path) -> None:
    classes = load(folder).classes
    assert len(classes) == 1000
    assert classes[0] == ("n01440764", "tench, Tinca tinca")


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    folder = save_model("test_vit", tmp_path / "model", num_classes=7)
    assert load(folder).classes == [(str(index), str(index)) for index in range(7)]
