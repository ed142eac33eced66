"""How long every code would be at every place, as the exact prior has it, for the search."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vqcodec.config import Tuning
from vqcodec.exact_prior import TOTAL, walk_known
from vqcodec.registry import Model

__all__ = ["expected_lengths"]

# Share of the real lengths, and by how much the sum is made longer. With the rest marginal, since
# what is cheap here may make the neighbours dear; longer, or some bits more would be spent than
# before. Experiments 11, 27 and 31.
MIXTURES: dict[Tuning, tuple[float, float]] = {"psnr": (0.5, 1.1), "ssim": (0.6, 1.0)}


def expected_lengths(model: Model, grids: Sequence[Tensor], quality: Tensor) -> list[Tensor]:
    """Code lengths given what is chosen around, mixed with marginal ones.

    Args:
        grids: (1, h_l, w_l, S_l) per level, coarse first: a first choice.
        quality: (1,) in 0..100, not rounded.
    Returns:
        (1, h_l w_l, K_l) in bits, of the first levels, all that have one slice.
    Source: rate-distortion optimised quantisation with adaptive contexts, Karczewicz et al. (2008).
    """
    first = itertools.takewhile(lambda level: level.slices == 1, model.config.levels)
    known = [grid.numpy().astype(np.int32) for grid, _ in zip(grids, first, strict=False)]
    share, scale = MIXTURES[model.config.tune]
    marginal = (model.quantizer.marginal_bits(k, quality) for k in range(len(known)))
    lengths = [
        scale * (1 - share) * bits.repeat(1, grid[0].size, 1)
        for bits, grid in zip(marginal, known, strict=True)
    ]
    if not known:
        return []
    for front, frequencies in walk_known(model.prior, known, round(quality.item())):
        places = torch.from_numpy(front.rows * known[front.level].shape[2] + front.cols)
        likely = torch.from_numpy(frequencies[0, :, 0]).float() / TOTAL
        lengths[front.level][0, places] -= scale * share * likely.log2_()
    return lengths
