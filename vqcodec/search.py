"""Rate-distortion search: each index chosen by its error and its bits, as it is coded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqcodec.coder import GridWriter, IndexGrid
from vqcodec.exact_prior import Front, walk
from vqcodec.registry import Model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["search"]

Float32 = NDArray[np.float32]

# Share of the prior's real code lengths in the costs, the rest being marginal ones. With real costs
# alone, indices that are likely here lead the prior astray later: 3.5 % more bytes (experiment 11).
REAL = 0.3


def search(
    model: Model,
    latent: "Tensor",
    quality: float,
    levels: int,
    progress: Callable[[float], None] | None = None,
) -> tuple[list[IndexGrid], bytes, list[int]]:
    """Choose and code the indices of the first levels in one walk.

    Args:
        latent: (1, D, h, w) float32.
        quality: 0..100, continuous: sets lambda; the prior is told it rounded.
    Returns:
        The grids (h_l, w_l, S_l) int32, the payload, and the words that each level needs.
    Source: entropy-constrained VQ, Chou, Lookabaugh and Gray (1989), with code lengths that
        follow the context.
    """
    import torch

    visitor = _Search(model, latent, quality, levels, progress)
    with torch.no_grad():
        grids = walk(model.prior, visitor.shapes, round(quality), visitor.choose)
    payload, ends = visitor.writer.finish()
    return [grid[0] for grid in grids], payload, ends


class _Search:
    """The state of a walk that minimises |r - e_k|^2 + lambda bits_k at each position.

    The bits are `REAL` parts the prior's in this context and the rest the marginal ones.
    """

    def __init__(
        self,
        model: Model,
        latent: "Tensor",
        quality: float,
        levels: int,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.quantizer, self.quality, self.progress = model.quantizer, quality, progress
        self.slope = np.float32(REAL * model.config.lambda_at(quality))
        self.levels = model.config.levels[:levels]
        self.height, self.width = latent.shape[2:]
        factors = [level.stride // model.config.base_stride for level in self.levels]
        self.shapes = [(self.height // factor, self.width // factor) for factor in factors]
        self.writer = GridWriter()
        self.rest = latent.clone()
        self.level = -1
        self.grid: IndexGrid = np.empty((0, 0, 0), np.int32)
        self.vectors: Float32 = np.empty((0, 0, 0, 0), np.float32)  # (h, w, S, d)

    def choose(self, front: Front, frequencies: NDArray[np.float64]) -> IndexGrid:
        """Indices (1, n, S) of a front, written at once."""
        if front.level != self.level:
            self._enter(front.level)
        # |v - e|^2 without |v|^2, which is the same for every code: (S, n, K).
        costs = self.vectors[front.rows, front.cols].swapaxes(0, 1) @ self.minus_twice_codes
        costs += self.fixed
        costs -= self.slope * np.log2(frequencies[0].astype(np.float32)).swapaxes(0, 1)
        indices: IndexGrid = costs.argmin(2).T[None].astype(np.int32)
        self.grid[front.rows, front.cols] = indices[0]
        self.writer.push(front, frequencies, indices)
        return indices

    def _enter(self, level: int) -> None:
        """Take the finished level off the latent; prepare what the next one's codes compete for."""
        import torch

        if self.level >= 0:
            stride = self.levels[self.level].stride
            indices = torch.from_numpy(self.grid).long().flatten(0, 1)[None]
            chosen = self.quantizer.look_up(self.level, indices)
            self.rest -= self.quantizer.scatter(chosen, stride, self.height, self.width)
        spec = self.levels[level]
        vectors = self.quantizer.gather(self.rest, spec.stride)
        parts = self.quantizer.cut(level, vectors)[0].numpy()
        codebook = self.quantizer.buffer("codebook", level).numpy()
        self.vectors = parts.reshape(*self.shapes[level], *parts.shape[1:])
        self.minus_twice_codes = -2 * codebook.swapaxes(1, 2)  # (S, d, K)
        told = torch.tensor([self.quality])
        marginal = (
            self.quantizer.lambdas(told) * self.quantizer.marginal_bits(level, told)[0]
        ).numpy()
        fixed = (codebook**2).sum(2) + (1 - REAL) * marginal
        self.fixed: Float32 = fixed[:, None]  # (S, 1, K)
        self.grid = np.empty((*self.shapes[level], spec.slices), np.int32)
        self.level = level
        if self.progress:
            self.progress(level / len(self.levels))
