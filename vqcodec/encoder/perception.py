"""What `tune = ssim` changes: the weight of errors, and the direction of gradients.

An error next to a strong texture is not seen; on a smooth wall it is. In terms of SSIM, for a
window of variance s, 1 - SSIM is about (squared error) / (2 s + C). `tune = psnr` has no weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vqcodec.config import ModelConfig

__all__ = ["distortion", "dissimilarity", "weights_for"]

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for samples in 0..1
TYPICAL = 0.003  # variance at which the weight is 1: the median over the training pictures
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
KEPT_PIXELS = 2**19  # up to here, maps for the gradient (1.5 kB a pixel) are kept in memory
SQUARED = 0.1  # share of the gradient that stays with the squared error: MS-SSIM hardly sees colour


def weights_for(config: ModelConfig, x: Tensor) -> Tensor | None:
    """The weight of a squared error at each position of the latent; None: equal weights.

    The square root of SSIM's own weight gave the smallest files (docs/experiments.md, 15).

    Args:
        x: (B, 3, H, W) in 0..1.
    Returns:
        (B, H/s, W/s), s the finest stride; from 2.8 on flat areas to 0.1 in strong textures.
    Source: Wang et al. (2004); variance-based adaptive quantisation as in x264.
    """
    if config.tune == "psnr":
        return None
    stride = config.base_stride
    around = F.pad(x, (stride // 2,) * 4, mode="reflect")  # blocks of twice the stride
    mean, square = (F.avg_pool2d(part, 2 * stride, stride) for part in (around, around.square()))
    variance = (square - mean.square()).clamp(min=0).mean(1)
    return ((2 * TYPICAL + C2) / (2 * variance + C2)).sqrt()


def distortion(decoded: Tensor, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The distortion of each picture: a loss to minimise, and a value to compare, (B,) each.

    Without weights, both are the summed squared error. With weights, the loss has the value of the
    weighted squared error, but most of its gradient is that of 1 - MS-SSIM, scaled so that the same
    relative change of either counts the same. The second value mixes the logarithms of both in the
    same shares, so that it falls along that gradient; it has no gradient, and a unit of its own.

    Args:
        decoded, x: (B, 3, H, W) in 0..1.
        weights: (B, h, w) as of `weights_for`.
    """
    squares = (decoded - x).square()
    if weights is None:
        plain = squares.flatten(1).sum(1)
        return plain, plain.detach().clamp(min=1e-6)
    stride = x.shape[2] // weights.shape[1]
    weighted = (F.avg_pool2d(squares, stride).sum(1) * weights).flatten(1).sum(1) * stride**2
    loss = dissimilarity(decoded, x)
    value, unlike = (part.detach().clamp(min=1e-6) for part in (weighted, loss))
    pull = value * loss / unlike
    descend = SQUARED * weighted + (1 - SQUARED) * (pull + (weighted - pull).detach())
    return descend, value**SQUARED * unlike ** (1 - SQUARED)


def dissimilarity(decoded: Tensor, x: Tensor) -> Tensor:
    """1 - MS-SSIM of each picture (B, 3, H, W) in 0..1, differentiable: (B,).

    The mean over R, G and B. Small pictures have fewer scales, and at the last of them a smaller
    window; evaluation takes pytorch-msssim, which refuses them.
    Source: Wang, Simoncelli and Bovik (2003).
    """
    channels = list(zip(torch.split(x, 1, 1), torch.split(decoded, 1, 1), strict=True))
    if x[:, 0].numel() > KEPT_PIXELS:  # their maps are made again for the gradient
        each = [checkpoint(_ms_ssim, *pair, use_reentrant=False) for pair in channels]
    else:
        each = [_ms_ssim(*pair) for pair in channels]
    return 1 - torch.cat(each, 1).mean(1)


def _ms_ssim(x: Tensor, decoded: Tensor) -> Tensor:
    """MS-SSIM (B, 1) of one channel (B, 1, H, W)."""
    product = torch.ones(())
    for scale, weight in enumerate(SCALE_WEIGHTS):
        last = scale == len(SCALE_WEIGHTS) - 1 or min(x.shape[2:]) < 2 * WINDOW - 1
        moments = torch.cat([x, decoded, x * x, decoded * decoded, x * decoded], 1)
        # Convolutions of a channel by itself are twice as fast in this layout.
        moments = _blur(moments.contiguous(memory_format=torch.channels_last))
        mean_x, mean_y, xx, yy, xy = torch.split(moments, 1, 1)
        squares, both = mean_x.square() + mean_y.square(), mean_x * mean_y
        map_ = (2 * (xy - both) + C2) / (xx + yy - squares + C2)
        if last:
            map_ = map_ * (2 * both + C1) / (squares + C1)
        product = product * map_.flatten(2).mean(2).clamp(min=1e-4) ** weight
        if last:
            break
        odd = [side % 2 for side in x.shape[2:]]
        x, decoded = (F.avg_pool2d(p, 2, padding=odd) for p in (x, decoded))
    return product


def _blur(x: Tensor) -> Tensor:
    """Weighted means over windows that lie wholly inside."""
    for dim in (2, 3):
        size = min(WINDOW, x.shape[dim])
        window = torch.exp(-(torch.arange(size) - (size - 1) / 2).square() / (2 * SIGMA**2))
        shape = [1, 1, 1, 1]
        shape[dim] = size
        kernel = (window / window.sum()).reshape(shape).expand(x.shape[1], -1, -1, -1)
        x = F.conv2d(x, kernel, groups=x.shape[1])
    return x
