"""Analysis by synthesis: a latent whose quantised version decodes closer to the picture."""

from typing import TYPE_CHECKING

import numpy as np

from vqcodec.config import Tuning
from vqcodec.registry import Model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["refine"]

# Part of the way to where the error should be least, at quality 0, 50 and 100, linear between. The
# whole way would be right if codes were dense; and MS-SSIM is no square: experiment 24.
STEPS: dict[Tuning, tuple[float, float, float]] = {
    "psnr": (0.16, 0.2, 0.5),
    "ssim": (0.25, 0.25, 0.12),
}
CURVATURE = 0.6  # squared error of pixels for one of the latent: 1/1.9 to 1/1.45, experiment 2
TRUST = 1.25  # where the gradient says that it is more than this, steps are the shorter


def refine(
    model: Model,
    latent: "Tensor",
    picture: "Tensor",
    quality: float,
    levels: int,
    beam: int,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """Move a latent towards what should be quantised instead: a damped Gauss-Newton step.

    The encoder network cannot know which codes will be chosen, nor what the decoder makes of them.
    If the error of the picture is CURVATURE times that of the latent around the codes chosen
    before, then the gradient says which latent has none. A decoder that does just that leaves the
    latent where it is. In smooth parts the decoder may be many times steeper, where errors of
    neighbours agree; the gradient, too long for the latent's own error, shows it.

    Args:
        latent: (1, D, h, w), the encoder's.
        picture: (1, 3, H, W) in 0..1, padded like the one that was encoded.
        levels, beam: how many will be coded, and how they are searched here.
        weights: (1, h, w), how much errors count (`perception.weights_for`).
    Returns:
        (1, D, h, w), to be quantised in place of `latent`.
    Source: latent refinement, Campos et al. (2019), here with the quantiser in the loop.
    """
    import torch

    from vqcodec.perception import distortion

    exact, told = torch.tensor([quality]), torch.tensor([round(quality)])
    with torch.enable_grad():
        quantized = model.quantizer(latent, exact, levels=levels, beam=beam, weights=weights)
        chosen = quantized.latent.requires_grad_()
        loss = distortion(model.autoencoder.decode(chosen, told), picture, weights).sum()
        (gradient,) = torch.autograd.grad(loss, chosen)
    scale = torch.ones(()) if weights is None else weights[:, None].sqrt()
    error, pull = scale * (chosen.detach() - latent), gradient / (2 * scale)
    steepness = _norm(pull) / _norm(error)
    step = float(np.interp(quality, (0, 50, 100), STEPS[model.config.tune]))
    damped = step * (TRUST / steepness).clamp(max=1)
    refined: Tensor = latent + damped * (CURVATURE * error - pull)
    return refined


def _norm(x: "Tensor") -> "Tensor":
    """Of all channels (B, C, h, w) around each position: (B, 1, h, w)."""
    import torch.nn.functional as F

    mean = F.avg_pool2d(x.square().sum(1, keepdim=True), 3, 1, 1)
    norm: Tensor = (mean + 1e-9).sqrt()
    return norm
