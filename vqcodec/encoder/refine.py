"""Refinement: a latent whose quantised version decodes closer to the picture."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqcodec.config import Tuning
from vqcodec.encoder.perception import distortion
from vqcodec.networks.quantizer import Quantizer

__all__ = ["FADE_IN", "interpolate", "refine"]

# Length of a step, as a share of the way to the expected minimum of the error: at quality 0, 50 and
# 100, linear between. The whole way would be right if codes were dense: experiment 24.
STEPS: dict[Tuning, tuple[float, float, float]] = {
    "psnr": (0.16, 0.2, 0.25),
    "ssim": (0.25, 0.25, 0.12),
}
CURVATURE = 0.6  # squared error in pixels per squared error in the latent: experiment 2
TRUST = 1.25  # largest (half the gradient) / (error of the latent) at which a step keeps its length
FIRST, MOMENTUM = 1.3, 0.4  # factor of the first step; share of a step in the next: experiment 30
# Qualities between which FIRST and MOMENTUM come in: below they do harm. Experiment 31.
FADE_IN = (12, 20)


def refine(
    quantizer: Quantizer,
    decode: Callable[[Tensor], Tensor],
    latent: Tensor,
    picture: Tensor,
    quality: Tensor,
    steps: int,
    beam: int,
    levels: int | None = None,
    weights: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    keep_best: bool = False,
) -> Tensor:
    """Move latents towards what should be quantised instead: damped Gauss-Newton steps.

    The encoder network cannot know which codes will be chosen, nor what the decoder makes of them.
    So the codes chosen before are decoded. The squared error of the picture is modelled as
    CURVATURE times the squared distance of these codes from some best latent; the gradient then
    says where that latent is, and the latent moves a part of the way there. If the best latent is
    the present one, it stays. In smooth parts, where errors of neighbours agree, the squared error
    may grow many times as fast as in the model. Then the gradient is long compared with the error
    of the latent, and the step is shortened (TRUST).

    Args:
        decode: latents to pictures, differentiable.
        latent: (B, D, h, w), the encoder's.
        picture: (B, 3, H, W) in 0..1, padded like those that were encoded.
        quality: (B,) in 0..100.
        steps: how many; each quantises, decodes and takes a gradient.
        beam, levels: how codes are searched here, and how many levels will be coded.
        weights: (B, h, w), how much errors count (`perception.weights_for`).
        progress: called with the number of steps taken.
        keep_best: quantise and decode once more at the end, and return the latent that was best
            by error and marginal bits together. On photographs that is the last one or one as
            good; on flat colours and hard edges, steps may make it worse.
    Returns:
        (B, D, h, w), to be quantised in place of `latent`.
    Source: latent refinement, Campos et al. (2019), here with the quantiser in the loop; momentum,
        Polyak (1964).
    """
    scale = torch.ones(()) if weights is None else weights[:, None].sqrt()
    part = interpolate((0, 50, 100), STEPS[quantizer.config.tune], quality)
    faded = interpolate(FADE_IN, (0, 1), quality)
    first, momentum = 1 + (FIRST - 1) * faded, MOMENTUM * faded
    move, price = torch.zeros(()), quantizer.lambdas(quality)
    best, least = latent, torch.full((len(latent),), torch.inf)
    unit = torch.ones(())
    for number in range(steps + 1 if keep_best and steps else steps):
        with torch.set_grad_enabled(number < steps):
            quantized = quantizer(latent, quality, levels=levels, beam=beam, weights=weights)
            chosen = quantized.latent.requires_grad_(number < steps)
            losses, errors = distortion(decode(chosen), picture, weights)
            unit = unit if number else losses.detach() / errors
            costs = unit * errors + price * quantized.bits
            best = torch.where((costs < least)[:, None, None, None], latent, best)
            least = torch.minimum(costs, least)
            if number == steps:
                return best
            (gradient,) = torch.autograd.grad(losses.sum(), chosen)
        error, pull = scale * (chosen.detach() - latent), gradient / (2 * scale)
        damped = part * (TRUST * _norm(error) / _norm(pull)).clamp(max=1)
        step = damped * (CURVATURE * error - pull)
        move = momentum * move + step if number else first * step
        latent = latent + move
        if progress:
            progress(number + 1)
    return latent


def interpolate(qualities: Sequence[float], values: Sequence[float], quality: Tensor) -> Tensor:
    """The value at each quality (B,), linear between those at `qualities`: (B, 1, 1, 1)."""
    found = np.interp(quality.tolist(), qualities, values)
    return torch.tensor(found, dtype=torch.float32)[:, None, None, None]


def _norm(x: Tensor) -> Tensor:
    """Of all channels (B, C, h, w) around each position: (B, 1, h, w)."""
    mean = F.avg_pool2d(x.square().sum(1, keepdim=True), 3, 1, 1)
    norm: Tensor = (mean + 1e-9).sqrt()
    return norm
