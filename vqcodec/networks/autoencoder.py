"""Encoder and decoder networks: picture <-> latent.

Both are a fixed orthonormal block transform (the KLT, a PCA of s x s x 3 pixel blocks) plus a
convolutional branch whose last layer starts at zero: `y = KLT(x) + conv(x)`, `x' = KLT^T(y) +
conv(y)`. So an untrained model is already a transform coder in which latent distance is pixel
distance, and training only improves on it. Both branches are conditioned on the quality.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.config import ModelConfig

__all__ = ["Autoencoder"]

# Added to each latent channel's standard deviation before it scales a branch's input, so that
# nearly empty channels are not blown up.
SIGMA_FLOOR = 0.05


class QualityEmbedding(nn.Module):
    """Quality (B,) in 0..100 -> (B, dim) features, smooth in the quality."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, quality: Tensor) -> Tensor:
        t = quality.float().clamp(0, 100)[:, None] / 100
        waves = [f(math.pi * k * t) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
        features: Tensor = self.layers(torch.cat([t, *waves], 1))
        return features


class ResidualBlock(nn.Module):
    """x + conv(relu(scale * conv(x) + shift)), scale and shift from the quality."""

    def __init__(self, channels: int, embedding_dim: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        # A small start keeps a stack of blocks near the identity (Fixup, Zhang et al. 2019).
        nn.init.normal_(self.second.weight, std=0.1 / math.sqrt(9 * channels))
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        hidden = F.relu(torch.addcmul(shift, self.first(x), 1 + scale))
        return torch.add(x, self.second(hidden))


class Blocks(nn.ModuleList):
    """`count` residual blocks in a row."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(ResidualBlock(channels) for _ in range(count))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class Autoencoder(nn.Module):
    """Picture (B, 3, H, W) in 0..1 <-> latent (B, D, H/s, W/s), s the finest stride.

    H and W are multiples of the coarsest stride. Squared distance in the latent is
    squared distance in pixels, up to what the branches add.
    """

    klt: Tensor  # (3 s s, 3 s s) orthonormal, rows sorted by falling variance
    sigma: Tensor  # (3 s s,) standard deviation of each coordinate

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stride = config.base_stride
        self.dim = config.latent_dims[-1]
        full = 3 * self.stride**2
        self.register_buffer("klt", torch.eye(full))
        self.register_buffer("sigma", torch.ones(full))
        self.embedding = QualityEmbedding()

        channels, count = config.encoder
        self.encoder_in = nn.Conv2d(full, channels, 1)
        self.encoder_blocks = Blocks(channels, count)
        self.encoder_out = zero(nn.Conv2d(channels, self.dim, 1))

        (coarse, n_coarse), (middle, n_middle), (fine, n_fine) = config.decoder
        self.decoder_in = nn.Conv2d(self.dim, middle, 1)
        self.down = nn.Conv2d(4 * middle, coarse, 1)
        self.coarse_blocks = Blocks(coarse, n_coarse)
        self.up = nn.Conv2d(coarse, 4 * middle, 1)
        self.middle_blocks = Blocks(middle, n_middle)
        self.refine = nn.Conv2d(middle, 4 * fine, 1)
        self.fine_blocks = Blocks(fine, n_fine)
        self.decoder_out = zero(nn.Conv2d(fine, 3 * (self.stride // 2) ** 2, 3, padding=1))

    def encoder_branch(self) -> nn.ModuleList:
        """The networks that `encode` alone uses; the quality's embedding is the decoder's, too."""
        return nn.ModuleList([self.encoder_in, self.encoder_blocks, self.encoder_out])

    def decoder_branch(self) -> nn.ModuleList:
        """The networks that `decode` alone uses; the quality's embedding is the encoder's, too."""
        ends = self.decoder_in, self.down, self.up, self.refine, self.decoder_out
        return nn.ModuleList([*ends, self.coarse_blocks, self.middle_blocks, self.fine_blocks])

    def transform(self, x: Tensor) -> Tensor:
        """All 3 s s KLT coordinates of a picture, (B, 3 s s, H/s, W/s)."""
        blocks = F.pixel_unshuffle(x - 0.5, self.stride)
        return F.conv2d(blocks, self.klt[:, :, None, None])

    def encode(self, x: Tensor, quality: Tensor) -> Tensor:
        """Latent of a picture; `decode` is the inverse up to quantisation.

        Args:
            x: (B, 3, H, W) in 0..1.
            quality: (B,) in 0..100.
        """
        with torch.autocast(x.device.type, enabled=False):
            coordinates = self.transform(x)
        scaled = coordinates / (self.sigma + SIGMA_FLOOR)[:, None, None]
        embedding = self.embedding(quality)
        features = F.relu(self.encoder_in(scaled.contiguous(memory_format=torch.channels_last)))
        branch = self.encoder_out(self.encoder_blocks(features, embedding))
        return torch.add(coordinates[:, : self.dim], branch.float())

    def decode(self, y: Tensor, quality: Tensor) -> Tensor:
        """Picture (B, 3, H, W) of a latent, not clamped to 0..1."""
        height, width = y.shape[2:]
        if height % 2 or width % 2:  # the branch works on half the latent's grid, too
            y = F.pad(y, (0, width % 2, 0, height % 2), mode="replicate")
        with torch.autocast(y.device.type, enabled=False):
            kernel = self.klt[: self.dim].T[:, :, None, None].contiguous()
            linear = F.pixel_shuffle(F.conv2d(y, kernel), self.stride) + 0.5
        scaled = y / (self.sigma[: self.dim] + SIGMA_FLOOR)[:, None, None]
        embedding = self.embedding(quality)
        middle = F.relu(self.decoder_in(scaled.contiguous(memory_format=torch.channels_last)))
        coarse = F.relu(self.down(F.pixel_unshuffle(middle, 2)))
        coarse = self.coarse_blocks(coarse, embedding)
        middle = self.middle_blocks(middle + F.pixel_shuffle(self.up(coarse), 2), embedding)
        fine = F.relu(F.pixel_shuffle(self.refine(middle), 2))
        branch = self.decoder_out(self.fine_blocks(fine, embedding))
        picture = linear + F.pixel_shuffle(branch.float(), self.stride // 2)
        return picture[:, :, : height * self.stride, : width * self.stride]

    @torch.no_grad()
    def initialise(self, pictures: Tensor) -> None:
        """Set the KLT from sample crops (N, 3, H, W) in 0..1.

        Source: Karhunen-Loeve transform; the mean is fixed at mid grey, not subtracted.
        """
        blocks = F.pixel_unshuffle(pictures - 0.5, self.stride)
        rows = blocks.permute(0, 2, 3, 1).reshape(-1, self.klt.shape[0]).double()
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        self.klt.copy_(vectors.flip(1).T)
        self.sigma.copy_(values.flip(0).clamp(min=0).sqrt())


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The same layer with weights and biases at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
