"""Weights from the hub, its cache, and neither: the real client against a small server.

huggingface_hub reads its environment when it is imported, so every case has a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from indexer.embed.eva import TimmEmbedder

from ..conftest import PHOTOS
from .conftest import photo
from .hostile import Payload
from .hub import Hub
from .random_models import save_model

CAT = PHOTOS / "cat.jpg"
TINY = "hf-hub:someone/tiny"
PICKLED = "hf-hub:someone/pickled"
NAMED = "eva02_tiny_patch14_336.mim_in22k_ft_in1k"
NAMED_PICKLED = "test_vit.r160_in1k"
NAMED_HOSTILE = "test_vit2.r160_in1k"
SCRIPT = """
import json, sys, time

import numpy as np
from PIL import Image

from indexer import ModelError, load_embedder

time.sleep = lambda seconds: None  # the client waits 23 seconds in all before it gives up
picture = np.asarray(Image.open(sys.argv[1]).convert("RGB"))
for source in sys.argv[2:]:
    try:
        embedder = load_embedder(source, device="cpu", precision="fp32")
        print(json.dumps({"key": embedder.id.key, "vector": embedder.embed([picture])[0].tolist()}))
    except ModelError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Hub:
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(small_folder, folder / "someone" / "tiny")
    shutil.copytree(small_folder, folder / "someone" / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    as_pickle(shutil.copytree(small_folder, folder / "someone" / "pickled"))
    save_model(NAMED, folder / "timm" / NAMED)
    as_pickle(save_model(NAMED_PICKLED, folder / "timm" / NAMED_PICKLED))
    (folder / "timm" / NAMED_HOSTILE).mkdir()
    torch.save({"head.weight": Payload(folder / "was here")}, folder / "timm" / NAMED_HOSTILE / "pytorch_model.bin")
    return Hub(folder)


def as_pickle(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()


def run(hub: Hub, home: Path, *sources: str, offline: bool = False) -> list[dict[str, Any]]:
    """What each source gives in a fresh process: key and vector, or error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, "-c", SCRIPT, str(CAT), *sources]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME: what the first process fetched is there for those after it."""
    return tmp_path_factory.mktemp("home")


@dataclass(frozen=True)
class Fetched:
    """What a process gives that finds the hub at hand and nothing in the cache, and what it asked the hub."""

    results: dict[str, dict[str, Any]]
    requests: list[str]

    def __getitem__(self, source: str) -> dict[str, Any]:
        return self.results[source]


@pytest.fixture(scope="module")
def fetched(hub: Hub, home: Path) -> Fetched:
    good = [TINY, NAMED, PICKLED, NAMED_PICKLED, f"{TINY}@v1"]
    bad = [NAMED_HOSTILE, "hf-hub:someone/nothing", "hf-hub:someone/empty", f"{TINY}@v9"]
    with hub.running():
        results = run(hub, home, *good, *bad)
    return Fetched(dict(zip(good + bad, results, strict=True)), list(hub.requests))


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["key"] == other["key"] and np.allclose(one["vector"], other["vector"], atol=1e-5)


def same(result: dict[str, Any], folder: Path) -> bool:
    """Key and vector are those of the folder that the hub serves."""
    embedder = TimmEmbedder.load(str(folder), device="cpu", precision="fp32")
    vector = embedder.embed([np.asarray(photo(CAT.name))])[0]
    return agree(result, {"key": embedder.id.key, "vector": vector})


def no_way(repository: str) -> str:
    return (
        f"The weights of {repository} are not on this machine, and the hub cannot be reached. Connect and try again; "
        "or copy the hub cache of a machine that has them; or give --model a folder with config.json and "
        "model.safetensors."
    )


def test_a_repository(fetched: Fetched, hub: Hub) -> None:
    assert same(fetched[TINY], hub.folder / "someone" / "tiny")
    assert same(fetched[PICKLED], hub.folder / "someone" / "pickled")


def test_a_revision(fetched: Fetched) -> None:
    assert agree(fetched[f"{TINY}@v1"], fetched[TINY])


def test_a_name_that_timm_knows(fetched: Fetched, hub: Hub) -> None:
    assert same(fetched[NAMED], hub.folder / "timm" / NAMED)
    assert same(fetched[NAMED_PICKLED], hub.folder / "timm" / NAMED_PICKLED)
    assert f"HEAD /timm/{NAMED}/resolve/main/config.json" not in fetched.requests  # timm has it built in


def test_every_file_is_fetched_once(fetched: Fetched) -> None:
    assert fetched.requests.count("GET /someone/tiny/resolve/main/config.json") == 1
    assert fetched.requests.count("GET /storage/someone/tiny/model.safetensors") == 1
    assert fetched.requests.count(f"GET /storage/timm/{NAMED}/model.safetensors") == 1


def test_a_hostile_pickle(fetched: Fetched, hub: Hub) -> None:
    assert "weights_only=True blocked" in fetched[NAMED_HOSTILE]["error"]
    assert f"GET /timm/{NAMED_HOSTILE}/resolve/main/pytorch_model.bin" in fetched.requests
    assert not (hub.folder / "was here").exists()


def test_what_the_hub_does_not_have(fetched: Fetched) -> None:
    assert fetched["hf-hub:someone/nothing"]["error"] == (
        "The hub has no someone/nothing, or does not show it to everyone. "
        "Check the name; set HF_TOKEN if it is private."
    )
    assert fetched[f"{TINY}@v9"]["error"].startswith("The hub has no someone/tiny@v9")
    assert fetched["hf-hub:someone/empty"]["error"].startswith(
        "The repository someone/empty holds none of model.safetensors, pytorch_model.bin"
    )


def test_the_cache_is_taken_without_a_question(fetched: Fetched, hub: Hub, home: Path) -> None:
    with hub.running():
        hub.requests.clear()
        sources = [TINY, NAMED, NAMED_PICKLED, f"{TINY}@v1"]
        for source, result in zip(sources, run(hub, home, *sources), strict=True):
            assert agree(result, fetched[source])
        assert hub.requests == []


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "hub is down"])
def test_without_the_hub(fetched: Fetched, hub: Hub, home: Path, offline: bool) -> None:
    missing = "eva02_small_patch14_336.mim_in22k_ft_in1k"
    results = run(hub, home, TINY, NAMED, "hf-hub:someone/other", missing, offline=offline)
    assert agree(results[0], fetched[TINY])
    assert agree(results[1], fetched[NAMED])
    assert results[2]["error"] == no_way("someone/other")
    assert results[3]["error"] == no_way(f"timm/{missing}")
