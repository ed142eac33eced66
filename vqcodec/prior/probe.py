"""A fixed calculation with the frozen prior, and the hash of its result. NumPy only.

A weights file holds the hash that the machine gave on which it was made, and `vqcodec doctor`
compares. So what is calculated here never changes: small grids of all levels are scanned at three
qualities, their indices drawn from the frequencies by integers alone. The hash is the SHA-256 of,
for each quality, the frequencies of all levels in coding order and then the index grids, all as
little-endian int32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.prior.constants import TOTAL_BITS
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.wavefront_scan import Step, scan, scan_known

__all__ = ["Grids", "probe", "probe_known", "probe_scan"]

ROWS, COLUMNS = 3, 7  # of the coarsest grid: odd, so that no kernel's blocks fit the products
PROBE_QUALITIES = (10, 50, 90)

Grids = list[NDArray[np.int32]]  # (1, h, w, S) per level
Seen = list[list[NDArray[np.float64]]]  # (batch, n, S, K) of each wavefront of each level


def probe(prior: IntegerPrior) -> str:
    """The hash for a weights file: 64 hexadecimal digits."""
    return probe_scan(prior)[0]


def probe_scan(prior: IntegerPrior, batch: int = 1) -> tuple[str, list[Grids]]:
    """Draw the grids of each quality with `scan`.

    Args:
        batch: copies of the grids that are scanned together; the result does not depend on it.
    Returns:
        The hash, and the grids of each quality.
    """
    coarsest = prior.config.levels[0].stride
    shapes = prior.config.grid_shapes(ROWS * coarsest, COLUMNS * coarsest)
    digest, drawn = _Digest(), []
    sizes = [
        height * width * level.slices
        for (height, width), level in zip(shapes, prior.config.levels, strict=True)
    ]
    for quality in PROBE_QUALITIES:
        draw = _Draw(quality, sizes, batch)
        grids = scan(prior, shapes, quality, draw, batch)
        digest.add(draw.seen, grids)
        drawn.append([grid[:1] for grid in grids])
    return digest.text(), drawn


def probe_known(prior: IntegerPrior, drawn: Sequence[Grids], batch: int = 1) -> str:
    """The same hash by `scan_known`, from the grids that `probe_scan` drew."""
    digest = _Digest()
    for quality, one in zip(PROBE_QUALITIES, drawn, strict=True):
        grids = [np.repeat(grid, batch, axis=0) for grid in one]
        seen: Seen = [[] for _ in grids]
        for step, _ in scan_known(prior, grids, quality):
            for level, frequencies in _wavefronts(step, batch):
                seen[level].append(frequencies)
        digest.add(seen, grids)
    return digest.text()


def _wavefronts(step: Step, batch: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Level and frequencies (batch, n, S, K) of each wavefront."""
    rows = step.frequencies
    for wavefront in step.wavefronts:
        shape = (len(wavefront.places), batch, -1, rows.shape[1])
        yield wavefront.level, rows[wavefront.indices].reshape(shape).swapaxes(0, 1)


class _Digest:
    """SHA-256 of the first of several copies, and of those that differ from it, if any does."""

    def __init__(self) -> None:
        self.hash = sha256()

    def add(self, seen: Seen, grids: Grids) -> None:
        """Add what was calculated at one quality."""
        every: Iterator[NDArray[Any]] = chain(*seen, grids)
        for copies in every:
            self.hash.update(copies[0].astype("<i4").tobytes())
            for copy in copies[1:]:
                if not np.array_equal(copy, copies[0]):
                    self.hash.update(copy.astype("<i4").tobytes())

    def text(self) -> str:
        return self.hash.hexdigest()


class _Draw:
    """Draws indices by their frequencies, the same in all copies."""

    def __init__(self, seed: int, sizes: Sequence[int], batch: int) -> None:
        """`sizes`: the number of indices of each level."""
        self.seed, self.batch, self.seen = seed, batch, Seen([] for _ in sizes)
        self.counts = [0, *accumulate(sizes)]  # the number of the next index of each level

    def __call__(self, step: Step) -> NDArray[np.integer[Any]]:
        drawn = [self.draw(*wavefront) for wavefront in _wavefronts(step, self.batch)]
        return np.concatenate([indices.swapaxes(0, 1).ravel() for indices in drawn])

    def draw(self, level: int, frequencies: NDArray[np.float64]) -> NDArray[np.integer[Any]]:
        """(batch, n, S, K) of a wavefront -> (batch, n, S)."""
        self.seen[level].append(frequencies)
        _, positions, slices, size = frequencies.shape
        numbers = _split_mix(self.seed, self.counts[level], positions * slices)
        self.counts[level] += numbers.size
        bounds = frequencies.astype(np.int64).cumsum(axis=-1)
        drawn = (numbers >> np.uint64(64 - TOTAL_BITS)).astype(np.int64)
        indices: NDArray[np.intp] = (bounds <= drawn.reshape(positions, slices, 1)).sum(axis=-1)
        return indices.clip(max=size - 1)  # where a machine's frequencies sum to too little


def _split_mix(seed: int, first: int, count: int) -> NDArray[np.uint64]:
    """Outputs first..first + count of SplitMix64 (Steele, Lea and Flood 2014)."""
    # NumPy's own generators may change from version to version. Arrays of uint64 wrap around.
    z: NDArray[np.uint64] = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
