"""What timm itself gives, by the code of the model card: one picture at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image

from indexer import Embedder, load_embedder
from indexer.embed.embedder import Vectors


@dataclass(frozen=True)
class Card:
    """What the model card's code gives."""

    output: torch.Tensor  # (N, dim): of the model without a classifier
    pooled: torch.Tensor  # (N, dim): forward_features, then forward_head with pre_logits
    features: list[Any]  # of each picture, (1, T, C), or a feature map; of a few kinds of models a list of these
    probabilities: torch.Tensor  # (N, classes)


def load(folder: Path, batch_size: int | None = None) -> Embedder:
    return load_embedder(str(folder), device="cpu", precision="fp32", batch_size=batch_size)


@torch.inference_mode()
def card(folder: Path, pictures: list[Image.Image]) -> Card:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    inputs = [transform(picture).unsqueeze(0) for picture in pictures]
    output = torch.cat([model(batch) for batch in inputs])

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    features = [model.forward_features(batch) for batch in inputs]
    pooled = torch.cat([model.forward_head(one, pre_logits=True) for one in features])
    probabilities = torch.cat([model.forward_head(one).softmax(1) for one in features])
    return Card(output, pooled, features, probabilities)


def unit(rows: torch.Tensor) -> Vectors:
    directions: Vectors = torch.nn.functional.normalize(rows).numpy()
    return directions


def cosines(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    products: npt.NDArray[np.float64] = np.sum(left * right, axis=1, dtype=np.float64)
    return products
