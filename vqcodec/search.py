"""Rate-distortion search: each index chosen by its error and its real bits, as it is coded."""

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
        The grids (h_l, w_l) int32, the payload, and the words that each level needs.
    Source: entropy-constrained VQ, Chou, Lookabaugh and Gray (1989), with the code lengths
        that a context gives in place of fixed ones.
    """
    import torch

    visitor = _Search(model, latent, model.config.lambda_at(quality), levels, progress)
    with torch.inference_mode():
        grids = walk(model.prior, visitor.shapes, round(quality), visitor.choose)
    payload, ends = visitor.writer.finish()
    return [grid[0] for grid in grids], payload, ends


class _Search:
    """The state of a walk that minimises |r - e_k|^2 + lambda bits_k at each position."""

    def __init__(
        self,
        model: Model,
        latent: "Tensor",
        slope: float,
        levels: int,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.quantizer, self.slope, self.progress = model.quantizer, np.float32(slope), progress
        self.levels = model.config.levels[:levels]
        self.height, self.width = latent.shape[2:]
        factors = [level.stride // model.config.base_stride for level in self.levels]
        self.shapes = [(self.height // factor, self.width // factor) for factor in factors]
        self.writer = GridWriter()
        self.rest = latent.clone()
        self.level = -1
        self.grid: IndexGrid = np.empty((0, 0), np.int32)
        self.errors: Float32 = np.empty((0, 0, 0), np.float32)

    def choose(self, front: Front, frequencies: NDArray[np.float64]) -> IndexGrid:
        """Indices (1, n) of a front, written at once."""
        if front.level != self.level:
            self._enter(front.level)
        costs = self.errors[front.rows, front.cols]  # (n, K)
        costs -= self.slope * np.log2(frequencies[0].astype(np.float32))
        indices: IndexGrid = costs.argmin(1)[None].astype(np.int32)
        self.grid[front.rows, front.cols] = indices[0]
        self.writer.push(front, frequencies, indices)
        return indices

    def _enter(self, level: int) -> None:
        """Take the finished level off the latent; squared errors of the next one's codes."""
        import torch

        if self.level >= 0:
            stride = self.levels[self.level].stride
            indices = torch.from_numpy(self.grid).long().flatten()[None]
            chosen = self.quantizer.buffer("codebook", self.level)[indices]
            self.rest -= self.quantizer.scatter(chosen, stride, self.height, self.width)
        vectors = self.quantizer.gather(self.rest, self.levels[level].stride)[0]
        codebook = self.quantizer.buffer("codebook", level)
        # |r|^2 is the same for every code and left out.
        errors = torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2)
        self.errors = errors.numpy().reshape(*self.shapes[level], -1)
        self.grid = np.empty(self.shapes[level], np.int32)
        self.level = level
        if self.progress:
            self.progress(level / len(self.levels))
