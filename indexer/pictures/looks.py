"""What a picture looks like in 256 numbers: a second way to candidates, where colour and blur mislead the model.

The signature at 16 x 16 without its slow changes of brightness. Grey, recoloured, blurred and re-encoded copies keep
it; crops and borders do not, and are the model's to find.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .alignment import levelled, reduced
from .signature import SIDE as SIGNATURE_SIDE

SIDE = 16
DIM = SIDE * SIDE


def looks(signatures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """Unit rows, (N, 256), of signatures, (N, 64 * 64); their products tell how alike two pictures are laid out.

    A picture without any structure has a zero row.
    """
    pictures = signatures.reshape(-1, SIGNATURE_SIDE, SIGNATURE_SIDE).astype(np.float32)
    local = levelled(reduced(pictures, SIDE)).reshape(-1, DIM)
    lengths = np.linalg.norm(local, axis=1, keepdims=True)
    rows: npt.NDArray[np.float16] = (local / np.where(lengths < 1, np.inf, lengths)).astype(np.float16)
    return rows
