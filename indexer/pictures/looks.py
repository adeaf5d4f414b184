"""What a picture looks like in 256 numbers: a second way to candidates, where colour and blur mislead the model.

The signature at 16 x 16 without its slow changes of brightness. Grey, recoloured, blurred and re-encoded copies keep
it; crops and borders do not, and are the model's to find.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE = 16
DIM = SIDE * SIDE
# how far around a place its surroundings reach, and what keeps flat pictures from becoming noise
_BOX, _FLOOR, _CLIP = 5, 3.0, 2.5


def looks(signatures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """Unit rows, (N, 256), of signatures, (N, 64 * 64); their products tell how alike two pictures are laid out.

    A picture without any structure has a zero row.
    """
    cells = signatures.reshape(-1, SIDE, 4, SIDE, 4).mean(axis=(2, 4), dtype=np.float32)  # (N, 16, 16)
    mean = _box(cells)
    deviation = np.sqrt(np.maximum(_box(cells * cells) - mean * mean, 0))
    local = np.clip((cells - mean) / (deviation + _FLOOR), -_CLIP, _CLIP).reshape(-1, DIM)
    lengths = np.linalg.norm(local, axis=1, keepdims=True)
    rows: npt.NDArray[np.float16] = (local / np.where(lengths < 1, np.inf, lengths)).astype(np.float16)
    return rows


def _box(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean around each place, edges repeated."""
    reach = _BOX // 2
    for axis in (1, 2):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(planes, pad, mode="edge"), _BOX, axis=axis)
        planes = windows.mean(axis=-1, dtype=np.float32)
    return planes
