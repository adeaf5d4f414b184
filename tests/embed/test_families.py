"""Any timm backbone: the smallest architecture of each of its kinds, with random weights, against timm itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import timm
from PIL import Image

from indexer import Embedder, ModelError
from indexer.preprocess import Pixels

from .cards import Card, card, cosines, load, unit
from .random_models import save_model
from .test_parity import MODELS

# some of timm's own for such tests, and one whose features come as a list
QUICK = ["test_convnext", "test_efficientnet", "test_maxvit", "test_nfnet", "test_vit", "efficientvim_m1"]
# one of every other class of models in timm that has one of some 30 M parameters or fewer; with random weights, a
# change of 1e-7 in a picture gives other vectors of EfficientViT (MSRA), Next-ViT and StarNet in timm too
OTHERS = """
    cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_zepto_rms cpubone_nano crossvit_tiny_240
    cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b
    edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvim_m1_dist efficientvit_b0
    ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 gmlp_ti16_224
    hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_v3 lcnetv2_small
    legacy_seresnet18 legacy_xception levit_128s lowformer_b0 maxvit_pico_rw_256 mobilenetv2_035 mobilevit_xxs
    mvitv2_tiny nest_tiny nf_regnet_b0 pit_ti_224 poolformerv2_s12 pvt_v2_b0 rdnet_tiny regnetx_002
    repghostnet_050 repvit_m1 resnet10t resnetv2_18 rexnet_100 sam2_hiera_tiny selecsls42 sequencer2d_s shvit_s1
    swiftformer_xs swinv2_cr_tiny_224 swinv2_tiny_window16_256 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m
    twins_svt_small visformer_tiny vit_srelpos_small_patch16_224 vit_tiny_patch16_dinov3_qkvb volo_d1_224
    xception41p xcit_nano_12_p8_224
""".split()  # noqa: SIM905
SLOW = [*(name for name in timm.list_models("test_*") if name not in [*QUICK, *MODELS]), *OTHERS]


@dataclass(frozen=True)
class Case:
    """A model as it is loaded here, and as timm runs it on three pictures."""

    embedder: Embedder
    card: Card


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shapes: list[Image.Image]
) -> Iterator[Case]:
    folder = save_model(request.param, tmp_path_factory.mktemp("models") / request.param)
    yield Case(load(folder), card(folder, shapes[:3]))
    shutil.rmtree(folder)


def test_vectors_are_pooled_pre_logits(case: Case, arrays: list[Pixels]) -> None:
    vectors = case.embedder.embed(arrays[:3])
    assert vectors.shape == (3, case.embedder.id.dim)
    assert cosines(vectors, unit(case.card.output)).min() >= 0.99999
    assert cosines(vectors, unit(case.card.pooled)).min() >= 0.99999


def test_labels_are_the_whole_models(case: Case, arrays: list[Pixels]) -> None:
    if not case.embedder.classes:
        with pytest.raises(ModelError, match="has no classifier"):
            case.embedder.classify(arrays[:1])
        return
    best = case.card.probabilities.topk(5)
    for row, labels in enumerate(case.embedder.classify(arrays[:3])):
        assert np.allclose([label.probability for label in labels], best.values[row].numpy(), rtol=1e-2)
        assert [label.index for label in labels] == best.indices[row].tolist()


def test_tokens_are_what_is_pooled(case: Case, arrays: list[Pixels]) -> None:
    features = case.card.features[0]
    if isinstance(features, list):
        with pytest.raises(ModelError, match="of several lengths"):
            case.embedder.tokens(arrays[:1])
        return
    tokens = case.embedder.tokens(arrays[:1])
    assert tokens.ndim == 3
    expected = features.numpy()
    assert tokens.size == expected.size
    assert np.allclose(np.sort(tokens, None), np.sort(expected, None), rtol=1e-3, atol=1e-4 * np.abs(expected).max())
