"""The one coding order, and the frequencies of every index in it. NumPy only.

A masked tap (dy, dx) satisfies dx + 2 dy <= 0 (the first layer: < 0), so positions (i, j) of a
level with equal t = j + 2 i, a *wavefront*, are coded together. Nothing that a level knows of a
coarser one lies more than 6 wavefronts ahead, so all levels of a stride are scanned at once, each
a few wavefronts behind the one before it: few steps with much to multiply. Features are stored
skewed: the row of (i, j) is t * pitch + i, so that a tap is a constant distance in rows.

See docs/format.md, sections 4 and 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import RATE_BINS
from vqcodec.limits import QUALITIES
from vqcodec.prior.adaptive_counts import AdaptiveCounts
from vqcodec.prior.arithmetic import Array
from vqcodec.prior.constants import (
    ACTIVATION_MAX,
    CONTEXT_TAPS,
    FINE_STEPS,
    FIRST_TAPS,
    GATE_UNIT,
    LAYER_TAPS,
    TOTAL,
)
from vqcodec.prior.integer_prior import IntegerPrior, clip_activations
from vqcodec.resources import limit_threads

__all__ = [
    *("Wavefront", "Indices", "Shares", "Step"),
    *("cross_entropy_bits", "scan", "scan_known"),
]

Indices = NDArray[np.integer[Any]]
Shares = NDArray[np.float64]  # (n, K), frequencies less one: integers >= 0 that sum to TOTAL - K
Grid = NDArray[np.integer[Any]]  # (batch, h, w, S)

AHEAD = 3  # wavefronts to the furthest tap of a context layer, (1, 1)
LAG = 2 * AHEAD + 1  # wavefronts between two levels: the two context layers see 2 * AHEAD ahead
MANY_ROWS = 1024  # in a step; with fewer, as in coding, threads are in each other's way
PAD_WAVEFRONTS, PAD_ROWS = 5, 2  # the furthest tap, (-2, -1), lies 5 wavefronts and 2 rows back


@dataclass(frozen=True, slots=True)
class Wavefront:
    """Positions of one level that are coded together, in coding order."""

    level: int
    places: NDArray[np.intp]  # (n,), i * width + j
    indices: slice  # of those of the step: by position, then picture, then slice


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed at once: wavefronts of different levels, coded one after the other."""

    wavefronts: list[Wavefront]  # coarse first
    shares: Shares

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """(n, K), at least 1; each row sums to TOTAL."""
        return self.shares + 1


Choose = Callable[[Step], Indices]
Rows = NDArray[np.intp]
Span = tuple[int, int, int]  # level of a run; positions of one wavefront: first, end


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
        done: told the grids so far, after each level; may stop the scan by an exception.
    Returns:
        The chosen grids, int32 (batch, h, w, S) per level.
    Raises:
        ValueError: shapes that do not fit the configuration, quality out of range.
    """
    shapes = [(int(height), int(width)) for height, width in shapes]
    _check(prior, shapes, quality)
    grids: list[NDArray[np.int32]] = []
    for run, step in _visit(prior, shapes, quality, batch):
        run.place(choose(step))
        if run.ends(step.wavefronts[0]):
            grids.append(run.grid(len(grids)))
            if done:
                done(grids)
    return grids


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
    for grid, level in zip(grids, prior.config.levels, strict=False):
        if len(grid) != len(grids[0]) or grid.shape[3:] != (level.slices,):
            raise ValueError(f"a grid of shape {grid.shape}")
        if grid.min() < 0 or grid.max() >= level.codebook_size:
            raise ValueError(f"an index lies outside its codebook of {level.codebook_size}")
    for run, step in _visit(prior, shapes, quality, len(grids[0]), grids):
        indices = run.known()
        yield step, indices
        run.place(indices)


def cross_entropy_bits(prior: IntegerPrior, grids: Sequence[Grid], quality: int) -> list[float]:
    """Ideal code length of each level in bits, summed over the batch."""
    bits = [0.0] * len(grids)
    for step, indices in scan_known(prior, grids, quality):
        chosen = step.shares[np.arange(len(indices)), indices] + 1
        lengths = -np.log2(chosen / TOTAL)
        for wavefront in step.wavefronts:
            bits[wavefront.level] += float(lengths[wavefront.indices].sum())
    return bits


def _check(prior: IntegerPrior, shapes: Sequence[tuple[int, int]], quality: int) -> None:
    levels = prior.config.levels
    if not 1 <= len(shapes) <= len(levels):
        raise ValueError(f"{len(shapes)} grids for a model of {len(levels)} levels")
    if not 0 <= quality < QUALITIES:
        raise ValueError(f"quality must be 0..{QUALITIES - 1}, got {quality}")
    height, width = shapes[0]
    for shape, level in zip(shapes, levels, strict=False):
        factor = levels[0].stride // level.stride
        if min(shape) < 1 or tuple(shape) != (height * factor, width * factor):
            raise ValueError(f"grid shape {shape} does not fit {tuple(shapes[0])} at the first")


def _visit(
    prior: IntegerPrior,
    shapes: Sequence[tuple[int, int]],
    quality: int,
    batch: int,
    known: Sequence[Grid] = (),
) -> Iterator[tuple[_Run, Step]]:
    """Steps as they can be computed; the run must be told their indices before the next.

    Args:
        known: the grids, if they are: then the networks run once for a level, not for each step.
    """
    strides = [level.stride for level in prior.config.levels[: len(shapes)]]
    run: _Run | None = None
    for stride in dict.fromkeys(strides):
        first, count = strides.index(stride), strides.count(stride)
        total = run.finer(shapes[first]) if run else None
        run = _Run(prior, range(first, first + count), shapes[first], batch, quality, total)
        for grid in known[first : first + count]:
            run.foresee(grid)
        with limit_threads(1 if run.most < MANY_ROWS else None):
            for number in range(run.steps):
                step = run.step(number)
                if step.wavefronts:
                    yield run, step


class _Run:
    """The levels of one stride, each `LAG` wavefronts behind the one before it.

    A *row* is one position of one picture of the batch. In coding order, rows run over wavefronts,
    positions by increasing i, then pictures. All levels share the arrays of features: what one of
    them overwrites, those before it have read for the last time.
    """

    def __init__(
        self,
        prior: IntegerPrior,
        levels: range,
        shape: tuple[int, int],
        batch: int,
        quality: int,
        total: Array | None,
    ) -> None:
        """`total` (batch, h, w, C): what the levels of coarser strides say; None: nothing."""
        self.levels, self.batch, self.shape = levels, batch, shape
        self.trunk, self.table = prior.trunk(levels[0]), prior.table
        channels, depth, (height, width) = self.trunk.channels, len(self.trunk.layers), shape
        i, j = np.divmod(np.arange(height * width), width)
        t = j + 2 * i
        self.order = np.lexsort((i, t))
        # Where each wavefront starts, in positions; a grid one column wide has no odd wavefronts.
        counts = np.bincount(t)
        self.starts = [0, *np.cumsum(counts).tolist()]
        self.steps = AHEAD + len(counts) + LAG * (len(levels) - 1)
        longest = int(counts.max())
        self.most = longest * len(levels) * batch  # rows of a step
        # No two positions meet, nor does a tap outside the grid meet a position: the rows i of
        # wavefronts t and t + n differ by at most (width + 2) / 2, less than n times the pitch.
        pitch = min(height + PAD_ROWS, width // 2 + 2) * batch
        slot = ((t + PAD_WAVEFRONTS) * pitch + (i + PAD_ROWS) * batch)[self.order]
        self.slots = (slot[:, None] + np.arange(batch)).ravel()
        # Rows outside the grid are never written and stay zero; all others are written before
        # they are read, by every level.
        size = (len(counts) + 2 * PAD_WAVEFRONTS) * pitch + (height + 2 * PAD_ROWS) * batch
        self.held = prior.arithmetic.activations
        self.total = np.zeros((size, channels), prior.arithmetic.sums)
        self.clamped, self.middle = np.zeros((2, size, channels), self.held)
        # Embeddings of the indices, then what each layer reads; at last the context.
        self.features = np.zeros((depth + 2, size, channels), self.held)
        self.around, self.first_taps, layer_taps = (
            np.array([(dx + 2 * dy) * pitch + dy * batch for dy, dx in taps])
            for taps in (CONTEXT_TAPS, FIRST_TAPS, LAYER_TAPS)
        )
        # In all features, one after the other; the last tap of a layer is the context.
        layers, context = np.arange(1, depth + 1)[:, None], np.full((depth, 1), depth + 1)
        self.layer_taps = np.hstack([size * layers + layer_taps, size * context])
        if total is not None:
            rows = total.reshape(batch, -1, channels)[:, self.order].swapaxes(0, 1)
            self.total[self.slots] = rows.reshape(-1, channels)
            self.clamped[:] = _narrow(clip_activations(self.total.copy()))
        self.tables = [prior.tables[level] for level in levels]
        # (2, levels, C): what is added in the context layers, the second of which is fine.
        self.conditions = np.stack([tables.condition[quality] for tables in self.tables], 1)
        self.conditions *= np.array([1, FINE_STEPS]).reshape(2, 1, 1) / 16
        self.conditions += 0.5  # for rounding
        self.half = np.array([0.5], prior.arithmetic.sums)
        self.bias = [tables.bias[quality * RATE_BINS // QUALITIES] for tables in self.tables]
        self.embedding = np.concatenate([t.embedding.reshape(-1, channels) for t in self.tables])
        self.slices = [len(tables.embedding) for tables in self.tables]
        self.codes = prior.config.levels[levels[0]].codebook_size
        self.ones = np.ones(self.codes)
        self.counts = AdaptiveCounts(self.slices, self.codes, batch)
        # For each index of the longest wavefront: where code 0 is, in `embedding` and in `counts`.
        self.zeros: list[Rows] = []
        for first, n in zip(accumulate(self.slices, initial=0), self.slices, strict=False):
            own, counted = np.tile(np.arange(n), batch), np.arange(n * batch)
            zero = self.codes * np.stack([first + own, first * batch + counted])
            self.zeros.append(np.tile(zero, longest))
        self.chosen = [np.empty(height * width * batch * n, np.int32) for n in self.slices]
        # Of the last step: its wavefronts, their rows, and where in `chosen` their indices belong.
        self.spans, self.where, self.due = list[Span](), self.slots[:0], list[NDArray[np.int32]]()
        self.ahead = deque([(self.spans, *self._rows([]))] * AHEAD)  # wavefronts, rows and lanes
        self.foreseen: list[NDArray[Any]] = []  # of each level, what its logits are made of

    def step(self, number: int) -> Step:
        """The wavefronts of this step; if there are any, `place` must follow."""
        features = self._foreseen(number) if self.foreseen else self._features(number)
        self.due = [self._chosen(span) for span in self.spans]
        ends = [0, *accumulate(map(len, self.due))]
        logits = np.empty((ends[-1], self.codes), self.total.dtype)
        wavefronts, row = list[Wavefront](), 0
        for (k, first, last), (begin, end) in zip(self.spans, pairwise(ends), strict=True):
            rows = features[row : (row := row + (last - first) * self.batch)]
            sums = self.tables[k].output(rows, self.bias[k]).reshape(last - first, -1)
            np.add(sums, self.counts.steps[k], out=logits[begin:end].reshape(sums.shape))
            wavefronts.append(Wavefront(self.levels[k], self.order[first:last], slice(begin, end)))
        shares = self._normalise(logits)
        for (k, _, _), wavefront in zip(self.spans, wavefronts, strict=True):
            self.counts.expect(k, shares[wavefront.indices])
        return Step(wavefronts, shares)

    def known(self) -> Indices:
        """The indices (n,) of the last step, where all are known."""
        return np.concatenate(self.due)

    def place(self, indices: Indices) -> None:
        """Set the indices (n,) of the last step."""
        zeros, end = [], 0
        for (k, _, _), due in zip(self.spans, self.due, strict=True):
            due[:] = indices[end : (end := end + len(due))]
            zeros.append(self.zeros[k][:, : len(due)])
        assert len(indices) == end
        embedded, counted = np.concatenate(zeros, axis=1) + indices
        self.counts.learn(self.spans[0][0], self.spans[-1][0], counted)
        if not self.foreseen:
            rows = self._embed(embedded, self.spans)
            self.features[0][self.where] = _narrow(rows)
            self._add(self.where, rows)

    def foresee(self, grid: Grid) -> None:
        """Compute what the next level's logits are made of from all of its indices."""
        k, positions = len(self.foreseen), len(self.order)
        ordered = grid.reshape(self.batch, positions, -1)[:, self.order]
        self.chosen[k][:] = ordered.swapaxes(0, 1).ravel()
        lanes = np.full(len(self.slots), k)
        self._first_context(self.slots, lanes)
        context = self._second_context(self.slots, lanes)
        zeros = np.tile(self.zeros[k][0, : self.batch * self.slices[k]], positions)
        rows = self._embed(zeros + self.chosen[k], [(k, 0, positions)])
        self.features[0][self.slots] = _narrow(rows)
        h = self._network(self.slots, context)
        self.foreseen.append(_narrow(h).astype(self.held, copy=False))
        self._add(self.slots, rows)

    def ends(self, wavefront: Wavefront) -> bool:
        """Whether it is the last of its level."""
        return int(wavefront.places[-1]) == len(self.order) - 1

    def grid(self, level: int) -> NDArray[np.int32]:
        """The indices (batch, h, w, S) of a level that has ended."""
        k, positions = level - self.levels[0], len(self.order)
        grid = np.empty((self.batch, positions, self.slices[k]), np.int32)
        grid[:, self.order] = self.chosen[k].reshape(positions, self.batch, -1).swapaxes(0, 1)
        return grid.reshape(self.batch, *self.shape, -1)

    def finer(self, shape: tuple[int, int]) -> Array:
        """The total (batch, *shape, C') for the next stride, when all indices are placed."""
        matrix, (height, width), factor = self.trunk.up, self.shape, shape[0] // self.shape[0]
        assert matrix is not None
        found = matrix(self.clamped[self.slots], self.half)
        found = found.reshape(height * width, self.batch, -1)
        blocks = np.empty_like(found)
        blocks[self.order] = found
        # Column (dy * f + dx) * C' + c is channel c of the finer position (f i + dy, f j + dx).
        blocks = blocks.swapaxes(0, 1).reshape(self.batch, height, width, factor, factor, -1)
        finer: Array = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(self.batch, *shape, -1)
        return finer

    def _spans(self, number: int) -> list[Span]:
        """The wavefronts whose first context is due at this step, coarse first."""
        wavefronts = [(k, number - LAG * k) for k in range(len(self.levels))]
        spans = [
            (k, self.starts[t], self.starts[t + 1])
            for k, t in wavefronts
            if 0 <= t < len(self.starts) - 1
        ]
        return [(k, first, last) for k, first, last in spans if first < last]

    def _chosen(self, span: Span) -> NDArray[np.int32]:
        k, first, last = span
        each = self.batch * self.slices[k]
        return self.chosen[k][first * each : last * each]

    def _features(self, number: int) -> Array:
        """What the logits of this step, whose wavefronts it sets, are made of, (rows, C)."""
        spans = self._spans(number)
        self.ahead.append((spans, *self._rows(spans)))
        self._first_context(*self.ahead[-1][1:])
        self.spans, self.where, lanes = self.ahead.popleft()
        return _narrow(self._network(self.where, self._second_context(self.where, lanes)))

    def _foreseen(self, number: int) -> NDArray[Any]:
        """The same where all is known."""
        self.spans = self._spans(number - AHEAD)
        parts = [(self.foreseen[k], a * self.batch, b * self.batch) for k, a, b in self.spans]
        return np.concatenate([h[a:b] for h, a, b in parts] or [self.foreseen[0][:0]])

    def _rows(self, spans: list[Span]) -> tuple[Rows, Rows]:
        """The rows of some wavefronts, and the level, or *lane*, of each row."""
        where = [self.slots[a * self.batch : b * self.batch] for _, a, b in spans]
        levels = np.array([k for k, _, _ in spans], np.intp)
        return np.concatenate(where or [self.slots[:0]]), np.repeat(levels, list(map(len, where)))

    def _embed(self, rows: Rows, spans: Sequence[Span]) -> Array:
        """What the indices of some wavefronts add, (rows, C); `rows` of `embedding` are theirs."""
        found, end = [], 0
        for slices, alike in groupby(spans, key=lambda span: self.slices[span[0]]):
            count = sum(last - first for _, first, last in alike) * self.batch
            own = rows[end : (end := end + count * slices)].reshape(count, slices)
            total = self.embedding.take(own[:, 0], axis=0)
            for k in range(1, slices):
                total += self.embedding.take(own[:, k], axis=0)
            found.append(total if slices == 1 else clip_activations(total))
        return np.concatenate(found)

    def _add(self, where: Rows, rows: Array) -> None:
        """Add to what later levels know of these rows; spoils them."""
        rows += self.total.take(where, axis=0)
        self.total[where] = rows
        self.clamped[where] = _narrow(clip_activations(rows))

    def _first_context(self, where: Rows, lanes: Rows) -> None:
        added = self.conditions[0].take(lanes, axis=0)
        found = self.trunk.context1(_taps(self.clamped, where, self.around), added)
        self.middle[where] = found.clip(0, ACTIVATION_MAX, out=found)

    def _second_context(self, where: Rows, lanes: Rows) -> Array:
        """(n, C)"""
        added = self.conditions[1].take(lanes, axis=0)
        return clip_activations(self.trunk.context2(_taps(self.middle, where, self.around), added))

    def _network(self, where: Rows, context: Array) -> Array:
        """The causal layers: (n, C)."""
        trunk, channels = self.trunk, self.trunk.channels
        self.features[-1][where] = _narrow(context)
        # Rounded before the context is added: the bounds of the sums do not allow for it.
        h = trunk.first(_taps(self.features[0], where, self.first_taps), self.half)
        h += context
        clip_activations(h)
        features = self.features.reshape(-1, channels)
        for k, layer in enumerate(trunk.layers):
            self.features[k + 1][where] = _narrow(h)
            sums = layer.gate(_taps(features, where, self.layer_taps[k]), layer.bias)
            u = sums[:, :channels].clip(-GATE_UNIT, GATE_UNIT - 1)
            u *= sums[:, channels:].clip(0, GATE_UNIT)
            u *= 1 / GATE_UNIT
            np.floor(u, out=u)
            h += layer.residual(u, self.half)
            clip_activations(h)
        return h

    def _normalise(self, logits: Array) -> NDArray[np.float64]:
        """Logits -> frequencies less one, (n, K); spoils the logits."""
        rows, spread = np.arange(len(logits)), TOTAL - self.codes
        best = logits.argmax(axis=1)
        np.subtract(logits[rows, best, None], logits, out=logits)
        # By way of int32, as that is faster. Products are < 2**20 * 2**24 and sums of rows
        # <= 4096 * 2**20: all exact in float64, in any order. The correctly rounded quotient never
        # reaches the next integer (they differ by >= 1 / sum).
        steps = logits.astype(np.int32).astype(np.intp)
        shares: NDArray[np.float64] = self.table.take(steps, mode="clip")
        sums = shares @ self.ones
        shares *= spread
        shares /= sums[:, None]
        np.floor(shares, out=shares)
        shares[rows, best] += spread - shares @ self.ones
        return shares


def _taps(features: NDArray[Any], where: Rows, back: Rows) -> NDArray[Any]:
    """The taps of some rows side by side: (n, taps * C)."""
    found = features.take(where[:, None] + back, axis=0, mode="clip")
    return found.reshape(len(where), len(back) * features.shape[1])


def _narrow(h: Array) -> Array:
    """Fine values to the steps of what is multiplied."""
    steps: Array = h * (1 / FINE_STEPS)
    steps += 0.5
    return np.floor(steps, out=steps)
