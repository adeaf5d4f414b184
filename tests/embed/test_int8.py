"""Products in int8: how near they come, that no picture depends on another, and that they never mix with float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from indexer import Catalog, InvalidArgument, WrongModel, load_embedder
from indexer.catalog import Loader
from indexer.embed import devices
from indexer.embed.agreement import agreement
from indexer.embed.embedder import Vectors
from indexer.embed.eva import TimmEmbedder
from indexer.embed.linears import Int8Linears
from indexer.preprocess import Pixels

from ..conftest import EVA_TINY, PHOTOS
from .conftest import needs_int8

pytestmark = needs_int8


def load(precision: str, batch_size: int = 8) -> TimmEmbedder:
    return TimmEmbedder.load(str(EVA_TINY), device="cpu", precision=precision, batch_size=batch_size)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 64), (2, 197, 64), (1, 64), (64,), (0, 64)])
def test_a_product_is_nearly_the_same(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = torch.nn.Linear(64, 192, bias=bias), torch.randn(shape) + 1
    plain = layer(rows)
    mode = Int8Linears()
    for _ in range(2):  # the second with weights that are quantised already
        with mode:
            product = layer(rows)
        assert product.shape == plain.shape
        assert torch.allclose(product, plain, atol=0.05)
        assert not len(plain) or not torch.equal(product, plain)


@torch.inference_mode()
def test_the_largest_numbers_do_not_overflow() -> None:
    """Where products are added in 16 bits, 255 * 127 twice would be too much."""
    layer = torch.nn.Linear(256, 8, bias=False)
    layer.weight.fill_(1.0)
    rows = torch.ones(4, 256)
    rows[:, ::17] = -1.0
    with Int8Linears():
        assert torch.allclose(layer(rows), rows.sum(1, keepdim=True).expand(4, 8), rtol=1e-4)


@torch.inference_mode()
def test_rows_of_one_number_and_weights_of_zero() -> None:
    layer = torch.nn.Linear(16, 3)
    layer.weight[1] = 0
    rows = torch.stack([torch.zeros(16), torch.full((16,), 5.0), torch.full((16,), -2.0)])
    with Int8Linears():
        assert torch.allclose(layer(rows), layer.weight.sum(1) * rows[:, :1] + layer.bias, atol=0.05)


@torch.inference_mode()
def test_nothing_that_is_no_number_is_hidden() -> None:
    layer, rows = torch.nn.Linear(16, 3), torch.ones(2, 16)
    rows[0, 3] = torch.nan
    with Int8Linears():
        assert layer(rows).isnan().any(1).tolist() == [True, False]


def test_vectors_agree_with_fp32(fitted: Pixels) -> None:
    found = agreement(load("int8").forward(fitted).vectors, load("fp32").forward(fitted).vectors)
    assert 0.99 < found.lowest_cosine <= found.mean_cosine < 0.999999
    assert found.same_first >= 0.9


def test_a_vector_does_not_depend_on_its_batch(fitted: Pixels) -> None:
    whole = load("int8", batch_size=64).forward(fitted).vectors
    single = load("int8", batch_size=1).forward(fitted[:6]).vectors
    assert np.abs(whole[:6] - single).max() < 1e-3


def test_agreement_counts() -> None:
    def unit(*angles: float) -> Vectors:
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)

    found = agreement(unit(0, 0.1, 1.0, 1.2), unit(0, 0.1, 1.0, 3.0))
    assert found.mean_cosine == pytest.approx((3 + np.cos(1.8)) / 4)
    assert found.lowest_cosine == pytest.approx(np.cos(1.8), abs=1e-6)
    assert found.same_first == 0.75  # that of the third was the fourth, and is the second
    assert agreement(unit(0, 1, 3), unit(0, 1, 3)).same_first == 1


# -- what it means for a catalog ---------------------------------------------------------------------------------------


def test_it_is_part_of_the_model_id() -> None:
    whole, half, eight = load("fp32"), load("bf16"), load("int8")
    assert whole.id == half.id
    assert eight.id.numerics == eight.precision == "int8"
    assert eight.id.key != whole.id.key


def test_auto_is_what_the_numerics_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "best_linears", lambda _: None)
    assert load_embedder(str(EVA_TINY), device="cpu", numerics="int8").precision == "int8"
    assert load_embedder(str(EVA_TINY), device="cpu", numerics="int8", precision="fp32").precision == "fp32"
    assert load_embedder(str(EVA_TINY), device="cpu").precision == "fp32"


def test_auto_goes_to_the_cpu_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_embedder(str(EVA_TINY), precision="int8").device == "cpu"
    assert load_embedder(str(EVA_TINY), numerics="int8").device == "cpu"
    with pytest.raises(InvalidArgument, match=r"int8 is for CPUs.*not for cuda:0 here. Use --device cpu"):
        load_embedder(str(EVA_TINY), device="cuda:0", precision="int8")


def test_a_torch_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "can_int8", lambda: False)
    with pytest.raises(InvalidArgument, match="with a torch that has oneDNN"):
        load("int8")


def opened(folder: Path, precision: str) -> Catalog:
    def load(source: str, numerics: str = "float") -> object:
        return load_embedder(source, device="cpu", precision=precision, numerics=numerics)

    loader: Loader = load  # type: ignore[assignment]
    return Catalog.create(folder, model=None if (folder / "catalog.sqlite").exists() else str(EVA_TINY), loader=loader)


def test_a_catalog_remembers_it_and_refuses_others(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "catalog"
    with opened(folder, "int8") as made:
        assert made.build([pictures]).precision == "int8"
    (tmp_path / "new.png").write_bytes((PHOTOS / "bridge.jpg").read_bytes())
    with opened(folder, "auto") as later:
        assert later.embedder().id.numerics == "int8"
        assert len(later.query(tmp_path / "new.png", k=2)) == 2
    with opened(folder, "fp32") as other:
        with pytest.raises(WrongModel) as refusal:
            other.query(tmp_path / "new.png")
        assert str(refusal.value) == (
            "The catalog's vectors are int8, and float ones were asked for; they cannot be compared. "
            "Leave --precision out; or use another --catalog."
        )
        (pictures / "new.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
        with pytest.raises(WrongModel, match="add --switch-model"):
            other.build([pictures])
        report = other.build([pictures], switch_model=True)
        assert (report.embedded, report.precision) == (7, "fp32")
    with opened(folder, "auto") as after:
        assert after.embedder().id.numerics == "float"


def test_switching_happens_even_where_no_file_has_changed(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "catalog"
    with opened(folder, "fp32") as made:
        made.build([pictures])
    with opened(folder, "int8") as other:
        assert other.build([pictures], switch_model=True).embedded == 6
        assert other.embedder().id.numerics == "int8"
