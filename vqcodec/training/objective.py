"""What training minimises: the autoencoder's rate-distortion loss, the prior's bits, errors."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from vqcodec.config import RATE_BINS, Tuning
from vqcodec.encoder.perception import distortion, weights_for
from vqcodec.encoder.refine import refine
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.quantizer import Quantizer, rate_bins
from vqcodec.prior.network import Prior
from vqcodec.training.codebook_learning import CodebookLearner
from vqcodec.training.precision import autocast

__all__ = [
    "REFINEMENT_STEPS",
    "AutoencoderObjective",
    "DecoderObjective",
    "update_averages",
    "refine_as_coding",
    "prior_loss",
    "proxy_bits",
    "spread_quality",
]

COMMITMENT = 0.3  # weight of |latent - quantised latent|^2 (van den Oord et al. 2017)
PARTIAL_LEVELS = 0.1  # share of steps that decode only the first levels
REFINEMENT_STEPS = 2  # before codes are chosen: about what coding does
REFINEMENT_BEAM = 2  # paths in these


def proxy_bits(latent: Tensor, lambdas: Tensor) -> Tensor:
    """Differentiable stand-in for the bits of a latent (B, D, h, w): (B,).

    Args:
        lambdas: (B, 1, 1) or (B, h, w).

    Reverse water-filling: a coefficient y costs 1/2 log2(1 + y^2 / theta) bits, theta the water
    level where dD/dR = -lambda, i.e. lambda / (2 ln 2). Without a cost on scale the encoder
    would inflate the latent and outgrow any fixed lambda.
    Source: Cover and Thomas (2006), section 10.3.3.
    """
    theta = lambdas[:, None] / (2 * math.log(2))
    return 0.5 * torch.log2(1 + latent.square() / theta).flatten(1).sum(1)


def spread_quality(count: int) -> Tensor:
    """(count,) qualities, one random draw from each of `count` equal parts of 0..100."""
    return (torch.arange(count) + torch.rand(count)) * (100 / count)


def update_averages(averages: Tensor, bins: Tensor, values: Tensor, rate: float) -> None:
    """Let moving averages, one per bin, take in what a batch has of each.

    Every value counts: n of them in a bin weigh as they would one after another, in no order.

    Args:
        averages: (bins,), changed in place; NaN where there was no value yet.
        bins: (B,) int64, the bin of each value.
        values: (B,).
        rate: weight of one new value, 0..1.
    """
    counts = torch.bincount(bins, minlength=len(averages))
    means = torch.zeros_like(averages).index_add_(0, bins, values) / counts.clamp(min=1)
    weights = 1 - (1 - rate) ** counts
    moved = torch.where(averages.isnan(), means, averages.lerp(means, weights))
    averages.copy_(torch.where(counts > 0, moved, averages))


class AutoencoderObjective:
    """(D + commitment + lambda R) / D of each picture of a batch, averaged.

    Dividing by D (not differentiated) gives every quality the same weight, as PSNR does.
    """

    def __init__(self) -> None:
        # Marginal bits per proxy bit, per quality bin: keeps the proxy's gradient true to scale.
        self.bits_per_proxy = torch.ones(RATE_BINS)

    def __call__(
        self,
        autoencoder: Autoencoder,
        learner: CodebookLearner,
        x: Tensor,
        quality: Tensor,
        steps: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (), and per picture: `mse`, `bpp` (marginal), `loss`, `commit` (latent mse).

        Args:
            x: (B, 3, H, W) in 0..1.
            quality: (B,) in 0..100.
            steps: how often the latent is refined before it is quantised, as coding does.
        """
        quantizer = learner.quantizer
        lambdas = quantizer.lambdas(quality)
        with autocast(x.device.type):
            latent = autoencoder.encode(x, quality)
        weights = weights_for(quantizer.config, x)

        refined = refine_as_coding(autoencoder, quantizer, latent.detach(), x, quality, steps)
        quantized = learner.update(refined, quality, weights)
        target = quantized.latent
        if torch.rand(()) < PARTIAL_LEVELS:
            levels = int(torch.randint(1, len(quantized.grids) + 1, ()))
            target = quantizer.dequantize(quantized.grids[:levels], *latent.shape[2:])
        y = latent + (target - latent).detach()  # straight-through gradient
        with autocast(x.device.type):
            picture = autoencoder.decode(y, quality)

        pixels = x.shape[2] * x.shape[3]
        each = torch.ones(1, 1, 1) if weights is None else weights
        loss = distortion(picture, x, weights)[0] / pixels
        left = (latent - quantized.latent).square().sum(1)  # (B, h, w)
        commitment = (left * each).flatten(1).sum(1) / pixels
        proxy = proxy_bits(latent, lambdas[:, None, None] / each) / pixels
        bpp = quantized.bits / pixels
        bins = rate_bins(quality)
        ratio = (bpp / proxy.detach()).clamp(0.1, 10)
        update_averages(self.bits_per_proxy, bins, ratio, 0.01)
        rate = lambdas * self.bits_per_proxy[bins] * proxy
        total = (loss + COMMITMENT * commitment + rate) / loss.detach().clamp(min=1e-5)
        squares = (picture.detach() - x).square().flatten(1).mean(1)
        parts = {"mse": squares, "bpp": bpp}
        parts["commit"] = left.detach().flatten(1).sum(1) / (3 * pixels)
        parts["loss"] = total.detach()
        return total.mean(), parts


class DecoderObjective:
    """The error of the pictures that codes decode to, for decoder network and codebooks.

    A mean of PSNRs counts ratios of errors. If crops counted so, flat ones would rule, whose error
    a network can easily halve. So each error is divided by a geometric mean of itself, with the
    share OWN, and of what is usual at its quality. A mean of MS-SSIMs counts the errors themselves.
    """

    OWN: ClassVar[dict[Tuning, float]] = {"psnr": 0.5, "ssim": 0.0}
    LEAST, MOST = 0.03, 8.0  # weight of a crop

    def __init__(self) -> None:
        self.usual = torch.full((RATE_BINS,), torch.nan)  # logarithm of the error

    def __call__(
        self,
        autoencoder: Autoencoder,
        quantizer: Quantizer,
        x: Tensor,
        grids: list[Tensor],
        quality: Tensor,
        coded: Tensor,
        codebooks: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Loss (), and the squared error of each picture (B,), a mean.

        Args:
            x: (B, 3, H, W) in 0..1.
            grids: (B, h_l, w_l, S_l) int64, of all levels.
            quality: (B,) int64 in 0..100.
            coded: (B,) how many levels a file of that quality has; the others are taken for zero.
            codebooks: (S, K, d) of all levels.
        """
        kept = [grid * (coded > k)[:, None, None, None] for k, grid in enumerate(grids)]
        whole = bool(torch.rand(()) >= PARTIAL_LEVELS)
        if not whole:
            kept = kept[: int(torch.randint(1, len(kept) + 1, ()))]
        stride = quantizer.config.base_stride
        height, width = (side // stride for side in x.shape[2:])
        latent = quantizer.dequantize(kept, height, width, codebooks)
        with autocast(x.device.type):
            picture = autoencoder.decode(latent, quality)
        loss, _ = distortion(picture, x, weights_for(quantizer.config, x))
        error = loss.detach().clamp(min=1e-6)
        weight = torch.ones(len(x))
        if whole:
            bins = rate_bins(quality)
            usual = torch.where(self.usual[bins].isnan(), error.log(), self.usual[bins])
            update_averages(self.usual, bins, error.log(), 0.02)
            own = self.OWN[quantizer.config.tune]
            weight = ((1 - own) * (error.log() - usual)).exp().clamp(self.LEAST, self.MOST)
        return (weight * loss / error).mean(), (picture.detach() - x).square().flatten(1).mean(1)


def refine_as_coding(
    autoencoder: Autoencoder,
    quantizer: Quantizer,
    latent: Tensor,
    x: Tensor,
    quality: Tensor,
    steps: int,
) -> Tensor:
    """Latents (B, D, h, w) as coding refines them, in so many steps."""

    def decode(y: Tensor) -> Tensor:
        with autocast(x.device.type):
            return autoencoder.decode(y, quality)

    weights = weights_for(quantizer.config, x)
    return refine(quantizer, decode, latent, x, quality, steps, REFINEMENT_BEAM, weights=weights)


def prior_loss(
    prior: Prior,
    grids: list[Tensor],
    quality: Tensor,
    levels: list[int],
    coded: Tensor,
    pixels: int,
) -> tuple[Tensor, dict[int, float]]:
    """Mean bits per pixel of some levels (a gradient of all of them on average).

    Args:
        grids: (B, h_l, w_l, S_l) int64, at least up to the last of `levels`.
        quality: (B,) int64 in 0..100.
        coded: (B,) how many levels a file of that quality has; others are left out.
        pixels: of one picture.
    Returns:
        Loss (), and the bits per index of each level.
    """
    total, per_index = torch.zeros(()), {}
    for level in levels:
        rows = (coded > level).nonzero().flatten()
        if not len(rows):
            continue
        some = [grid[rows] for grid in grids[: level + 1]]
        with autocast(quality.device.type):
            bits = prior.coded_bits(some, quality[rows], level)
        total = total + bits.sum() / (pixels * len(quality))
        per_index[level] = float(bits.detach().sum()) / some[level].numel()
    return total, per_index
