"""The sixteen EVA and EVA-02 models that are known to work, as data.

Source: the timm model card of eva_large_patch14_196.in22k_ft_in22k_in1k, 'Model Comparison' (ImageNet-1k top-1 and
top-5, parameters, image size), and each model's own card (GMACs).
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "eva_large_patch14_196.in22k_ft_in22k_in1k"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model of the card.

    dim: width of the pooled pre-logits. input_size: side of the square input in pixels. parameters: millions.
    gmacs: 10^9 multiply-accumulates a picture. top1, top5: ImageNet-1k accuracy in percent.
    """

    name: str
    dim: int
    input_size: int
    parameters: float
    gmacs: float
    top1: float
    top5: float


ZOO = (
    KnownModel("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", 1024, 448, 305.08, 362.3, 90.054, 99.042),
    KnownModel("eva02_large_patch14_448.mim_in22k_ft_in22k_in1k", 1024, 448, 305.08, 362.3, 89.946, 99.010),
    KnownModel("eva_giant_patch14_560.m30m_ft_in22k_in1k", 1408, 560, 1014.45, 1906.8, 89.792, 98.992),
    KnownModel("eva02_large_patch14_448.mim_in22k_ft_in1k", 1024, 448, 305.08, 362.3, 89.626, 98.954),
    KnownModel("eva02_large_patch14_448.mim_m38m_ft_in1k", 1024, 448, 305.08, 362.3, 89.570, 98.918),
    KnownModel("eva_giant_patch14_336.m30m_ft_in22k_in1k", 1408, 336, 1013.01, 620.6, 89.560, 98.956),
    KnownModel("eva_giant_patch14_336.clip_ft_in1k", 1408, 336, 1013.01, 620.6, 89.466, 98.820),
    KnownModel("eva_large_patch14_336.in22k_ft_in22k_in1k", 1024, 336, 304.53, 191.1, 89.214, 98.854),
    KnownModel("eva_giant_patch14_224.clip_ft_in1k", 1408, 224, 1012.56, 267.2, 88.882, 98.678),
    KnownModel("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", 768, 448, 87.12, 107.1, 88.692, 98.722),
    KnownModel("eva_large_patch14_336.in22k_ft_in1k", 1024, 336, 304.53, 191.1, 88.652, 98.722),
    KnownModel("eva_large_patch14_196.in22k_ft_in22k_in1k", 1024, 196, 304.14, 61.6, 88.592, 98.656),
    KnownModel("eva02_base_patch14_448.mim_in22k_ft_in1k", 768, 448, 87.12, 107.1, 88.230, 98.564),
    KnownModel("eva_large_patch14_196.in22k_ft_in1k", 1024, 196, 304.14, 61.6, 87.934, 98.504),
    KnownModel("eva02_small_patch14_336.mim_in22k_ft_in1k", 384, 336, 22.13, 15.5, 85.740, 97.614),
    KnownModel("eva02_tiny_patch14_336.mim_in22k_ft_in1k", 192, 336, 5.76, 4.7, 80.658, 95.524),
)
