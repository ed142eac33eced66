"""Drawing new pictures: indices from the prior, one after the other, decoded like any others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vqcodec import models
from vqcodec.bitstream.tiles import Tile
from vqcodec.decoder.decode import reconstruct
from vqcodec.options import SampleOptions
from vqcodec.picture.picture import Picture
from vqcodec.prior.wavefront_scan import Step, scan

__all__ = ["draw_pictures"]


PIXELS = 2**20  # of the pictures drawn at once: bounds memory; more would hardly be faster


def draw_pictures(options: SampleOptions) -> Iterator[Picture]:
    """Pictures drawn from the prior, each as soon as it is asked for.

    The k-th picture depends on the seed and on k, not on how many are drawn.

    Raises:
        ModelError: no such model.
    Source: ancestral sampling; nucleus sampling, Holtzman et al. (2020).
    """
    model, (width, height) = models.load(options.model), options.size
    shapes = model.config.grid_shapes(height, width)[: model.levels_worth(options.quality)]
    box, batch = Tile(0, 0, 0, height, width), max(1, PIXELS // (width * height))
    for first in range(0, options.count, batch):
        numbers = range(first, min(first + batch, options.count))
        rngs = [np.random.default_rng([options.seed, number]) for number in numbers]
        draw = partial(_draw, rngs, options.temperature, options.top_p)
        grids = scan(model.prior, shapes, options.quality, draw, batch=len(rngs))
        for k in range(len(rngs)):
            own = [grid[k] for grid in grids]
            yield Picture(rgb=reconstruct(model, own, options.quality, (height, width), box))


def _draw(
    rngs: Sequence[np.random.Generator], temperature: float, top_p: float, step: Step
) -> NDArray[np.int32]:
    """One index per row of frequencies (n, K): (n,). Each picture has a generator of its own."""
    frequencies = step.frequencies
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
    levels = _uniform(rngs, step)[:, None] * sums[:, -1:]
    drawn: NDArray[np.int64] = np.minimum((sums <= levels).sum(-1), chances.shape[-1] - 1)
    return drawn.astype(np.int32)


def _uniform(rngs: Sequence[np.random.Generator], step: Step) -> NDArray[np.float64]:
    """A number in [0, 1) for each index of a step: (n,)."""
    drawn = []
    for wavefront in step.wavefronts:
        places, indices = len(wavefront.places), wavefront.indices
        slices = (indices.stop - indices.start) // (places * len(rngs))
        drawn.append(np.stack([rng.random((places, slices)) for rng in rngs], axis=1).ravel())
    return np.concatenate(drawn)
