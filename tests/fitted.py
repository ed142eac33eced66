"""A tiny autoencoder and quantizer that were fitted, not trained."""

import torch

from vqcodec.config import ModelConfig
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.quantizer import Quantizer
from vqcodec.training.codebook_learning import CodebookLearner


def fitted(config: ModelConfig) -> tuple[Autoencoder, CodebookLearner, torch.Tensor]:
    """KLT and k-means on smooth noise, and the latents they were fitted to."""
    torch.manual_seed(0)
    coarse = torch.rand(24, 3, 8, 8)
    x = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    x = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    autoencoder, learner = Autoencoder(config), CodebookLearner(Quantizer(config))
    autoencoder.initialise(x)
    latent = autoencoder.transform(x)[:, : autoencoder.dim].contiguous()
    learner.initialise(latent, torch.linspace(0, 100, 24))
    return autoencoder, learner, latent
