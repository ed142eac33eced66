"""Rate allocation between pictures: at one `-q`, smooth pictures are coded finer than busy ones.

With one lambda for all, a bit saves the same squared error in each picture. But errors count as
ratios: in dB, and to eyes, which notice in a sky what they miss in foliage. So lambda is
proportional to a power of the squared error that a transform coder would make. The rate-distortion
curve of a picture stays the same; it is only reached at other values of `-q`.
Source: docs/experiments.md, 17, 36 and 39.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import ModelConfig
from vqcodec.picture.padding import pad

__all__ = ["quality_for", "water_filling_error"]

BLOCK = 8  # pixels on a side
LEVEL = 0.013  # water level, a squared error: lambda / (2 ln 2) in the middle of `photo`'s scale
TYPICAL = 0.00275  # error at which nothing is changed: the mean of the training pictures
POWER = 1.8  # of that error, to which lambda is proportional
MOST = 16.0  # largest change of quality
ENDS = 18.0  # this close to 0 and 100 the change shrinks to zero, so that both can be reached
SIDE = 512  # pixels of the parts that are transformed at once: bounds memory


def quality_for(config: ModelConfig, rgb: NDArray[np.uint8], quality: float) -> float:
    """The quality 0..100 at which a picture is coded when `quality` 0..100 is asked for.

    It grows with what is asked for, from 0 to 100. A model tuned for SSIM weights errors by their
    surroundings already; for it nothing changes.

    Args:
        rgb: (H, W, 3).
    """
    if config.tune != "psnr":
        return quality
    fall = math.log(config.lambdas[0] / config.lambdas[-1]) / 100  # of log lambda, in a step
    # A picture without any error has no logarithm of it; MOST is reached long before.
    steps = POWER * math.log(TYPICAL / max(water_filling_error(rgb), 1e-6)) / max(fall, 1e-6)
    room = min(1.0, quality / ENDS, (100 - quality) / ENDS)
    return quality + min(max(steps, -MOST), MOST) * room


def water_filling_error(rgb: NDArray[np.uint8]) -> float:
    """Squared error per pixel that reverse water-filling leaves in a picture (H, W, 3).

    Each coefficient y of the DCT of blocks of three orthonormal colours, in 0..1, is left with an
    error of min(y^2, LEVEL); so the result is in 0..3 LEVEL.
    Source: reverse water-filling, Cover and Thomas (2006), 10.3.3, for one sample each.
    """
    total, pixels = 0.0, 0
    for top, left in itertools.product(*(range(0, side, SIDE) for side in rgb.shape[:2])):
        part = rgb[top : top + SIDE, left : left + SIDE]
        part = pad(part, BLOCK)
        colours = (part.astype(np.float32) / 255 - 0.5) @ COLOURS
        blocks = colours.reshape(len(part) // BLOCK, BLOCK, -1, BLOCK, 3)
        coefficients = blocks.transpose(0, 2, 4, 1, 3).reshape(-1, BLOCK**2) @ TRANSFORM
        total += float(np.minimum(coefficients**2, LEVEL).sum(dtype=np.float64))
        pixels += part[..., 0].size
    return total / pixels


def _dct() -> NDArray[np.float32]:
    """Orthonormal, of a block in rows: (64, 64), a coefficient in each column."""
    k = np.arange(BLOCK)
    rows = np.cos(np.pi * k[:, None] * (2 * k + 1) / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    rows[0] /= np.sqrt(2)
    both: NDArray[np.float32] = np.kron(rows, rows).T.astype(np.float32)
    return both


TRANSFORM = _dct()
# Grey, red against blue, green against both.
COLOURS = np.array([[1, 1, 1], [1, 0, -2], [1, -1, 1]], np.float32) / np.sqrt([3, 2, 6], dtype="f4")
