"""Drawing new pictures: indices from the prior, one after the other, decoded like any others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vqcodec import models
from vqcodec.bitstream.tiles import Tile
from vqcodec.decoder.decode import decode_grids
from vqcodec.options import SampleOptions
from vqcodec.picture.picture import Picture
from vqcodec.prior.wavefront_scan import Step, scan

__all__ = ["draw_pictures"]


def draw_pictures(options: SampleOptions) -> Iterator[Picture]:
    """Pictures drawn from the prior.

    Raises:
        ModelError: no such model.
    Source: ancestral sampling; nucleus sampling, Holtzman et al. (2020).
    """
    model, (width, height) = models.load(options.model), options.size
    rng = np.random.default_rng(options.seed)

    def draw(step: Step) -> NDArray[np.int32]:
        return _draw(rng, step.frequencies, options.temperature, options.top_p)

    shapes = model.config.grid_shapes(height, width)[: model.levels_worth(options.quality)]
    grids = scan(model.prior, shapes, options.quality, draw, batch=options.count)
    box = Tile(0, 0, 0, height, width)
    for number in range(options.count):
        own = [grid[number] for grid in grids]
        yield Picture(rgb=decode_grids(model, own, options.quality, (height, width), box))


def _draw(
    rng: np.random.Generator, frequencies: NDArray[np.float64], temperature: float, top_p: float
) -> NDArray[np.int32]:
    """One index per row of frequencies (n, K): (n,)."""
    if temperature == 0:
        likeliest: NDArray[np.int32] = frequencies.argmax(-1).astype(np.int32)
        return likeliest
    chances = frequencies / frequencies.max(-1, keepdims=True)  # the largest stays 1 at any power
    if temperature != 1:
        chances **= 1 / temperature
    if top_p < 1:
        order = np.sort(chances, axis=-1)[..., ::-1]
        share = order.cumsum(-1) / order.sum(-1, keepdims=True)
        last = np.minimum((share < top_p).sum(-1, keepdims=True), chances.shape[-1] - 1)
        chances[chances < np.take_along_axis(order, last, -1)] = 0
    sums = chances.cumsum(-1)
    levels = rng.random(sums.shape[:-1])[..., None] * sums[..., -1:]
    drawn: NDArray[np.int64] = np.minimum((sums <= levels).sum(-1), chances.shape[-1] - 1)
    return drawn.astype(np.int32)
