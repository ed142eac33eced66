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
    "psnr": (0.09, 0.18, 0.5),
    "ssim": (0.16, 0.16, 0.1),
}
CURVATURE = 0.6  # squared error of pixels for one of the latent: 1/1.9 to 1/1.45, experiment 2


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
    latent where it is.

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
        error = distortion(model.autoencoder.decode(chosen, told), picture, weights).sum()
        (gradient,) = torch.autograd.grad(error, chosen)
    scale = torch.ones(()) if weights is None else weights[:, None].sqrt()
    miss = CURVATURE * scale * (chosen.detach() - latent) - gradient / (2 * scale)
    step = float(np.interp(quality, (0, 50, 100), STEPS[model.config.tune]))
    refined: Tensor = latent + step * miss
    return refined
