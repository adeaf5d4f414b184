"""The second look, at the pictures themselves, for pairs that their signatures leave undecided. The door to OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from ..preprocess import Pixels

# Measured: of 110 copies that signatures left undecided it found 81 (the rest are too blurred or
# too plain), of 60 pairs of distinct photographs none; of 49 undecided pairs of film frames, 0.2 to 2 s apart, it
# took 21.
_LEAST_MATCHES, _LEAST_SHARE = 20, 0.78
_SIDE, _FEATURES, _RATIO = 512, 600, 0.8
_CONTRAST = 0.01  # a quarter of OpenCV's: blurred copies have faint features
_PIXELS_OFF = 3.0
_DEGENERATE = 0.2  # a picture laid over the other smaller than this, or as much larger, is no copy but an accident


@dataclass(frozen=True, slots=True)
class SecondLook:
    """What two pictures have in common.

    matches: features that are found in both. agreeing: how many of these one homography explains.
    """

    matches: int
    agreeing: int

    @property
    def probable(self) -> bool:
        """Whether they are probably copies: a burst of shots can still pass, so it is no certainty."""
        return self.agreeing >= max(_LEAST_MATCHES, _LEAST_SHARE * self.matches)


def look_again(left: Pixels, right: Pixels) -> SecondLook:
    """Compare two upright pictures by SIFT features and a MAGSAC homography; some 50 ms a pair. Either order will do.

    left, right: uint8 RGB, (H, W, 3), of any size.
    Raises InvalidArgument where OpenCV is not installed, or for other arrays.
    """
    cv2 = require()
    first, second = sorted((_small(cv2, left), _small(cv2, right)), key=lambda grey: (grey.shape, grey.tobytes()))
    sift = cv2.SIFT_create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    (points, features), (others, candidates) = (sift.detectAndCompute(grey, None) for grey in (first, second))
    if min(len(points), len(others)) < _LEAST_MATCHES:
        return SecondLook(0, 0)
    pairs = _distinct(cv2.BFMatcher(cv2.NORM_L2).knnMatch(features, candidates, k=2))
    if len(pairs) < _LEAST_MATCHES:
        return SecondLook(len(pairs), 0)
    source = np.array([points[i].pt for i, _ in pairs], np.float32)
    target = np.array([others[j].pt for _, j in pairs], np.float32)
    cv2.setRNGSeed(0)  # the same answer every time
    homography, agreeing = cv2.findHomography(source, target, cv2.USAC_MAGSAC, _PIXELS_OFF)
    if homography is None or not _plausible(homography):
        return SecondLook(len(pairs), 0)
    return SecondLook(len(pairs), int(agreeing.sum()))


def require() -> Any:
    """OpenCV. Raises InvalidArgument where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise InvalidArgument("A thorough comparison needs an extra: pip install opencv-python-headless") from None
    return cv2


def _small(cv2: Any, pixels: Pixels) -> Any:
    """Grey, with a long side of at most 512."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InvalidArgument(
            f"A picture must be a uint8 RGB array (H, W, 3), not {pixels.dtype} {pixels.shape}. Convert it."
        )
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = min(_SIDE / max(height, width), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _distinct(found: Any) -> list[tuple[int, int]]:
    """Matches that are clearly nearer than the second best, no feature twice. Source: Lowe, 2004, section 7.1."""
    nearer = [one for one, other in found if one.distance < _RATIO * other.distance]
    by_target = {match.trainIdx: match for match in sorted(nearer, key=lambda match: -match.distance)}
    return [(match.queryIdx, match.trainIdx) for match in by_target.values()]


def _plausible(homography: npt.NDArray[np.float64]) -> bool:
    """Whether it neither mirrors nor shrinks a picture to almost nothing."""
    scale = float(np.linalg.det(homography[:2, :2]))
    return _DEGENERATE**2 <= scale <= 1 / _DEGENERATE**2
