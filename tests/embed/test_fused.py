"""Layers done in one go: on the CPU, where they must be exactly what they replace but for rounding."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from indexer.embed.fused import LinearGelu, PatchLinear, fuse


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "joined", "patches"),
    [
        ("vit_tiny_patch16_224", 12, 1),
        ("eva02_tiny_patch14_224", 0, 1),
        ("swin_tiny_patch4_window7_224", 12, 1),
        ("convnext_atto", 0, 4),
        ("davit_tiny", 12, 3),
        ("resnet18", 0, 0),
    ],
)
def test_a_model_gives_what_it_gave(name: str, joined: int, patches: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    pictures = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        before = model.forward_features(pictures)
        fuse(model)
        assert torch.allclose(model.forward_features(pictures), before, atol=1e-4)
    assert (kinds(model, LinearGelu), kinds(model, PatchLinear)) == (joined, patches)


def test_eva_l_has_its_layers_joined() -> None:
    with torch.device("meta"):
        model = timm.create_model("eva_large_patch14_196")
    fuse(model)
    assert (kinds(model, LinearGelu), kinds(model, PatchLinear)) == (24, 1)


def test_a_kind_of_convolution_that_does_more_stays() -> None:
    model = nn.Sequential(timm.layers.ScaledStdConv2d(3, 4, 2, stride=2, padding=0))  # it normalises its filters
    fuse(model)
    assert kinds(model, PatchLinear) == 0


def test_other_activations_and_other_layers_stay() -> None:
    class Other(timm.layers.Mlp):  # type: ignore[misc]
        """Somebody's own, who may do more between the layers."""

    for mlp in (timm.layers.Mlp(8, act_layer=nn.ReLU), timm.layers.Mlp(8, bias=False), Other(8)):
        fuse(mlp)
        assert kinds(mlp, LinearGelu) == 0


@pytest.mark.parametrize(("height", "width"), [(28, 28), (30, 43)])
@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_cut_as_the_convolution_cuts_them(height: int, width: int, bias: bool) -> None:
    """Also where a few rows and columns are left over, and with filters that are filled up."""
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 6, (14, 7), stride=(14, 7), bias=bias)
    linear = PatchLinear(conv)
    assert linear.weight.shape[1] % 8 == 0 != 3 * 14 * 7 % 8
    pictures = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        assert torch.allclose(linear(pictures), conv(pictures), atol=1e-5)
        assert linear(pictures).shape == conv(pictures).shape


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "groups": 2},
        {"kernel_size": 1, "stride": 1},
    ],
)
def test_a_convolution_that_does_more_stays(options: dict[str, int]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, **options))  # type: ignore[arg-type]
    fuse(model)
    assert kinds(model, PatchLinear) == 0
