"""How the codebooks and code lengths of a quantizer are learnt: k-means, then moving averages.

A codebook starts from entropy-constrained k-means and then follows each batch (EMA). What the
prior starts from is derived from the same tables.
Sources: moving averages, van den Oord et al. (2017), appendix A.1; entropy-constrained k-means,
Chou, Lookabaugh and Gray (1989); revival of dead codes, Jukebox (Dhariwal et al. 2020).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.config import RATE_BINS
from vqcodec.limits import QUALITIES
from vqcodec.networks.quantizer import Quantized, Quantizer, rate_bins

__all__ = ["CodebookLearner", "code_lengths", "geometry", "prefer_zero"]

BEAM = 4  # paths that are followed up at each position
DEAD_COUNT = 0.02  # uses per batch, on the moving average, below which a code is dead
REVIVED_COUNT = 0.1  # uses that a revived code starts from
ROUNDS = 8  # of k-means
CHEAP = 0.05  # a code of less squared norm than this many lambdas counts as the zero code


class CodebookLearner(nn.Module):
    """A quantizer that learns, and the moving averages behind its codebooks.

    The averages (`code_sum_*`, `code_count_*`) are state of training: a checkpoint holds them, a
    weights file does not.
    """

    def __init__(
        self, quantizer: Quantizer, decay: float = 0.998, rate_decay: float = 0.99
    ) -> None:
        """`decay`: of the averages, per batch; `rate_decay`: of index counts, per picture."""
        super().__init__()
        self.quantizer, self.decay, self.rate_decay = quantizer, decay, rate_decay
        for level in range(len(quantizer.config.levels)):
            codebook = quantizer.buffer("codebook", level)
            self.register_buffer(f"code_sum_{level}", torch.zeros_like(codebook))
            self.register_buffer(f"code_count_{level}", torch.zeros(codebook.shape[:2]))

    def averages(self, level: int) -> tuple[Tensor, Tensor]:
        """Per batch: how many vectors chose each code (S, K), and the sum of these (S, K, d)."""
        return self.get_buffer(f"code_count_{level}"), self.get_buffer(f"code_sum_{level}")

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
        quantizer, config, rest = self.quantizer, self.quantizer.config, latent
        for stride in config.strides:
            if stride != config.base_stride:
                blocks = F.pixel_unshuffle(latent, stride // config.base_stride)
                rows = blocks.transpose(0, 1).flatten(1).double()
                _, vectors = torch.linalg.eigh(rows @ rows.T)
                dim = config.latent_dim(stride)
                quantizer.buffer("projection", stride).copy_(vectors.flip(1)[:, :dim])
            spread = quantizer.gather(latent, stride).flatten(0, 1).square().mean(0).sqrt()
            quantizer.buffer("sigma", stride).copy_(spread)
        for level, spec in enumerate(config.levels):
            vectors = quantizer.gather(rest, spec.stride)
            chosen = quantizer.look_up(level, self.fit(level, vectors, quality))
            rest = rest - quantizer.scatter(chosen, spec.stride, *latent.shape[2:])
            if progress:
                progress((level + 1) / len(config.levels))

    @torch.no_grad()
    def fit(self, level: int, vectors: Tensor, quality: Tensor) -> Tensor:
        """Entropy-constrained k-means of one level on vectors (N, n, D_s).

        Returns:
            The indices (N, n, S).
        """
        quantizer = self.quantizer
        codebook = quantizer.buffer("codebook", level)
        rates = quantizer.buffer("rate_count", level)
        count, total = self.averages(level)
        slices, size, _ = codebook.shape
        everything = vectors, quality, torch.ones(vectors.shape[:2])
        # Many slices take long, and each of them has vectors enough.
        step = min(slices, max(1, len(vectors) // (2 * RATE_BINS)))
        vectors, quality, even = (part[::step] for part in everything)
        rows, bins = quantizer.cut(level, vectors).flatten(0, 1), rate_bins(quality)
        codebook.copy_(rows[torch.randint(len(rows), (size,))].transpose(0, 1))
        codebook[:, 0] = 0
        rates.fill_(1.0)
        for round_ in range(ROUNDS):
            lengths = quantizer.marginal_bits(level, quality)
            indices = quantizer.assign(level, vectors, quality, lengths, even)
            seen, sums = self._sums(level, vectors, even, indices)
            count.copy_(seen / len(quality))
            total.copy_(sums / len(quality))
            if round_ < ROUNDS - 2:
                self._revive(level, vectors, indices)
            self._set_means(level)
            for which in range(RATE_BINS):
                used = _histograms(indices[bins == which], size).sum(0)
                rates[which] = used / max(1, int((bins == which).sum())) + 1e-3
        vectors, quality, even = everything
        lengths = quantizer.marginal_bits(level, quality)
        return quantizer.assign(level, vectors, quality, lengths, even)

    @torch.no_grad()
    def update(self, latent: Tensor, quality: Tensor, weights: Tensor | None = None) -> Quantized:
        """Quantise a batch, then move codebooks and code lengths towards what was seen (EMA).

        Args:
            latent, quality, weights: as `Quantizer.forward` takes them.
        """
        bins = rate_bins(quality)

        def observe(level: int, vectors: Tensor, weights: Tensor, indices: Tensor) -> None:
            count, total = self.averages(level)
            seen, sums = self._sums(level, vectors, weights, indices)
            count.mul_(self.decay).add_(seen, alpha=1 - self.decay)
            total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
            self._revive(level, vectors, indices)
            self._set_means(level)
            rates = self.quantizer.buffer("rate_count", level)
            rates.mul_(
                (self.rate_decay ** torch.bincount(bins, minlength=RATE_BINS))[:, None, None]
            )
            used = _histograms(indices, rates.shape[2])
            rates.index_add_(0, bins, used, alpha=1 - self.rate_decay)

        return self.quantizer.forward(latent, quality, beam=BEAM, weights=weights, observe=observe)

    def restart_averages(self, batch: int) -> None:
        """Rebuild the moving averages behind the codebooks from the code lengths' counts."""
        for level in range(len(self.quantizer.config.levels)):
            count, total = self.averages(level)
            count.copy_(self.quantizer.buffer("rate_count", level).mean(0) * batch)
            total.copy_(self.quantizer.buffer("codebook", level) * count[..., None])

    def statistics(self) -> dict[str, list[float]]:
        """Per level, over all qualities: marginal bits per index, perplexity, dead codes."""
        bits: list[float] = []
        perplexity: list[float] = []
        dead: list[float] = []
        for level in range(len(self.quantizer.config.levels)):
            rates = self.quantizer.buffer("rate_count", level)
            lengths = torch.log2(rates.sum(-1, keepdim=True) / rates.clamp(min=1e-9))
            bits.append(round(float((rates * lengths).sum() / rates.sum()), 3))
            share = rates.sum(0) / rates.sum((0, 2))[:, None]
            entropy = -(share * share.clamp(min=1e-9).log()).sum(1)
            perplexity.append(round(float(entropy.exp().mean()), 1))
            dead.append(int((self.averages(level)[0] < DEAD_COUNT).sum()))
        return {"marginal_bits": bits, "perplexity": perplexity, "dead_codes": dead}

    def _sums(
        self, level: int, vectors: Tensor, weights: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Total weight (S, K) of the vectors that chose each code, and weighted sum (S, K, d).

        Args:
            vectors: (B, n, D_s).
            weights: (B, n), scaled here to a mean of 1.
            indices: (B, n, S).
        """
        slices, size, dim = self.quantizer.buffer("codebook", level).shape
        flat = (indices + torch.arange(slices) * size).flatten()
        each = (weights / weights.mean())[..., None].expand(indices.shape).reshape(-1, 1)
        rows = self.quantizer.cut(level, vectors).reshape(-1, dim) * each
        sums = torch.zeros(slices * size, dim).index_add_(0, flat, rows)
        counts = torch.bincount(flat, each.flatten(), slices * size)
        return counts.reshape(slices, size), sums.reshape(slices, size, dim)

    def _set_means(self, level: int) -> None:
        """Each code to the weighted mean of what chose it; code 0 stays the zero vector."""
        count, total = self.averages(level)
        codebook = self.quantizer.buffer("codebook", level)
        codebook.copy_(total / count.clamp(min=1e-6)[..., None])
        codebook[:, 0] = 0

    def _revive(self, level: int, vectors: Tensor, indices: Tensor) -> None:
        """Re-seed dead codes at random vectors that were coded with a non-zero code."""
        count, total = self.averages(level)
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
        count[which, code] = REVIVED_COUNT
        rows = self.quantizer.cut(level, vectors).flatten(0, 1)
        total[which, code] = rows[pick, which] * REVIVED_COUNT


@torch.no_grad()
def prefer_zero(quantizer: Quantizer) -> None:
    """Count the uses of codes of next to no energy, at the lambda of a quality, as uses of zero.

    Training may settle on any code near the origin as the cheap one of a quality; with the zero
    code in its place, levels that do nothing are seen to do nothing.
    """
    for level in range(len(quantizer.config.levels)):
        energy = quantizer.buffer("codebook", level).square().sum(2)
        rates = quantizer.buffer("rate_count", level)
        for row in range(RATE_BINS):
            quality = (row + 0.5) * QUALITIES / RATE_BINS
            idle = energy < CHEAP * quantizer.config.lambda_at(quality)
            moved = (rates[row] * idle).sum(1)
            rates[row, idle] = 0
            rates[row, :, 0] = moved


def code_lengths(quantizer: Quantizer) -> list[Tensor]:
    """Marginal code lengths in bits, (RATE_BINS, S, K) per level, as `Prior.initialise` wants."""
    middles = (torch.arange(RATE_BINS) + 0.5) * (QUALITIES / RATE_BINS)
    return [
        quantizer.marginal_bits(level, middles) for level in range(len(quantizer.config.levels))
    ]


def geometry(quantizer: Quantizer) -> tuple[list[Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """Codebooks, sigmas and projections, as `Prior.initialise` takes them."""
    config = quantizer.config
    strides, dims, base = config.strides, config.latent_dims, config.base_stride
    bases = {base: torch.eye(quantizer.dim)}
    for stride in strides[:-1]:
        # Rows of a projection are (channel, dy, dx) on the base grid, pixel_unshuffle's order.
        bases[stride] = quantizer.buffer("projection", stride)
    steps: dict[int, Tensor] = {}
    for coarse, fine, dim in zip(strides, strides[1:], dims[1:], strict=False):
        whole, part = coarse // base, fine // base
        factor = whole // part
        rows = bases[coarse].reshape(quantizer.dim, whole, whole, -1).permute(3, 0, 1, 2)
        blocks = F.pixel_unshuffle(rows, part).flatten(2).transpose(1, 2)
        vectors = blocks @ bases[fine] if part > 1 else blocks
        steps[fine] = vectors.reshape(-1, factor * factor * dim).T.contiguous()
    codebooks = [quantizer.buffer("codebook", level) for level in range(len(config.levels))]
    return codebooks, {s: quantizer.buffer("sigma", s) for s in strides}, steps


def _histograms(indices: Tensor, size: int) -> Tensor:
    """How often indices (B, n, S) use each code: (B, S, K)."""
    batch, _, slices = indices.shape
    first = torch.arange(batch * slices).reshape(batch, 1, slices) * size
    counts = torch.bincount((indices + first).flatten(), minlength=batch * slices * size)
    return counts.float().reshape(batch, slices, size)
