"""How close a decoded picture is to the original. MS-SSIM needs pytorch-msssim (extra `eval`)."""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_DB", "UInt8", "installed", "ms_ssim", "ms_ssim_db", "psnr_db"]

UInt8 = NDArray[np.uint8]

MAX_DB = 100.0  # for identical pictures, or as good as: infinity has no mean
ROWS = 64  # compared at once: bounds memory
MS_SSIM_SIDE = 160  # five scales and a window of 11 need more: (11 - 1) x 2^4


def psnr_db(picture: UInt8, decoded: UInt8) -> float:
    """Peak signal-to-noise ratio over all samples of (H, W, 3), in dB, at most `MAX_DB`."""
    total = 0
    for top in range(0, len(picture), ROWS):
        errors = picture[top : top + ROWS].astype(np.int32) - decoded[top : top + ROWS]
        total += int(np.sum(errors * errors, dtype=np.int64))
    mse = total / picture.size
    return min(MAX_DB, float(10 * np.log10(255**2 / mse))) if mse else MAX_DB


def ms_ssim(picture: UInt8, decoded: UInt8) -> float | None:
    """MS-SSIM of (H, W, 3), 0..1; None for small pictures or without pytorch-msssim.

    Source: Wang, Simoncelli and Bovik (2003); the mean over R, G and B, as pytorch-msssim does.
    """
    if min(picture.shape[:2]) <= MS_SSIM_SIDE or not installed("pytorch_msssim"):
        return None
    import torch
    from pytorch_msssim import ms_ssim as measure

    with torch.inference_mode():
        x, y = (torch.tensor(p).permute(2, 0, 1)[None].float() for p in (picture, decoded))
        return float(measure(x, y, data_range=255))


def ms_ssim_db(value: float) -> float:
    """MS-SSIM on a scale that tells good pictures apart: -10 log10(1 - MS-SSIM)."""
    return float(-10 * np.log10(max(1 - value, 10 ** (-MAX_DB / 10))))


def installed(package: str) -> bool:
    return find_spec(package) is not None
