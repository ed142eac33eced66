"""The one coding order, and the frequencies of every index in it. NumPy only.

A masked tap (dy, dx) satisfies dx + 2 dy <= 0 (the first layer: < 0), so positions (i, j) of a
level with equal t = j + 2 i, a *front*, are coded together. Nothing that a level knows of a coarser
one lies more than 6 fronts ahead, so all levels of a stride are walked at once, each a few fronts
behind the one before it: few steps with much to multiply. Features are stored skewed: the row of
(i, j) is t * step + i, so that a tap is a constant distance in rows.

See docs/format.md, sections 4 and 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import RATE_BINS
from vqcodec.exact_prior import (
    ACTIVATION_MAX,
    AROUND,
    FINE,
    FIRST_TAPS,
    GATE_MAX,
    LAYER_TAPS,
    QUALITIES,
    ExactPrior,
    clip_activations,
)
from vqcodec.products import Array
from vqcodec.resources import limit_threads
from vqcodec.tally import Tally

__all__ = ["Front", "TOTAL", "cross_entropy_bits", "walk", "walk_known"]

Frequencies = NDArray[np.float64]  # (batch, n, S, K), >= 1, each row sums to TOTAL
Indices = NDArray[np.integer[Any]]  # (batch, n, S)
Grid = NDArray[np.integer[Any]]  # (batch, h, w, S)

TOTAL = 2**24  # frequencies of a position sum to this

AHEAD = 3  # fronts to the furthest tap of a context layer, (1, 1)
LAG = 2 * AHEAD + 1  # fronts between two levels: the two context layers see 2 * AHEAD ahead
MANY_ROWS = 1024  # in a step; with fewer, as in coding, threads are in each other's way
PAD_FRONTS, PAD_ROWS = 5, 2  # the furthest tap, (-2, -1), lies 5 fronts and 2 rows back


@dataclass(frozen=True, slots=True)
class Front:
    """Positions of one level that are coded together, in coding order."""

    level: int
    rows: NDArray[np.intp]  # (n,)
    cols: NDArray[np.intp]  # (n,)


Choose = Callable[[Front, Frequencies], Indices]


def walk(
    prior: ExactPrior,
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
        choose: picks the indices (batch, n, S) of a front, given its frequencies
            (batch, n, S, K). Fronts of different levels take turns.
        batch: pictures walked together.
        done: told the grids so far, after each level; may stop the walk by an exception.
    Returns:
        The chosen grids, int32 (batch, h, w, S) per level.
    Raises:
        ValueError: shapes that do not fit the configuration, quality out of range.
    """
    shapes = [(int(height), int(width)) for height, width in shapes]
    _check(prior, shapes, quality)
    grids = [
        np.empty((batch, *shape, level.slices), np.int32)
        for shape, level in zip(shapes, prior.config.levels, strict=False)
    ]
    for run, found in _visit(prior, shapes, quality, batch):
        for front, frequencies in found:
            grids[front.level][:, front.rows, front.cols] = choose(front, frequencies)
        run.place([(front, _at(grids, front)) for front, _ in found])
        if done and found and run.ends(found[0][0]):
            done(grids[: found[0][0].level + 1])
    return grids


def walk_known(
    prior: ExactPrior, grids: Sequence[Grid], quality: int
) -> Iterator[tuple[Front, Frequencies]]:
    """The frequencies that `walk` computes when its choices are `grids`, in the same order.

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
    for run, found in _visit(prior, shapes, quality, len(grids[0]), grids):
        yield from found
        run.place([(front, _at(grids, front)) for front, _ in found])


def cross_entropy_bits(prior: ExactPrior, grids: Sequence[Grid], quality: int) -> list[float]:
    """Ideal code length of each level in bits, summed over the batch."""
    bits = [0.0] * len(grids)
    for front, frequencies in walk_known(prior, grids, quality):
        chosen = np.take_along_axis(frequencies, _at(grids, front)[..., None], axis=3)
        bits[front.level] += float(-np.log2(chosen / TOTAL).sum())
    return bits


def _at(grids: Sequence[Grid], front: Front) -> Indices:
    return grids[front.level][:, front.rows, front.cols]


def _check(prior: ExactPrior, shapes: Sequence[tuple[int, int]], quality: int) -> None:
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
    prior: ExactPrior,
    shapes: Sequence[tuple[int, int]],
    quality: int,
    batch: int,
    known: Sequence[Grid] = (),
) -> Iterator[tuple[_Run, list[tuple[Front, Frequencies]]]]:
    """Fronts as they can be computed; `_Run.place` must get their indices before the next.

    Args:
        known: the grids, if they are: then the networks run once for a level, not for each front.
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
            for step in range(run.steps):
                yield run, run.step(step)


class _Run:
    """The levels of one stride, each `LAG` fronts behind the one before it.

    A *row* is one position of one picture of the batch. In coding order, rows run over fronts,
    positions by increasing i, then pictures. All levels share the arrays of features: what one of
    them overwrites, those before it have read for the last time.
    """

    def __init__(
        self,
        prior: ExactPrior,
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
        self.rows, self.cols = i[self.order], j[self.order]
        # Where each front starts, in positions; a grid one column wide has no odd fronts.
        self.starts = [0, *np.cumsum(np.bincount(t)).tolist()]
        self.fronts = len(self.starts) - 1
        self.steps = AHEAD + self.fronts + LAG * (len(levels) - 1)
        self.most = min(height, (width + 1) // 2) * len(levels) * batch  # rows of a step
        # No two positions meet, nor does a tap outside the grid meet a position: the rows i of
        # fronts t and t + n differ by at most (width + 2) / 2, less than n steps.
        stride = min(height + PAD_ROWS, width // 2 + 2) * batch
        slot = (t[self.order] + PAD_FRONTS) * stride + (self.rows + PAD_ROWS) * batch
        self.slots = (slot[:, None] + np.arange(batch)).ravel()
        # Rows outside the grid are never written and stay zero; all others are written before
        # they are read, by every level.
        size = (self.fronts + 2 * PAD_FRONTS) * stride + (height + 2 * PAD_ROWS) * batch
        self.held = prior.carrier.activations
        self.total = np.zeros((size, channels), prior.carrier.sums)
        self.clamped, self.middle = np.zeros((2, size, channels), self.held)
        # Embeddings of the indices, then what each layer reads; at last the context.
        self.features = np.zeros((depth + 2, size, channels), self.held)
        self.around, self.first_taps, layer_taps = (
            np.array([(dx + 2 * dy) * stride + dy * batch for dy, dx in taps])
            for taps in (AROUND, FIRST_TAPS, LAYER_TAPS)
        )
        # From the features of a layer on; its last tap is the context.
        self.layer_taps = [np.append(layer_taps, (depth - k) * size) for k in range(depth)]
        if total is not None:
            rows = total.reshape(batch, -1, channels)[:, self.order].swapaxes(0, 1)
            self.total[self.slots] = rows.reshape(-1, channels)
            self.clamped[:] = _narrow(clip_activations(self.total.copy()))
        self.tables = [prior.tables[level] for level in levels]
        # (2, levels, C): what is added in the context layers, the second of which is fine.
        self.conditions = np.stack([tables.condition[quality] for tables in self.tables], 1)
        self.conditions *= np.array([1, FINE]).reshape(2, 1, 1) / 16
        self.conditions += 0.5  # for rounding
        self.half = np.array([0.5], prior.carrier.sums)
        self.bias = [tables.bias[quality * RATE_BINS // QUALITIES] for tables in self.tables]
        nothing = self._rows([-1] * len(levels))
        self.ahead = deque([nothing] * AHEAD)  # rows and lanes of the steps to come
        self.foreseen: list[NDArray[Any]] = []  # of each level, what its logits are made of
        self.tally = Tally([tables.embedding.shape[:2] for tables in self.tables], batch)

    def step(self, step: int) -> list[tuple[Front, Frequencies]]:
        """The fronts of this step, coarse first; `place` must follow."""
        due = [step - AHEAD - LAG * k for k in range(len(self.levels))]
        spans = {k: span for k, span in enumerate(map(self._span, due)) if span[0] < span[1]}
        found, logits = [], []
        for (k, (first, last)), h in zip(spans.items(), self._features(due, spans), strict=True):
            tables = self.tables[k]
            sums = tables.output(h, self.bias[k]).reshape(last - first, self.batch, -1)
            sums += self.tally.steps[k]
            logits.append(sums.reshape(-1, tables.embedding.shape[1]))
        for (k, (first, last)), shares in zip(spans.items(), self._shares(logits), strict=True):
            slices, size, _ = self.tables[k].embedding.shape
            self.tally.expect(k, shares.reshape(last - first, self.batch, -1))
            frequencies = shares.reshape(last - first, self.batch, slices, size).swapaxes(0, 1)
            front = Front(self.levels[k], self.rows[first:last], self.cols[first:last])
            found.append((front, frequencies))
        return found

    def place(self, chosen: Sequence[tuple[Front, Indices]]) -> None:
        """Set the indices (batch, n, S) of all fronts of the last step."""
        if not chosen:
            return
        numbered = [(front.level - self.levels[0], indices) for front, indices in chosen]
        self.tally.learn(numbered)
        if not self.foreseen:
            rows = np.concatenate([self._embed(k, indices) for k, indices in numbered])
            self.features[0][self.where] = _narrow(rows)
            self._add(self.where, rows)

    def foresee(self, grid: Grid) -> None:
        """Compute what the next level's logits are made of from all of its indices."""
        k = len(self.foreseen)
        lanes = np.full(len(self.slots), k)
        self._first_context(self.slots, lanes)
        context = self._second_context(self.slots, lanes)
        rows = self._embed(k, grid[:, self.rows, self.cols])
        self.features[0][self.slots] = _narrow(rows)
        h = self._network(self.slots, context)
        self.foreseen.append(_narrow(h).astype(self.held, copy=False))
        self._add(self.slots, rows)

    def _embed(self, level: int, indices: Indices) -> Array:
        """What indices (batch, n, S) of the level with this number add, a row each."""
        rows = indices.swapaxes(0, 1).reshape(-1, indices.shape[2])
        return self.tables[level].embed(rows)

    def _add(self, where: NDArray[np.intp], rows: Array) -> None:
        """Add to what later levels know of these rows; spoils them."""
        rows += self.total[where]
        self.total[where] = rows
        self.clamped[where] = _narrow(clip_activations(rows))

    def ends(self, front: Front) -> bool:
        """Whether it is the last of its level."""
        return (int(front.rows[0]) + 1, int(front.cols[0]) + 1) == self.shape

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

    def _span(self, t: int) -> tuple[int, int]:
        """First and last position of a front; equal where there is none."""
        return (self.starts[t], self.starts[t + 1]) if 0 <= t < self.fronts else (0, 0)

    def _features(
        self, due: Sequence[int], spans: Mapping[int, tuple[int, int]]
    ) -> list[NDArray[Any]]:
        """What the logits of each level that has a front now are made of, (n batch, C)."""
        if self.foreseen:
            parts = [(self.foreseen[k], span) for k, span in spans.items()]
            return [h[first * self.batch : last * self.batch] for h, (first, last) in parts]
        self.ahead.append(self._rows([t + AHEAD for t in due]))
        self._first_context(*self.ahead[-1])
        self.where, lanes = self.ahead.popleft()
        h = self._network(self.where, self._second_context(self.where, lanes))
        h = _narrow(h).astype(self.held, copy=False)
        ends = [0, *accumulate((b - a) * self.batch for a, b in spans.values())]
        return [h[a:b] for a, b in pairwise(ends)]

    def _rows(self, fronts: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of one front of each level, and for each row which of the levels it belongs to."""
        spans = [self._span(t) for t in fronts]
        where = np.concatenate([self.slots[a * self.batch : b * self.batch] for a, b in spans])
        counts = [(last - first) * self.batch for first, last in spans]
        return where, np.repeat(np.arange(len(spans)), counts)

    def _first_context(self, where: NDArray[np.intp], lanes: NDArray[np.intp]) -> None:
        added = self.conditions[0].take(lanes, axis=0)
        found = self.trunk.context1(_taps(self.clamped, where, self.around), added)
        self.middle[where] = found.clip(0, ACTIVATION_MAX, out=found)

    def _second_context(self, where: NDArray[np.intp], lanes: NDArray[np.intp]) -> Array:
        """(n, C)"""
        added = self.conditions[1].take(lanes, axis=0)
        return clip_activations(self.trunk.context2(_taps(self.middle, where, self.around), added))

    def _network(self, where: NDArray[np.intp], context: Array) -> Array:
        """The causal layers: (n, C)."""
        trunk, channels = self.trunk, self.trunk.channels
        self.features[-1][where] = _narrow(context)
        # Rounded before the context is added: the bounds of the sums do not allow for it.
        h = trunk.first(_taps(self.features[0], where, self.first_taps), self.half)
        h += context
        clip_activations(h)
        for k, layer in enumerate(trunk.layers):
            self.features[k + 1][where] = _narrow(h)
            read = self.features[k + 1 :].reshape(-1, channels)
            sums = layer.gate(_taps(read, where, self.layer_taps[k]), layer.bias)
            u = sums[:, :channels].clip(-GATE_MAX, GATE_MAX - 1)
            u *= sums[:, channels:].clip(0, GATE_MAX)
            u *= 1 / GATE_MAX
            np.floor(u, out=u)
            h += layer.residual(u.astype(self.held, copy=False), self.half)
            clip_activations(h)
        return h

    def _shares(self, logits: Sequence[Array]) -> list[NDArray[np.float64]]:
        """`_normalise` for several levels: in one go, for speed, if all have as many codes."""
        if len({part.shape[1] for part in logits}) != 1:
            return [self._normalise(part) for part in logits]
        every = self._normalise(np.concatenate(logits))
        ends = [0, *accumulate(len(part) for part in logits)]
        return [every[a:b] for a, b in pairwise(ends)]

    def _normalise(self, logits: Array) -> NDArray[np.float64]:
        """Logits -> frequencies (n, K); spoils the logits."""
        rows = np.arange(len(logits))
        best = logits.argmax(axis=1)
        np.subtract(logits[rows, best, None], logits, out=logits)
        # Products are < 2**20 * 2**24 and row sums <= 4096 * 2**20: all exact in float64. The
        # correctly rounded quotient never reaches the next integer (they differ by >= 1 / sum).
        shares: NDArray[np.float64] = self.table.take(logits.astype(np.intp), mode="clip")
        total = shares.sum(axis=1, keepdims=True)
        shares *= TOTAL - shares.shape[1]
        shares /= total
        np.floor(shares, out=shares)
        shares += 1
        shares[rows, best] += TOTAL - shares.sum(axis=1)
        return shares


def _taps(features: NDArray[Any], where: NDArray[np.intp], back: NDArray[np.intp]) -> NDArray[Any]:
    """The taps of some rows side by side: (n, taps * C)."""
    found = features.take(where[:, None] + back, axis=0, mode="clip")
    return found.reshape(len(where), len(back) * features.shape[1])


def _narrow(h: Array) -> Array:
    """Fine values to the steps of what is multiplied."""
    steps: Array = h * (1 / FINE)
    steps += 0.5
    return np.floor(steps, out=steps)
