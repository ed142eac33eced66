"""Residual vector quantisation: latent <-> one index grid per level; codebook updates.

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

__all__ = ["Quantized", "Quantizer"]

ERRORS_AT_ONCE = 2**23  # (vector, code) pairs whose distance is held in memory
WORTH = 0.04  # share of codes but zero below which coding a level gains nothing: experiment 10
WORTH_OF_MANY = 0.02  # the same for a level of several slices: experiment 22
TRAINING_BEAM = 4  # paths that training follows up at each position
DEAD_COUNT = 0.02  # uses per batch, on the moving average, below which a code is dead
ROUNDS = 8  # of k-means


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

    def __init__(self, config: ModelConfig, decay: float = 0.998, rate_decay: float = 0.99) -> None:
        super().__init__()
        self.config, self.decay, self.rate_decay = config, decay, rate_decay
        self.dim = config.latent_dims[-1]
        for stride, dim in zip(config.strides, config.latent_dims, strict=True):
            rows = self.dim * (stride // config.base_stride) ** 2
            self.register_buffer(f"projection_{stride}", torch.eye(rows, dim))
            self.register_buffer(f"sigma_{stride}", torch.ones(dim))
        for index, level in enumerate(config.levels):
            size, slices = level.codebook_size, level.slices
            dim = config.latent_dim(level.stride) // slices
            self.register_buffer(f"codebook_{index}", torch.zeros(slices, size, dim))
            self.register_buffer(f"code_sum_{index}", torch.zeros(slices, size, dim))
            self.register_buffer(f"code_count_{index}", torch.zeros(slices, size))
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
            price: (B, n).
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
                of = lengths[group[0] : group[-1] + 1] or marginal
                chosen = self.assign_jointly(group, vectors, quality, of, beam, price)
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

    @torch.no_grad()
    def update(self, latent: Tensor, quality: Tensor, weights: Tensor | None = None) -> Quantized:
        """`forward`, then move codebooks and code lengths towards what was seen (EMA).

        Codes that die out are put where a random vector of the batch lies. Source: van den Oord
        et al. (2017), appendix A.1; revival: Jukebox (Dhariwal et al. 2020).
        """
        bins = rate_bins(quality)

        def observe(level: int, vectors: Tensor, weights: Tensor, indices: Tensor) -> None:
            count, total = self.buffer("code_count", level), self.buffer("code_sum", level)
            seen, sums = self._tally(level, vectors, weights, indices)
            count.mul_(self.decay).add_(seen, alpha=1 - self.decay)
            total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
            self._revive(level, vectors, indices)
            self._set_means(level)
            rates = self.buffer("rate_count", level)
            rates.mul_(
                (self.rate_decay ** torch.bincount(bins, minlength=RATE_BINS))[:, None, None]
            )
            used = _histograms(indices, rates.shape[2])
            rates.index_add_(0, bins, used, alpha=1 - self.rate_decay)

        return self.forward(latent, quality, beam=TRAINING_BEAM, weights=weights, observe=observe)

    def _tally(
        self, level: int, vectors: Tensor, weights: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weight (S, K) that chose each code by indices (B, n, S), weighted sum (S, K, d) of that.

        Args:
            vectors: (B, n, D_s).
            weights: (B, n); those of the whole are made 1 on average.
        """
        slices, size, dim = self.buffer("codebook", level).shape
        flat = (indices + torch.arange(slices) * size).flatten()
        each = (weights / weights.mean())[..., None].expand(indices.shape).reshape(-1, 1)
        rows = self.cut(level, vectors).reshape(-1, dim) * each
        sums = torch.zeros(slices * size, dim).index_add_(0, flat, rows)
        counts = torch.bincount(flat, each.flatten(), slices * size)
        return counts.reshape(slices, size), sums.reshape(slices, size, dim)

    def _set_means(self, level: int) -> None:
        """Each code to the weighted mean of what chose it; code 0 stays the zero vector."""
        count, total = self.buffer("code_count", level), self.buffer("code_sum", level)
        codebook = self.buffer("codebook", level)
        codebook.copy_(total / count.clamp(min=1e-6)[..., None])
        codebook[:, 0] = 0

    def _revive(self, level: int, vectors: Tensor, indices: Tensor) -> None:
        """Put each dead code where a vector lies that some code was worth its bits for."""
        count, total = self.buffer("code_count", level), self.buffer("code_sum", level)
        slices, size, _ = total.shape
        dead = count < DEAD_COUNT
        dead[:, 0] = False
        busy = (indices.reshape(-1, slices) > 0).T  # (S, B n)
        dead &= busy.any(1, keepdim=True)
        if not dead.any():
            return
        which, code = dead.nonzero(as_tuple=True)
        chances = busy.float() + 1e-12
        pick = torch.multinomial(chances, size, replacement=True)[which, code]
        count[which, code] = 0.1
        total[which, code] = self.cut(level, vectors).flatten(0, 1)[pick, which] * 0.1

    def statistics(self) -> dict[str, list[float]]:
        """Per level, over all qualities: marginal bits per index, perplexity, dead codes."""
        bits: list[float] = []
        perplexity: list[float] = []
        dead: list[float] = []
        for level in range(len(self.config.levels)):
            rates = self.buffer("rate_count", level)
            lengths = torch.log2(rates.sum(-1, keepdim=True) / rates.clamp(min=1e-9))
            bits.append(round(float((rates * lengths).sum() / rates.sum()), 3))
            share = rates.sum(0) / rates.sum((0, 2))[:, None]
            entropy = -(share * share.clamp(min=1e-9).log()).sum(1)
            perplexity.append(round(float(entropy.exp().mean()), 1))
            dead.append(int((self.buffer("code_count", level) < DEAD_COUNT).sum()))
        return {"marginal_bits": bits, "perplexity": perplexity, "dead_codes": dead}

    @torch.no_grad()
    def prefer_zero(self) -> None:
        """Where a code adds next to nothing for the lambda of a quality, let zero do its work.

        Training may settle on any code near the origin as the cheap one of a quality; with the
        zero code in its place, levels that do nothing are seen to do nothing.
        """
        for level in range(len(self.config.levels)):
            energy = self.buffer("codebook", level).square().sum(2)
            rates = self.buffer("rate_count", level)
            for row in range(RATE_BINS):
                quality = (row + 0.5) * QUALITIES / RATE_BINS
                idle = energy < 0.05 * self.config.lambda_at(quality)
                moved = (rates[row] * idle).sum(1)
                rates[row, idle] = 0
                rates[row, :, 0] = moved

    def levels_worth(self, quality: float) -> int:
        """How many levels, from the first, code something other than zero at this quality."""
        row = rate_bins(torch.tensor([quality]))[0]
        shares = [self.buffer("rate_count", k)[row] for k in range(len(self.config.levels))]
        busy = [k for k, rates in enumerate(shares) if _worth(rates)]
        return max(busy, default=0) + 1

    def code_lengths(self) -> list[Tensor]:
        """Marginal code lengths in bits, (RATE_BINS, S, K) per level."""
        middles = (torch.arange(RATE_BINS) + 0.5) * (QUALITIES / RATE_BINS)
        return [self.marginal_bits(level, middles) for level in range(len(self.config.levels))]

    def geometry(self) -> tuple[list[Tensor], dict[int, Tensor], dict[int, Tensor]]:
        """Codebooks, sigmas and projections, as `Prior.initialise` takes them."""
        strides, dims = self.config.strides, self.config.latent_dims
        bases = {self.config.base_stride: torch.eye(self.dim)}
        for stride in strides[:-1]:
            # Rows of a projection are (channel, dy, dx) on the base grid, pixel_unshuffle's order.
            bases[stride] = self.buffer("projection", stride)
        steps: dict[int, Tensor] = {}
        for coarse, fine, dim in zip(strides, strides[1:], dims[1:], strict=False):
            whole, part = coarse // self.config.base_stride, fine // self.config.base_stride
            factor = whole // part
            rows = bases[coarse].reshape(self.dim, whole, whole, -1).permute(3, 0, 1, 2)
            blocks = F.pixel_unshuffle(rows, part).flatten(2).transpose(1, 2)
            vectors = blocks @ bases[fine] if part > 1 else blocks
            steps[fine] = vectors.reshape(-1, factor * factor * dim).T.contiguous()
        codebooks = [self.buffer("codebook", k) for k in range(len(self.config.levels))]
        return codebooks, {s: self.buffer("sigma", s) for s in strides}, steps

    def restart_averages(self, batch: int) -> None:
        """Rebuild the moving averages behind the codebooks from the code lengths' counts."""
        for level in range(len(self.config.levels)):
            count = self.buffer("rate_count", level).mean(0) * batch
            self.buffer("code_count", level).copy_(count)
            self.buffer("code_sum", level).copy_(self.buffer("codebook", level) * count[..., None])

    @torch.no_grad()
    def initialise(
        self,
        latent: Tensor,
        quality: Tensor,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Projections by PCA, then codebooks level by level by entropy-constrained k-means.

        Args:
            latent: (N, D, h, w) of sample crops.
            quality: (N,) at which each crop is quantised; spread over 0..100.
            progress: called with the share of the levels that is done, 0..1.
        """
        rest = latent
        for stride in self.config.strides:
            if stride != self.config.base_stride:
                blocks = F.pixel_unshuffle(latent, stride // self.config.base_stride)
                rows = blocks.transpose(0, 1).flatten(1).double()
                _, vectors = torch.linalg.eigh(rows @ rows.T)
                dim = self.config.latent_dim(stride)
                self.buffer("projection", stride).copy_(vectors.flip(1)[:, :dim])
            spread = self.gather(latent, stride).flatten(0, 1).square().mean(0).sqrt()
            self.buffer("sigma", stride).copy_(spread)
        for level, spec in enumerate(self.config.levels):
            vectors = self.gather(rest, spec.stride)
            chosen = self.look_up(level, self.fit(level, vectors, quality))
            rest = rest - self.scatter(chosen, spec.stride, *latent.shape[2:])
            if progress:
                progress((level + 1) / len(self.config.levels))

    @torch.no_grad()
    def fit(self, level: int, vectors: Tensor, quality: Tensor) -> Tensor:
        """Entropy-constrained k-means of one level on vectors (N, n, D_s).

        Returns:
            The indices (N, n, S).
        """
        codebook, rates = self.buffer("codebook", level), self.buffer("rate_count", level)
        slices, size, _ = codebook.shape
        everything = vectors, quality, torch.ones(vectors.shape[:2])
        # Many slices take long, and each of them has vectors enough.
        step = min(slices, max(1, len(vectors) // (2 * RATE_BINS)))
        vectors, quality, even = (part[::step] for part in everything)
        rows, bins = self.cut(level, vectors).flatten(0, 1), rate_bins(quality)
        codebook.copy_(rows[torch.randint(len(rows), (size,))].transpose(0, 1))
        codebook[:, 0] = 0
        rates.fill_(1.0)
        for round_ in range(ROUNDS):
            lengths = self.marginal_bits(level, quality)
            indices = self.assign(level, vectors, quality, lengths, even)
            count, total = self._tally(level, vectors, even, indices)
            self.buffer("code_count", level).copy_(count / len(quality))
            self.buffer("code_sum", level).copy_(total / len(quality))
            if round_ < ROUNDS - 2:
                self._revive(level, vectors, indices)
            self._set_means(level)
            for which in range(RATE_BINS):
                used = _histograms(indices[bins == which], size).sum(0)
                rates[which] = used / max(1, int((bins == which).sum())) + 1e-3
        vectors, quality, even = everything
        return self.assign(level, vectors, quality, self.marginal_bits(level, quality), even)


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


def _histograms(indices: Tensor, size: int) -> Tensor:
    """How often indices (B, n, S) use each code: (B, S, K)."""
    batch, _, slices = indices.shape
    first = torch.arange(batch * slices).reshape(batch, 1, slices) * size
    counts = torch.bincount((indices + first).flatten(), minlength=batch * slices * size)
    return counts.float().reshape(batch, slices, size)


def _worth(rates: Tensor) -> bool:
    """Whether some slice of a level (S, K) says something other than zero often enough."""
    least = WORTH if len(rates) == 1 else WORTH_OF_MANY
    return bool((rates[:, 1:].sum(1) > least * rates.sum(1)).any())
