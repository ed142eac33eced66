"""Pictures padded to whole blocks."""

from __future__ import annotations

import numpy as np

from vqcodec.picture.picture import UInt8Array

__all__ = ["pad"]


def pad(array: UInt8Array, multiple: int) -> UInt8Array:
    """Extend an (H, W, C) array below and to the right to multiples of `multiple`.

    The last row and column are repeated, as a border without edges costs almost no bits.
    """
    height, width = array.shape[:2]
    margins = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.pad(array, margins, mode="edge")
