"""Residual vector quantisation: latent <-> one index grid per level.

Level l quantises what the levels before it left of the latent. A level coarser than the latent's
own grid gathers blocks of f x f latent vectors and projects them by an orthonormal matrix (the
KLT of those blocks), so that its squared errors are still those of the latent, hence of pixels.
A level of several slices has one codebook, and one index, for each part of the channels.
Sources: VQ-VAE (van den Oord et al. 2017), VQ-VAE-2 (Razavi et al. 2019), residual VQ (Juang and
Gray 1982; Zeghidour et al. 2021), product quantisation (Jegou et al. 2011), entropy-constrained VQ
(Chou, Lookabaugh and Gray 1989).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.config import RATE_BINS, Level, ModelConfig
from vqcodec.limits import QUALITIES
from vqcodec.networks.beam_search import Beam

__all__ = ["Quantized", "Quantizer", "rate_bins"]

ERRORS_AT_ONCE = 2**23  # (vector, code) pairs whose distance is held in memory
WORTH = 0.04  # share of non-zero codes below which coding a level gains nothing: experiment 10
WORTH_OF_MANY = 0.02  # the same for a level of several slices: experiment 22


@dataclass(frozen=True)
class Quantized:
    """Result of `Quantizer.forward`.

    latent: (B, D, h, w), the sum of all chosen codes.
    grids: per level (B, h_l, w_l, S_l) int64.
    bits: (B,) marginal code length of all indices.
    """

    latent: Tensor
    grids: list[Tensor]
    bits: Tensor


class Quantizer(nn.Module):
    """Codebooks (S, K, d) of all levels. Code 0 is the zero vector: nothing to add."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.latent_dims[-1]
        for stride, dim in zip(config.strides, config.latent_dims, strict=True):
            rows = self.dim * (stride // config.base_stride) ** 2
            self.register_buffer(f"projection_{stride}", torch.eye(rows, dim))
            self.register_buffer(f"sigma_{stride}", torch.ones(dim))
        for index, level in enumerate(config.levels):
            size, slices = level.codebook_size, level.slices
            dim = config.latent_dim(level.stride) // slices
            self.register_buffer(f"codebook_{index}", torch.zeros(slices, size, dim))
            self.register_buffer(f"rate_count_{index}", torch.ones(RATE_BINS, slices, size))

    def buffer(self, kind: str, which: int) -> Tensor:
        """`codebook` (S, K, d), `rate_count` (bins, S, K) of a level, `projection` of a stride."""
        return self.get_buffer(f"{kind}_{which}")

    def gather(self, latent: Tensor, stride: int) -> Tensor:
        """Latent (B, D, h, w) -> vectors (B, h/f * w/f, D_s) that levels of a stride quantise."""
        blocks = F.pixel_unshuffle(latent, stride // self.config.base_stride)
        rows = blocks.flatten(2).transpose(1, 2)
        if stride == self.config.base_stride:
            return rows
        return rows @ self.buffer("projection", stride)

    def scatter(self, vectors: Tensor, stride: int, height: int, width: int) -> Tensor:
        """Transpose of `gather`: vectors -> latent (B, D, height, width)."""
        factor = stride // self.config.base_stride
        if factor > 1:
            vectors = vectors @ self.buffer("projection", stride).T
        # pixel_shuffle, but channels last in memory, as vectors are and the decoder wants them.
        grid = height // factor, width // factor
        blocks = vectors.reshape(len(vectors), *grid, -1, factor, factor)
        rows = blocks.permute(0, 1, 4, 2, 5, 3).reshape(len(vectors), height, width, -1)
        return rows.permute(0, 3, 1, 2)

    def look_up(self, level: int, indices: Tensor) -> Tensor:
        """Vectors (B, n, D_s) of indices (B, n, S)."""
        return _look_up(self.buffer("codebook", level), indices)

    def cut(self, level: int, vectors: Tensor) -> Tensor:
        """Vectors (B, n, D_s) -> (B, n, S, d): channel c belongs to slice c mod S.

        Channels are sorted by variance, so this gives all slices about the same share of it
        (eigenvalue allocation, Ge et al. 2013).
        """
        slices, _, dim = self.buffer("codebook", level).shape
        return vectors.reshape(*vectors.shape[:2], dim, slices).transpose(2, 3)

    def marginal_bits(self, level: int, quality: Tensor) -> Tensor:
        """Code lengths (B, S, K) from index counts seen in training near each quality."""
        counts = self.buffer("rate_count", level)[rate_bins(quality)] + 0.01
        return torch.log2(counts.sum(-1, keepdim=True) / counts)

    def lambdas(self, quality: Tensor) -> Tensor:
        """Squared error that a bit must save, (B,), at qualities (B,)."""
        return torch.tensor([self.config.lambda_at(q) for q in quality.tolist()])

    def errors(self, level: int, vectors: Tensor, offset: Tensor, price: Tensor) -> Tensor:
        """|v - e_k|^2 - |v|^2 + price offset_k of vectors (B, n, D_s): (B, S, n, K).

        Args:
            offset: (B, S, K).
            price: (B, n), 1 over the weight of the vector's error, as in `forward`.
        """
        codebook = self.buffer("codebook", level)
        slices, size, dim = codebook.shape
        batch, count = vectors.shape[:2]
        squares = codebook.square().sum(2).expand(batch, -1, -1).reshape(-1, 1, size)
        # One product gives both terms: -2 v e, and the price times the offset.
        prices = price[:, None, :, None].expand(-1, slices, -1, -1)
        rows = torch.cat([self.cut(level, vectors).transpose(1, 2), prices], 3)
        codes = codebook.transpose(1, 2).expand(batch, -1, -1, -1)
        codes = torch.cat([codes, -0.5 * offset[:, :, None]], 2).reshape(-1, dim + 1, size)
        costs = torch.baddbmm(squares, rows.reshape(-1, count, dim + 1), codes, alpha=-2)
        return costs.reshape(batch, slices, count, size)

    def assign(
        self, level: int, vectors: Tensor, quality: Tensor, lengths: Tensor, price: Tensor
    ) -> Tensor:
        """Indices (B, n, S) that minimise |v - e_k|^2 + price lambda bits_k.

        Args:
            vectors: (B, n, D_s).
            lengths: (B, S, K), the bits.
            price: (B, n).
        """
        offset = self.lambdas(quality)[:, None, None] * lengths
        # No code can save more than |v|^2: where that is never worth its bits, all is zero.
        energy = (self.cut(level, vectors).square().sum(3) / price[..., None]).amax(1)  # (B, S)
        undecided = (energy > offset[..., 1:].amin(2) - offset[..., 0]).any(1).nonzero().flatten()
        indices = torch.zeros(len(vectors), lengths.shape[1], vectors.shape[1], dtype=torch.long)
        count = max(1, ERRORS_AT_ONCE // lengths[0].numel())  # positions
        for rows in torch.split(undecided, max(1, count // vectors.shape[1])):
            for start in range(0, vectors.shape[1], count):
                part = slice(start, start + count)
                errors = self.errors(level, vectors[rows, part], offset[rows], price[rows, part])
                indices[rows, :, part] = errors.argmin(3)
        return indices.transpose(1, 2)

    def assign_jointly(
        self,
        levels: Sequence[int],
        vectors: Tensor,
        quality: Tensor,
        lengths: Sequence[Tensor],
        beam: int,
        price: Tensor,
    ) -> list[Tensor]:
        """Indices (B, n, 1) per level that minimise |v - sum e|^2 + price lambda sum bits together.

        Args:
            levels: of one stride, one slice each.
            vectors: (B, n, D_s).
            lengths: per level (B, n, K), or (B, 1, K) for all positions: the bits.
            beam: how many choices for the levels so far are followed up at each position.
            price: (B, n).
        """
        price = self.lambdas(quality)[:, None] * price
        # No codes can save more than |v|^2: where that is never worth their bits, all are zero.
        least = torch.stack([bits[..., 1:].amin(2) - bits[..., 0] for bits in lengths]).amin(0)
        undecided = vectors.square().sum(2) > least * price
        indices = torch.zeros(*undecided.shape, len(levels), dtype=torch.long)
        places = undecided.nonzero()
        if len(places):
            search = Beam([self.buffer("codebook", level)[0] for level in levels], beam)
            every = [bits.expand(*undecided.shape, -1) for bits in lengths]
            found = []
            for picture, place in (part.T for part in torch.split(places, search.step)):
                offsets = torch.cat([bits[picture, place] for bits in every], 1)
                offsets *= price[picture, place, None]
                found.append(search(vectors[picture, place], offsets))
            indices[undecided] = torch.cat(found)
        return list(torch.split(indices, 1, 2))

    @torch.no_grad()
    def forward(
        self,
        latent: Tensor,
        quality: Tensor,
        levels: int | None = None,
        beam: int = 1,
        weights: Tensor | None = None,
        lengths: Sequence[Tensor] = (),
        observe: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
    ) -> Quantized:
        """Entropy-constrained assignment, stride after stride.

        Args:
            latent: (B, D, h, w) float32.
            quality: (B,) in 0..100; sets lambda and selects the code lengths.
            levels: quantise with the first so many only.
            beam: paths that are followed up where levels are chosen jointly; 1 decides level
                after level.
            weights: (B, h, w), how much a squared error counts; all alike without.
            lengths: (B, n, K) in bits for each of the first levels, all that have one slice, or
                none; the others' are the marginal ones.
            observe: called with (level, vectors (B, n, D_s), weights (B, n), indices (B, n, S)),
                the vectors being what the other levels of the stride leave to this one.
        """
        rest, grids = latent, []
        bits = torch.zeros(len(latent))
        height, width = latent.shape[2:]
        if weights is None:
            weights = torch.ones(len(latent), height, width)
        for group in _groups(self.config.levels[:levels]):
            spec = self.config.levels[group[0]]
            factor = spec.stride // self.config.base_stride
            vectors = self.gather(rest, spec.stride)
            weight = F.avg_pool2d(weights[:, None], factor).flatten(1)
            price = 1 / weight
            marginal = [self.marginal_bits(level, quality) for level in group]  # (B, S, K)
            if spec.slices == 1:
                bits_of = lengths[group[0] : group[-1] + 1] or marginal
                chosen = self.assign_jointly(group, vectors, quality, bits_of, beam, price)
            else:
                chosen = [self.assign(group[0], vectors, quality, marginal[0], price)]
            codes = [self.look_up(k, indices) for k, indices in zip(group, chosen, strict=True)]
            left = vectors - sum(codes)
            rest = rest - self.scatter(vectors - left, spec.stride, height, width)
            parts = zip(group, chosen, codes, marginal, strict=True)
            for level, indices, code, each in parts:
                bits += each.gather(2, indices.transpose(1, 2)).sum((1, 2))
                grids.append(indices.reshape(-1, height // factor, width // factor, spec.slices))
                if observe is not None:
                    observe(level, left + code, weight, indices)
        return Quantized(latent - rest, grids, bits)

    def dequantize(
        self,
        grids: Sequence[Tensor],
        height: int,
        width: int,
        codebooks: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Latent (B, D, height, width) of the grids (B, h_l, w_l, S_l) of the first levels.

        Args:
            codebooks: (S, K, d) of each level, which may learn, instead of its own.
        """
        latent = torch.zeros(len(grids[0]), height, width, self.dim).permute(0, 3, 1, 2)
        if codebooks is None:
            codebooks = [self.buffer("codebook", k) for k in range(len(grids))]
        levels = self.config.levels[: len(grids)]
        for stride, same in itertools.groupby(range(len(grids)), lambda k: levels[k].stride):
            first, *others = same
            total = _look_up(codebooks[first], grids[first].flatten(1, 2))
            for k in others:
                total += _look_up(codebooks[k], grids[k].flatten(1, 2))
            latent += self.scatter(total, stride, height, width)
        return latent

    def levels_worth(self, quality: float) -> int:
        """How many levels, from the first, code something other than zero at this quality."""
        row = rate_bins(torch.tensor([quality]))[0]
        shares = [self.buffer("rate_count", k)[row] for k in range(len(self.config.levels))]
        busy = [k for k, rates in enumerate(shares) if _worth(rates)]
        return max(busy, default=0) + 1


def _look_up(codebook: Tensor, indices: Tensor) -> Tensor:
    slices, size, _ = codebook.shape
    chosen = F.embedding(indices + size * torch.arange(slices), codebook.flatten(0, 1))
    return chosen.transpose(2, 3).flatten(2)


def _groups(levels: Sequence[Level]) -> list[list[int]]:
    """Runs of levels that are chosen jointly: one slice each, the same stride."""

    def key(k: int) -> tuple[int, int]:
        return levels[k].stride, -1 if levels[k].slices == 1 else k

    return [list(run) for _, run in itertools.groupby(range(len(levels)), key)]


def rate_bins(quality: Tensor) -> Tensor:
    """Row of the table of code lengths for each quality 0..100.

    That of the rounded quality, which the file signals: lengths of another row may be far off.
    """
    return (quality.float().round() * (RATE_BINS / QUALITIES)).long().clamp(0, RATE_BINS - 1)


def _worth(rates: Tensor) -> bool:
    """Whether some slice of a level (S, K) has codes other than zero often enough."""
    least = WORTH if len(rates) == 1 else WORTH_OF_MANY
    return bool((rates[:, 1:].sum(1) > least * rates.sum(1)).any())
