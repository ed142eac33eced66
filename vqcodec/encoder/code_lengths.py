"""The code length of every index at every position, as the prior expects it, for the search."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vqcodec.config import Level, Tuning
from vqcodec.encoder.refine import FADE_IN, interpolate
from vqcodec.networks.model import Model
from vqcodec.networks.quantizer import Quantizer
from vqcodec.prior.constants import TOTAL
from vqcodec.prior.wavefront_scan import scan_known

__all__ = ["expected_lengths", "mixed", "single_slice_levels"]

# Share of the prior's lengths at the two qualities of FADE_IN, linear between. The rest is
# marginal, since a code that is cheap here can make neighbouring codes more expensive; and at low
# rates, a preference for codes like their neighbours shows as errors in smooth areas.
# Experiments 11, 31, 51.
SHARES: dict[Tuning, tuple[float, float]] = {"psnr": (0.0, 0.65), "ssim": (0.6, 0.8)}
# All lengths are multiplied by 1 + this times the share, to keep the rate where it was.
LONGER: dict[Tuning, float] = {"psnr": 0.25, "ssim": 0.0}


def expected_lengths(
    model: Model, choose: Callable[[int], Sequence[Tensor]], quality: Tensor, levels: int
) -> list[Tensor]:
    """Code lengths of the prior, given a first choice of all indices, mixed with marginal ones.

    Args:
        choose: gives a first choice of a number of levels, grids (1, h_l, w_l, S_l), coarse
            first; not called where there is nothing to gain.
        quality: (1,) in 0..100, not rounded.
        levels: how many will be coded.
    Returns:
        (1, h_l w_l, K_l) in bits for each of the first levels that have one slice; an empty list
        where marginal lengths alone are used.
    Source: rate-distortion optimised quantisation with adaptive contexts, Karczewicz et al. (2008).
    """
    coded = model.config.levels[:levels]
    count = single_slice_levels(coded)
    if not count or not _share(model.config.tune, quality).any():
        return []
    known = [grid.numpy().astype(np.int32) for grid in choose(count)]
    found = [
        np.empty((1, grid[0].size, level.codebook_size), np.float32)
        for grid, level in zip(known, coded, strict=False)
    ]
    for step, _ in scan_known(model.prior, known, round(quality.item())):
        for wavefront in step.wavefronts:
            found[wavefront.level][0, wavefront.places] = step.shares[wavefront.indices]
    real = [torch.from_numpy(likely).add_(1).div_(TOTAL).log2_().neg_() for likely in found]
    return [mixed(model.quantizer, k, quality, bits) for k, bits in enumerate(real)]


def mixed(quantizer: Quantizer, level: int, quality: Tensor, real: Tensor) -> Tensor:
    """Code lengths (B, n, K) to search with, of a level of one slice.

    Args:
        quality: (B,) in 0..100.
        real: (B, n, K) in bits, given the codes around; the result takes its place.
    """
    tune = quantizer.config.tune
    share = _share(tune, quality)
    real.lerp_(quantizer.marginal_bits(level, quality), 1 - share)
    return real.mul_(1 + LONGER[tune] * share)


def single_slice_levels(levels: Sequence[Level]) -> int:
    """How many levels, from the first, have one slice."""
    return sum(1 for _ in itertools.takewhile(lambda level: level.slices == 1, levels))


def _share(tune: Tuning, quality: Tensor) -> Tensor:
    """Of the real lengths, at each quality (B,): (B, 1, 1)."""
    return interpolate(FADE_IN, SHARES[tune], quality)[..., 0]
