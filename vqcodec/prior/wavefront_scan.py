"""The one coding order, and the frequencies of every index in it. NumPy only.

A masked tap (dy, dx) satisfies dx + 2 dy <= 0 (the first layer: < 0), so positions (i, j) of a
level with equal t = j + 2 i, a *wavefront*, are coded together. What a level sees of coarser levels
reaches 6 wavefronts ahead, so all levels of a stride are scanned side by side, each 7 wavefronts
behind the one before it. A *step* is what is coded at once: the wavefronts of these levels.

Where the indices are not known, in decoding and sampling, the networks run step by step (`scan`);
where they are, in encoding, level by level (`scan_known`). The order of coding is the same.

Source: docs/format.md, sections 4 and 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import RATE_BINS
from vqcodec.limits import QUALITIES
from vqcodec.prior.adaptive_counts import AdaptiveCounts
from vqcodec.prior.arithmetic import Array
from vqcodec.prior.constants import TOTAL
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.wavefront_layout import AHEAD, Layout, Span
from vqcodec.prior.wavefront_network import WavefrontNetwork
from vqcodec.resources import limit_threads

__all__ = ["Indices", "Shares", "Step", "Wavefront", "scan", "scan_known"]

Indices = NDArray[np.integer[Any]]
# (n, K), frequencies less one, as the range coder takes them: integers >= 0 that sum to TOTAL - K.
Shares = NDArray[np.float64]
Grid = NDArray[np.integer[Any]]  # (batch, h, w, S)

MANY_ROWS = 1024  # of a step: with fewer, as in coding a tile, threads cost more than they gain


@dataclass(frozen=True, slots=True)
class Wavefront:
    """Positions of one level that are coded together, in coding order."""

    level: int
    places: NDArray[np.intp]  # (n,), i * width + j
    indices: slice  # of those of the step: by position, then picture, then slice


@dataclass(frozen=True, slots=True)
class Step:
    """What is coded at once: wavefronts of different levels, one after the other."""

    wavefronts: list[Wavefront]  # coarse first
    shares: Shares

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """(n, K), at least 1; each row sums to TOTAL."""
        return self.shares + 1


Choose = Callable[[Step], Indices]


def scan(
    prior: IntegerPrior,
    shapes: Sequence[tuple[int, int]],
    quality: int,
    choose: Choose,
    batch: int = 1,
    done: Callable[[list[NDArray[np.int32]]], None] | None = None,
) -> list[NDArray[np.int32]]:
    """Visit every position: each level by t = j + 2 i, then i, and never before what it depends on.

    Args:
        prior: the frozen prior.
        shapes: (h, w) of the grids of the first levels, coarse first; may stop early.
        quality: 0..100.
        choose: picks the indices (n,) of a step.
        batch: pictures scanned together.
        done: called after each level with the grids so far; may stop the scan by an exception.
    Returns:
        The chosen grids, int32 (batch, h, w, S) per level.
    Raises:
        ValueError: shapes that do not fit the configuration, quality out of range.
    """
    shapes = [(int(height), int(width)) for height, width in shapes]
    _check(prior, shapes, quality)
    grids: list[NDArray[np.int32]] = []

    def complete(grid: NDArray[np.int32]) -> None:
        grids.append(grid)
        if done:
            done(grids)

    for stride in _strides(prior, shapes, quality, batch):
        _scan_stride(stride, choose, complete)
    return grids


def _scan_stride(
    stride: _Stride, choose: Choose, complete: Callable[[NDArray[np.int32]], None]
) -> None:
    """Scan the levels of a stride; `complete` gets each grid (batch, h, w, S) at its end."""
    layout, network, count = stride.layout, stride.network, len(stride.levels)
    chosen = [np.empty((layout.num_rows, slices), np.int32) for slices in stride.slices]
    # The second context layer sees AHEAD wavefronts ahead, so the first one runs that much earlier.
    ahead = deque([layout.rows([])] * AHEAD)
    with stride.threads():
        for number in range(layout.num_steps(count) + AHEAD):
            ahead.append(layout.rows(layout.spans(number, count)))
            network.first_context(ahead[-1])
            rows = ahead.popleft()
            if not rows.spans:
                continue
            step = stride.step(rows.spans, rows.split(network.features(rows)))
            indices = choose(step)
            assert len(indices) == len(step.shares)
            network.place(rows, indices)
            stride.learn(step, indices)
            for (level, first, end), wavefront in zip(rows.spans, step.wavefronts, strict=True):
                own = chosen[level][first:end]
                own[:] = indices[wavefront.indices].reshape(own.shape)
            if rows.spans[0].end == layout.num_rows:  # no other level can end here
                complete(layout.to_grid(chosen[rows.spans[0].level]))


def scan_known(
    prior: IntegerPrior, grids: Sequence[Grid], quality: int
) -> Iterator[tuple[Step, Indices]]:
    """The steps of a `scan` whose choices are `grids`, in the same order, and the indices of each.

    Args:
        grids: (batch, h, w, S) per level, coarse first; may stop early.
    Raises:
        ValueError: shapes, indices or quality out of range.
    """
    shapes = [(grid.shape[1], grid.shape[2]) for grid in grids]
    _check(prior, shapes, quality)
    _check_grids(prior, grids)
    for stride in _strides(prior, shapes, quality, len(grids[0])):
        layout, count = stride.layout, len(stride.levels)
        known = [layout.to_rows(grids[level]).astype(np.int32) for level in stride.levels]
        features = [stride.network.whole_level(k, indices) for k, indices in enumerate(known)]
        with stride.threads():
            for number in range(layout.num_steps(count)):
                if spans := layout.spans(number, count):
                    step = stride.step(spans, [features[k][a:b] for k, a, b in spans])
                    indices = np.concatenate([known[k][a:b].ravel() for k, a, b in spans])
                    yield step, indices
                    stride.learn(step, indices)


def _check(prior: IntegerPrior, shapes: Sequence[tuple[int, int]], quality: int) -> None:
    levels = prior.config.levels
    if not 1 <= len(shapes) <= len(levels):
        raise ValueError(f"{len(shapes)} grids for a model of {len(levels)} levels")
    if not 0 <= quality < QUALITIES:
        raise ValueError(f"quality must be 0..{QUALITIES - 1}, got {quality}")
    height, width = shapes[0]
    for k, (shape, level) in enumerate(zip(shapes, levels, strict=False)):
        factor = levels[0].stride // level.stride
        if min(shape) < 1 or tuple(shape) != (height * factor, width * factor):
            first = (int(height), int(width))
            raise ValueError(f"level {k}: grid shape {shape} does not fit {first} at level 0")


def _check_grids(prior: IntegerPrior, grids: Sequence[Grid]) -> None:
    for k, (grid, level) in enumerate(zip(grids, prior.config.levels, strict=False)):
        wanted = (len(grids[0]), *grid.shape[1:3], level.slices)
        if grid.shape != wanted:
            raise ValueError(f"level {k}: grid shape {grid.shape} is not {wanted}")
        size = level.codebook_size
        if grid.min() < 0 or grid.max() >= size:
            raise ValueError(f"level {k}: an index lies outside its codebook of {size}")


def _strides(
    prior: IntegerPrior, shapes: Sequence[tuple[int, int]], quality: int, batch: int
) -> Iterator[_Stride]:
    """The strides of these levels, coarse first; one must be scanned before the next is taken."""
    strides = [level.stride for level in prior.config.levels[: len(shapes)]]
    found: _Stride | None = None
    for stride in dict.fromkeys(strides):
        first, count = strides.index(stride), strides.count(stride)
        total = found.network.finer(shapes[first]) if found else None
        found = _Stride(prior, range(first, first + count), shapes[first], batch, quality, total)
        yield found


class _Stride:
    """The levels of one stride: their layout, their network and their adaptive counts."""

    def __init__(
        self,
        prior: IntegerPrior,
        levels: range,
        shape: tuple[int, int],
        batch: int,
        quality: int,
        total: Array | None,
    ) -> None:
        """`total`: see `WavefrontNetwork`."""
        self.levels, self.layout = levels, Layout(shape, batch)
        self.network = WavefrontNetwork(prior, levels, self.layout, quality, total)
        self._tables = [prior.tables[level] for level in levels]
        self._bias = [tables.bias[quality * RATE_BINS // QUALITIES] for tables in self._tables]
        self.slices = [len(tables.embedding) for tables in self._tables]
        self._codes = prior.config.levels[levels[0]].codebook_size  # the same at all levels
        longest = self.layout.longest
        self._counts = AdaptiveCounts(self.slices, self._codes, batch, longest)
        self._table, self._sums = prior.table, prior.arithmetic.sums

    def threads(self) -> AbstractContextManager[None]:
        """Limit threads to as many as steps of this size can use."""
        many = self.layout.longest * self.layout.batch * len(self.levels) >= MANY_ROWS
        return limit_threads(None if many else 1)

    def step(self, spans: Sequence[Span], features: Sequence[NDArray[Any]]) -> Step:
        """The frequencies of some wavefronts, from the features (n, C) of each; then `learn`."""
        sizes = [(end - first) * self.slices[level] for level, first, end in spans]
        ends = [0, *accumulate(sizes)]
        logits = np.empty((ends[-1], self._codes), self._sums)
        wavefronts = list[Wavefront]()
        for span, rows, (begin, end) in zip(spans, features, pairwise(ends), strict=True):
            k, own = span.level, logits[begin:end]
            corrections = self._counts.steps[k]
            sums = self._tables[k].output(rows, self._bias[k]).reshape(-1, len(corrections))
            np.add(sums, corrections, out=own.reshape(sums.shape))
            places = self.layout.places(span)
            wavefronts.append(Wavefront(self.levels[k], places, slice(begin, end)))
        shares = _normalise(logits, self._table)
        for span, wavefront in zip(spans, wavefronts, strict=True):
            self._counts.expect(span.level, shares[wavefront.indices])
        return Step(wavefronts, shares)

    def learn(self, step: Step, indices: Indices) -> None:
        """Correct later frequencies by the indices (n,) of the last step."""
        levels = [wavefront.level - self.levels[0] for wavefront in step.wavefronts]
        sizes = [one.indices.stop - one.indices.start for one in step.wavefronts]
        self._counts.learn(levels, sizes, indices)


def _normalise(logits: Array, table: NDArray[np.float64]) -> Shares:
    """Logits -> frequencies less one, (n, K); spoils the logits."""
    rows, spread = np.arange(len(logits)), TOTAL - logits.shape[1]
    best, ones = logits.argmax(axis=1), np.ones(logits.shape[1])
    np.subtract(logits[rows, best, None], logits, out=logits)
    # By way of int32, as that is faster. Products are < 2**20 * 2**24 and sums of rows
    # <= 4096 * 2**20: all exact in float64, in any order. The correctly rounded quotient never
    # reaches the next integer (they differ by >= 1 / sum).
    steps = logits.astype(np.int32).astype(np.intp)
    shares: Shares = table.take(steps, mode="clip")
    sums = shares @ ones
    shares *= spread
    shares /= sums[:, None]
    np.floor(shares, out=shares)
    shares[rows, best] += spread - shares @ ones
    return shares
