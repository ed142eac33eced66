"""The prior in floats, for training only: a gated PixelCNN over index grids.

Level l sees its own grid causally and every coarser level everywhere: the indices are looked up
in embedding tables of the prior's own (indices have no order), summed, and passed through two
unmasked layers. `freeze.freeze` rounds a trained prior to the integers of `integer_prior`.

All masked taps (dy, dx) satisfy dx + 2 dy <= 0 (the first layer: < 0), so that positions (i, j)
with equal j + 2 i do not see each other and can be coded together (`wavefront_scan`).

Source: gated PixelCNN, van den Oord et al. (2016), arXiv:1606.05328, with piecewise linear gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.config import RATE_BINS, ModelConfig
from vqcodec.limits import QUALITIES
from vqcodec.prior.constants import FIRST_TAPS, LAYER_TAPS, Taps

__all__ = ["GatedLayer", "Prior", "Trunk"]

LIMIT = 8.0  # activations stay in [-LIMIT, LIMIT]
FEATURES = 6  # functions of the quality
EMBEDDING = 16  # width of the level embedding
HIDDEN = 64  # width of the conditioning network


class MaskedConv(nn.Module):
    """Convolution over the given causal taps (dy, dx), dy <= 0; zeros outside the grid."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, taps: Taps, bias: bool) -> None:
        super().__init__()
        self.taps = taps
        self.reach_y = -min(dy for dy, _ in taps)
        self.reach_x = max(abs(dx) for _, dx in taps)
        kernel = (self.reach_y + 1, 2 * self.reach_x + 1)
        mask = torch.zeros(kernel)
        for dy, dx in taps:
            mask[dy + self.reach_y, dx + self.reach_x] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(
            torch.randn(outputs, inputs, *kernel) * mask / math.sqrt(inputs * len(taps))
        )
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        padded = F.pad(x, (self.reach_x, self.reach_x, self.reach_y, 0))
        y: Tensor = F.conv2d(padded, self.weight * self.mask, self.bias)
        return y

    def tap_weights(self) -> Tensor:
        """The weights at the taps, (taps, inputs, outputs)."""
        kept = [self.weight[:, :, dy + self.reach_y, dx + self.reach_x] for dy, dx in self.taps]
        return torch.stack(kept).transpose(1, 2)

    def set_tap_weights(self, weights: Tensor) -> None:
        """Set the weights at the taps, (taps, inputs, outputs); the inverse of `tap_weights`."""
        for (dy, dx), weight in zip(self.taps, weights, strict=True):
            self.weight[:, :, dy + self.reach_y, dx + self.reach_x] = weight.T


class GatedLayer(nn.Module):
    """h -> clamp(h + W u), u = hardtanh(a) * clamp(1/2 + b/4, 0, 1), (a, b) from h and context."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = MaskedConv(channels, 2 * channels, LAYER_TAPS, bias=True)
        self.context = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.residual = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.normal_(self.context.weight, std=0.5 / math.sqrt(channels))
        nn.init.normal_(self.residual.weight, std=0.1 / math.sqrt(channels))

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        a, b = (self.gate(h) + self.context(context)).chunk(2, dim=1)
        u = F.hardtanh(a) * (0.5 + 0.25 * b).clamp(0, 1)
        h = (h + self.residual(u)).clamp(-LIMIT, LIMIT)
        return h


class Trunk(nn.Module):
    """The layers shared by all levels of one stride."""

    def __init__(self, channels: int, layers: int, finer: tuple[int, int] | None) -> None:
        """`finer`: (f, C') of the next finer stride, None at the finest."""
        super().__init__()
        self.channels, self.finer = channels, finer
        self.context1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.context2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first = MaskedConv(channels, channels, FIRST_TAPS, bias=False)
        self.layers = nn.ModuleList(GatedLayer(channels) for _ in range(layers))
        self.condition = nn.Linear(HIDDEN, 2 * channels)
        nn.init.normal_(self.condition.weight, std=0.1 / math.sqrt(HIDDEN))
        nn.init.zeros_(self.condition.bias)
        std = 1 / math.sqrt(9 * channels)
        nn.init.normal_(self.context1.weight, std=math.sqrt(2) * std)
        nn.init.normal_(self.context2.weight, std=std)
        if finer is not None:
            factor, width = finer
            self.up = nn.Linear(channels, factor * factor * width, bias=False)
            nn.init.normal_(self.up.weight, std=1 / math.sqrt(channels))

    def upsample(self, total: Tensor) -> Tensor:
        """The total for the next finer stride: (B, h, w, C) -> (B, f h, f w, C').

        Row (dy * f + dx) * C' + c of `up.weight` makes channel c of the finer position
        (f i + dy, f j + dx).
        """
        assert self.finer is not None
        factor, width = self.finer
        batch, rows, cols, _ = total.shape
        blocks: Tensor = self.up(total).reshape(batch, rows, cols, factor, factor, width)
        blocks = blocks.permute(0, 1, 3, 2, 4, 5)  # (B, h, f, w, f, C')
        return blocks.reshape(batch, rows * factor, cols * factor, width)


class LevelTables(nn.Module):
    """What one level does not share: its embedding, output and bias tables, its own vector."""

    def __init__(self, slices: int, size: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(slices, size, channels) * 0.5 / slices)
        self.output = nn.Parameter(torch.randn(slices, size, channels) * 0.1)
        # One row per range of quality.
        self.bias = nn.Parameter(torch.zeros(RATE_BINS, slices, size))
        self.vector = nn.Parameter(torch.randn(EMBEDDING))


def quality_features(quality: Tensor) -> Tensor:
    """Integers (B,) in 0..100 -> smooth functions of q, (B, FEATURES)."""
    x = quality.float() / (QUALITIES - 1)
    waves = [torch.cos(math.pi * k * x) for k in range(1, FEATURES)]
    return torch.stack([2 * x - 1, *waves], dim=1)


class Prior(nn.Module):
    """p(z_l | z_<l, z_l before the position, quality) for every level l of a configuration."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        strides, widths = config.strides, config.prior.channels
        if len(widths) != len(strides):
            raise ValueError(f"{len(widths)} channel counts for {len(strides)} strides")
        self.trunks = nn.ModuleDict()
        for k, (stride, width) in enumerate(zip(strides, widths, strict=True)):
            last = k + 1 == len(strides)
            finer = None if last else (stride // strides[k + 1], widths[k + 1])
            self.trunks[str(stride)] = Trunk(width, config.prior.layers, finer)
        width_of = dict(zip(strides, widths, strict=True))
        self.levels = nn.ModuleList(
            LevelTables(level.slices, level.codebook_size, width_of[level.stride])
            for level in config.levels
        )
        self.hidden = nn.Linear(EMBEDDING + FEATURES, HIDDEN)

    def trunk(self, level: int) -> Trunk:
        """The trunk that a level runs on."""
        trunk = self.trunks[str(self.config.levels[level].stride)]
        assert isinstance(trunk, Trunk)
        return trunk

    def tables(self, level: int) -> LevelTables:
        """The tables of a level."""
        tables = self.levels[level]
        assert isinstance(tables, LevelTables)
        return tables

    def condition(self, level: int, quality: Tensor) -> tuple[Tensor, Tensor]:
        """What the two context layers add for level and quality: (c1, c2), each (B, C)."""
        vector = self.tables(level).vector.expand(len(quality), -1)
        hidden = F.silu(self.hidden(torch.cat([vector, quality_features(quality)], dim=1)))
        c1, c2 = self.trunk(level).condition(hidden).chunk(2, dim=1)
        return c1, c2

    def embed(self, level: int, grid: Tensor) -> Tensor:
        """Indices (B, h, w, S) -> (B, h, w, C), the sum over the slices."""
        table = self.tables(level).embedding
        slices, size, channels = table.shape
        places = (grid + torch.arange(slices, device=grid.device) * size).flatten(0, 2)
        bag = F.embedding_bag(places, table.reshape(-1, channels), mode="sum")
        return bag.reshape(*grid.shape[:3], channels).clamp(-LIMIT, LIMIT)

    def context_sum(self, grids: Sequence[Tensor], level: int) -> Tensor:
        """What a level's first context layer reads, (B, h, w, C), from the levels before it.

        At the coarsest stride the sum starts at zero; each finer stride starts from the upsampled
        clamped sum over all coarser levels.
        """
        levels = self.config.levels
        table = self.tables(0).embedding
        total = table.new_zeros((*grids[0].shape[:3], table.shape[2]))
        for k in range(level):
            total = total + self.embed(k, grids[k])
            if levels[k + 1].stride != levels[k].stride:
                total = self.trunk(k).upsample(total.clamp(-LIMIT, LIMIT))
        return total.clamp(-LIMIT, LIMIT)

    def forward(self, grids: Sequence[Tensor], quality: Tensor, level: int) -> Tensor:
        """The logits of every index at every position of one level.

        Args:
            grids: int64 (B, h_l, w_l, S_l) per level, coarse first; those after `level` are not
                read.
            quality: int64 (B,) in 0..100.
            level: which level to predict.
        Returns:
            (B, h, w, S, K) float32, in nats.
        """
        trunk, tables = self.trunk(level), self.tables(level)
        c1, c2 = (c[:, :, None, None] for c in self.condition(level, quality))
        ctx = self.context_sum(grids, level).permute(0, 3, 1, 2)  # channels last in memory
        ctx = trunk.context1(ctx)
        ctx = (ctx + c1.to(ctx.dtype)).clamp(0, LIMIT)
        ctx = trunk.context2(ctx)
        ctx = (ctx + c2.to(ctx.dtype)).clamp(-LIMIT, LIMIT)
        own = self.embed(level, grids[level]).permute(0, 3, 1, 2)
        h = (ctx + trunk.first(own)).clamp(-LIMIT, LIMIT)
        for layer in trunk.layers:
            h = layer(h, ctx)
        # The bias is added in float32: bfloat16 logits would be off by up to 1/32 nat.
        bias = tables.bias[quality * RATE_BINS // QUALITIES][:, None, None]
        scores = F.linear(h.permute(0, 2, 3, 1), tables.output.flatten(0, 1)).float()
        return scores.reshape(*scores.shape[:3], *bias.shape[3:]) + bias

    def coded_bits(self, grids: Sequence[Tensor], quality: Tensor, level: int) -> Tensor:
        """Ideal code length of one level, in bits, of each picture, (B,)."""
        logits = self(grids, quality, level)
        nats = F.cross_entropy(
            logits.flatten(0, 3), grids[level].flatten().long(), reduction="none"
        )
        return nats.reshape(len(quality), -1).sum(1) / math.log(2)

    @torch.no_grad()
    def initialise(
        self,
        code_lengths: Sequence[Tensor],
        codebooks: Sequence[Tensor],
        sigmas: Mapping[int, Tensor],
        projections: Mapping[int, Tensor],
    ) -> None:
        """Start from the marginal code lengths, with similar embeddings for similar codes.

        Args:
            code_lengths: marginal bits (RATE_BINS, S_l, K_l) per level: the prior without context.
            codebooks: (S_l, K_l, d_l) per level, coordinates sorted by falling variance.
            sigmas: stride -> (D_s,), the standard deviation of each coordinate.
            projections: finer stride s' -> (f f D_s', D_s), a latent of the next coarser stride s
                to the f x f latents of s' that it covers; rows ordered (dy, dx, channel).
        """
        for level, codebook in enumerate(codebooks):
            self.initialise_level(level, code_lengths[level], codebook, sigmas)
        for coarse, fine in zip(self.config.strides, self.config.strides[1:], strict=False):
            trunk = self.trunks[str(coarse)]
            assert isinstance(trunk, Trunk) and trunk.finer is not None
            (factor, width), channels = trunk.finer, trunk.channels
            sigma, sigma_fine = sigmas[coarse], sigmas[fine].clamp_min(1e-6)
            matrix = projections[fine].reshape(factor * factor, len(sigma_fine), len(sigma))
            matrix = matrix * sigma / sigma_fine[:, None]
            kept, kept_fine = min(channels, len(sigma)), min(width, len(sigma_fine))
            up = torch.zeros(factor * factor, width, channels)
            up[:, :kept_fine, :kept] = matrix[:, :kept_fine, :kept]
            trunk.up.weight.copy_(up.reshape(-1, channels))

    @torch.no_grad()
    def initialise_level(
        self, level: int, code_lengths: Tensor, codebook: Tensor, sigmas: Mapping[int, Tensor]
    ) -> None:
        """`initialise` for the tables of one level."""
        tables, slices = self.tables(level), len(codebook)
        sigma = sigmas[self.config.levels[level].stride].clamp_min(1e-6)
        if slices == 1:
            unit = codebook / sigma
            kept = min(unit.shape[2], tables.embedding.shape[2])
            near = torch.zeros_like(tables.embedding)
            near[..., :kept] = unit[..., :kept]
        else:  # more coordinates than channels: random directions, the same for both tables
            unit = codebook / codebook.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
            near = unit @ torch.randn(slices, unit.shape[2], tables.embedding.shape[2])
            near /= math.sqrt(slices * unit.shape[2])
        tables.embedding.copy_((0.5 * near).clamp(-LIMIT, LIMIT))
        tables.output.copy_(0.1 * near)
        tables.bias.copy_(code_lengths * -math.log(2))
