"""Analysis by synthesis: a latent whose quantised version decodes closer to the picture."""

from typing import TYPE_CHECKING

from vqcodec.registry import Model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["refine"]

STEP = 0.03  # of the gradient; more raises the rate by more than it is worth: experiments 14, 15


def refine(
    model: Model,
    latent: "Tensor",
    picture: "Tensor",
    quality: float,
    levels: int,
    beam: int,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """Move a latent against the gradient of the error that its quantisation leaves.

    The encoder network cannot know which codes will be chosen. Quantised once and decoded, the
    error of the picture says where each code falls short, and the next choice aims past it.

    Args:
        latent: (1, D, h, w), the encoder's.
        picture: (1, 3, H, W) in 0..1, padded like the one that was encoded.
        levels, beam: how many will be coded, and how they are searched.
        weights: (1, h, w), how much errors count (`perception.weights_for`).
    Returns:
        (1, D, h, w), to be quantised in place of `latent`.
    Source: latent refinement, Campos et al. (2019), here one step through the quantiser.
    """
    import torch

    from vqcodec.perception import distortion

    exact, told = torch.tensor([quality]), torch.tensor([round(quality)])
    with torch.enable_grad():
        quantized = model.quantizer(latent, exact, levels=levels, beam=beam, weights=weights)
        chosen = quantized.latent.requires_grad_()
        error = distortion(model.autoencoder.decode(chosen, told), picture, weights).sum()
        (gradient,) = torch.autograd.grad(error, chosen)
    refined: Tensor = latent - STEP * gradient
    return refined
