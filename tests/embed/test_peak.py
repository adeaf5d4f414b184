"""What is counted of a model, against the figures of its card, and the machine's own products."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.embed import loading, peak
from indexer.embed.zoo import DEFAULT_MODEL, ZOO

from ..conftest import EVA_TINY
from .conftest import needs_int8


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "eva02_tiny_patch14_336.mim_in22k_ft_in1k"])
def test_operations_are_those_of_the_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_weights", lambda spec: (spec, Path()))  # they are not needed
    (known,) = (known for known in ZOO if known.name == name)
    assert peak.operations(name) == pytest.approx(2e9 * known.gmacs, rel=0.01)


def test_operations_of_a_model_that_passes_parameters_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """CaiT's class token goes as it is into layers whose operations are counted."""
    monkeypatch.setattr(loading, "_weights", lambda spec: (spec, Path()))
    assert peak.operations("cait_xxs24_224") == pytest.approx(2 * 2.53e9, rel=0.02)  # GMACs, as timm's results say


def test_operations_of_a_folder_and_of_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak.operations(str(EVA_TINY)) == pytest.approx(0.369e9, rel=0.01)
    monkeypatch.setattr(loading, "_weights", lambda spec: (spec, Path()))
    assert peak.operations("resnet18") == pytest.approx(2 * 1.8e9, rel=0.02)  # 1.8 GMACs, as timm's results say


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
def test_a_rate_of_products(precision: str) -> None:
    assert 1e7 < peak.product_rate("cpu", precision, 0.01) < 1e15


def test_only_cuda_devices_have_a_name() -> None:
    assert peak.device_name("cpu") is None
