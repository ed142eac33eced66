"""Rate between pictures: at one `-q`, smooth pictures get finer quality than busy ones.

With one lambda for all, a bit saves the same squared error in each picture. But errors count as
ratios: in dB, and to eyes, which miss in foliage what they see in a sky. So lambda goes with the
squared error that a picture has anyway, as its contrast foretells it, between neighbours on
average; a step of `-q` is about the same ratio of errors in each. On the way from bits to dB of one
picture nothing changes. Source: docs/experiments.md, 17 and 36.
"""

import math

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import ModelConfig

__all__ = ["contrast", "quality_for"]

TYPICAL = 0.045  # contrast of a picture that is coded at the quality asked for: training pictures'
POWER = 1.2  # of contrast, with which errors at one lambda go
MOST = 14.0  # steps of quality
ENDS = 16.0  # within so many of 0 and 100 less and less moves: both ends can be had for any picture
ROWS = 256  # looked at together: bounds memory


def quality_for(config: ModelConfig, rgb: NDArray[np.uint8], quality: float) -> float:
    """The quality 0..100 at which a picture is coded when `quality` 0..100 is asked for.

    It grows with what is asked for, from 0 to 100. A model tuned for SSIM weighs errors by what is
    around them anyway, and is left as it is.

    Args:
        rgb: (H, W, 3).
    """
    if config.tune != "psnr":
        return quality
    fall = math.log(config.lambdas[0] / config.lambdas[-1]) / 100  # of log lambda, in a step
    # A picture without any contrast has no logarithm of it; MOST is reached long before.
    steps = POWER * math.log(TYPICAL / max(contrast(rgb), 1e-6)) / max(fall, 1e-6)
    room = min(1.0, quality / ENDS, (100 - quality) / ENDS)
    return quality + min(max(steps, -MOST), MOST) * room


def contrast(rgb: NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighbours, below plus beside, of a picture (H, W, 3).

    Of the mean of R, G and B in 0..1; so 0..2.
    """
    height, width = map(int, rgb.shape[:2])
    below = beside = 0
    for top in range(0, height, ROWS):
        part = rgb[top : top + ROWS + 1].astype(np.int16)  # its last row begins the next part
        grey = part[..., 0] + part[..., 1] + part[..., 2]
        below += int(np.abs(np.diff(grey, axis=0)).sum(dtype=np.int64))
        beside += int(np.abs(np.diff(grey[:ROWS], axis=1)).sum(dtype=np.int64))
    pairs = max(height - 1, 1) * width, height * max(width - 1, 1)
    return (below / pairs[0] + beside / pairs[1]) / (3 * 255)
