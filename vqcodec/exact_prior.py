"""The prior frozen to integers, and `walk`, the one coding order. NumPy only.

Every value is an integer carried in a float array. Each matrix is checked at loading: no sum of
products can reach 2**24, so float32 (and float64) matrix products are exact in any order of
summation, on any machine and with any number of threads. See docs/format.md, section 5.

Wavefronts: a masked tap (dy, dx) satisfies dx + 2 dy <= 0 (the first layer: < 0), so positions
(i, j) with equal t = j + 2 i are coded together. Features are stored skewed: the row of (i, j) is
t * step + i, so a front is a contiguous slice and a tap is a constant distance in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import RATE_BINS, ModelConfig
from vqcodec.errors import ModelError
from vqcodec.resources import limit_blas

__all__ = [
    "ExactPrior",
    "Front",
    "TOTAL",
    "cross_entropy_bits",
    "level_frequencies",
    "walk",
    "walk_known",
]

Array = NDArray[np.floating[Any]]  # integer-valued
Frequencies = NDArray[np.float64]  # (batch, n, S, K), >= 1, each row sums to TOTAL
Indices = NDArray[np.integer[Any]]  # (batch, n, S)
Grid = NDArray[np.integer[Any]]  # (batch, h, w, S)

FIRST_TAPS = (
    *((0, -1), (0, -2)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1)),
    *((-2, -1), (-2, 0), (-2, 1)),
)
LAYER_TAPS = ((0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1))
PAD_FRONTS, PAD_ROWS = 5, 2  # the furthest tap, (-2, -1), lies 5 fronts and 2 rows back

TOTAL = 2**24  # frequencies of a position sum to this
ACCUMULATOR_LIMIT = 2**24
ACTIVATION_MAX = 255  # 8 units of 32 steps, less one step
GATE_MAX = 128  # a, gate and u: 128 steps per unit
QUALITIES = 101
EXPONENTS = range(3, 16)
TABLE_SIZE = 1024
TABLE_UNIT = 2**20
CHUNK = 1024  # rows computed together where the indices are known; bounds memory
MANY_ROWS = 256  # in a front; with fewer, a second BLAS thread costs more than it does
PATCH = 256  # positions unfolded together in the context layers; fits the cache


@dataclass(frozen=True, slots=True)
class Front:
    """Positions of one level that are coded together, in coding order."""

    level: int
    rows: NDArray[np.intp]  # (n,)
    cols: NDArray[np.intp]  # (n,)


Choose = Callable[[Front, Frequencies], Indices]


# -- loading -----------------------------------------------------------------------------------


# Matrices and biases are held divided by a power of two, so that sums come out in the steps of the
# result, before rounding. In binary floating point this is exact: the integers of the bounds times
# a power of two.


@dataclass(frozen=True)
class _Layer:
    gate: Array  # (5 C, 2 C)
    context: Array  # (C, 2 C)
    bias: Array  # (2 C,), with the halves of rounding and the offset 64 of the gate
    low: Array  # (2 C,): -128 for a, 0 for the gate
    residual: Array  # (C, C)


@dataclass(frozen=True)
class _Trunk:
    channels: int
    context1: Array  # (9 C, C)
    context2: Array  # (9 C, C)
    first: Array  # (9 C, C)
    layers: tuple[_Layer, ...]
    up: Array | None  # (C, f f C')


@dataclass(frozen=True)
class _Tables:
    embedding: Array  # (S, K, C)
    condition: Array  # (101, 2, C), 256 steps per unit
    output: Array  # (C, S K)
    bias: Array  # (RATE_BINS, S K), with the half of rounding

    def embed(self, indices: NDArray[np.integer[Any]]) -> Array:
        """Sum over the slices of the embeddings of indices (..., S), clamped: (..., C)."""
        total: Array = self.embedding[0, indices[..., 0]]
        for k in range(1, len(self.embedding)):
            total += self.embedding[k, indices[..., k]]
        return total if len(self.embedding) == 1 else _clip_activations(total)


class _Loader:
    """Takes named tensors, checking type, shape and bounds."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], dtype: type[np.floating[Any]]) -> None:
        self.tensors, self.dtype = tensors, dtype

    def integers(self, name: str, dtype: type[np.integer[Any]], *shape: int) -> NDArray[np.int64]:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelError(f"prior weights: {name} is missing")
        if tensor.dtype != dtype or tensor.shape != shape:
            want = f"{np.dtype(dtype)} {shape}"
            raise ModelError(f"prior weights: {name} is {tensor.dtype} {tensor.shape}, not {want}")
        return tensor.astype(np.int64)

    def activations(self, name: str, *shape: int) -> Array:
        values = self.integers(name, np.int16, *shape)
        if np.abs(values).max() > ACTIVATION_MAX:
            raise ModelError(f"prior weights: {name} passes {ACTIVATION_MAX}")
        return self.floats(values)

    def bias(self, name: str, *shape: int) -> NDArray[np.int64]:
        return self.integers(f"{name}.bias", np.int32, *shape)

    def matrix(
        self,
        name: str,
        *shape: int,
        largest: int = ACTIVATION_MAX,
        bias: NDArray[np.int64] | int = 0,
        offset: float = 0.5,
    ) -> tuple[Array, float]:
        """Real weights (inputs, outputs) from integers (..., outputs), and the integers' unit.

        Inputs are at most `largest`; `bias` and `offset / unit` bound what is added to the integer
        sums, the half of rounding included.
        """
        weight = self.integers(f"{name}.weight", np.int16, *shape).reshape(-1, shape[-1])
        exponent = int(self.integers(f"{name}.exponent", np.int8, 1)[0])
        if exponent not in EXPONENTS:
            raise ModelError(f"prior weights: {name}.exponent {exponent} is out of range")
        sums = np.abs(weight).sum(0) * largest + np.abs(bias) + offset * 2**exponent
        if sums.max() >= ACCUMULATOR_LIMIT:
            raise ModelError(f"prior weights: sums of {name} can reach 2**24")
        unit = 2.0**-exponent
        return self.floats(weight * unit), unit

    def floats(self, values: NDArray[Any]) -> Array:
        return np.ascontiguousarray(values, dtype=self.dtype)

    def tables(self, name: str, slices: int, size: int, channels: int) -> _Tables:
        bias = self.bias(f"{name}.output", RATE_BINS, slices * size)
        output, unit = self.matrix(f"{name}.output", channels, slices * size, bias=bias)
        return _Tables(
            self.activations(f"{name}.embedding", slices, size, channels),
            self.floats(self.integers(f"{name}.condition", np.int16, QUALITIES, 2, channels)),
            2 * output,  # from 32 to 64 steps per unit
            self.floats(2 * bias * unit + 0.5),
        )

    def layer(self, name: str, channels: int) -> _Layer:
        bias = self.bias(f"{name}.gate", 2 * channels)
        # The gate is 64 steps more than its sum; its half of rounding is the other 0.5.
        gate, unit = self.matrix(f"{name}.gate", 6, channels, 2 * channels, bias=bias, offset=64.5)
        residual, _ = self.matrix(
            f"{name}.residual", channels, channels, largest=GATE_MAX, offset=2.0
        )
        steps = np.repeat([4.0, 1.0], channels)  # a: from 32 to 128 per unit; the gate stays
        return _Layer(
            gate=self.floats(gate[: 5 * channels] * steps),
            context=self.floats(gate[5 * channels :] * steps),
            bias=self.floats(bias * unit * steps + np.repeat([0.5, 64.5], channels)),
            low=self.floats(np.repeat([-GATE_MAX, 0.0], channels)),
            residual=residual / 4,  # from 128 to 32
        )

    def trunk(
        self, name: str, channels: int, layers: int, finer: int | None, added: float
    ) -> _Trunk:
        """`finer`: outputs of the upsampling; `added`: largest conditioning value, in steps."""
        context = [
            self.matrix(f"{name}.context{k}", 9, channels, channels, offset=added + 0.5)[0]
            for k in (1, 2)
        ]
        return _Trunk(
            channels,
            context[0],
            context[1],
            self.matrix(f"{name}.first", 9, channels, channels)[0],
            tuple(self.layer(f"{name}.{i}", channels) for i in range(layers)),
            None if finer is None else self.matrix(f"{name}.up", channels, finer)[0],
        )


class ExactPrior:
    """The frozen prior: integer tables and matrices, checked."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, NDArray[Any]],
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        """Load what `freezing.freeze` made.

        Args:
            config: the model's configuration.
            tensors: integer arrays by name; names outside `prior.` are ignored.
            dtype: float32, or float64 for the same results, slower.
        Raises:
            ModelError: an array is missing, has another type or shape, or breaks a bound.
        """
        loader = _Loader(tensors, dtype)
        self.config, self.dtype = config, dtype
        strides, widths = config.strides, config.prior.channels
        width_of = dict(zip(strides, widths, strict=True))
        self.tables = [
            loader.tables(
                f"prior.level{k}", level.slices, level.codebook_size, width_of[level.stride]
            )
            for k, level in enumerate(config.levels)
        ]
        self._trunks: dict[int, _Trunk] = {}
        for k, stride in enumerate(strides):
            finer = None
            if k + 1 < len(strides):
                finer = (stride // strides[k + 1]) ** 2 * widths[k + 1]
            added = max(
                float(np.abs(tables.condition).max()) / 8
                for tables, level in zip(self.tables, config.levels, strict=True)
                if level.stride == stride
            )
            name = f"prior.{stride}"
            self._trunks[stride] = loader.trunk(name, widths[k], config.prior.layers, finer, added)
        table = loader.integers("prior.table", np.int32, TABLE_SIZE)
        # The largest logit always contributes table[0]: no sum of a row can be zero.
        if table[0] != TABLE_UNIT or table.min() < 0 or table.max() > TABLE_UNIT:
            raise ModelError("prior weights: prior.table is out of range")
        self.table = table.astype(np.float64)

    def trunk(self, level: int) -> _Trunk:
        """The matrices shared by the levels of one stride."""
        return self._trunks[self.config.levels[level].stride]


# -- context: what the coarser levels say ------------------------------------------------------


def _round(sums: Array) -> Array:
    """floor(sums + 1/2), in place."""
    sums += 0.5
    return np.floor(sums, out=sums)


def _multiply(x: Array, weight: Array, out: Array) -> None:
    """out = x @ weight, exact."""
    # OpenBLAS has a faster path for products of up to 10**6 multiplications.
    step = max(1, 10**6 // weight.size)
    for start in range(0, len(x), step):
        np.dot(x[start : start + step], weight, out=out[start : start + step])


def _conv3x3(x: Array, weight: Array, added: Array) -> Array:
    """Unmasked 3x3 layer, zeros outside: (batch, h, w, C) -> the same shape, rounded.

    `added` (C,): conditioning, 256 steps per unit.
    """
    batch, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.empty_like(x)
    step = min(height, max(1, PATCH // width))
    patches = np.empty((step, width, 9 * channels), x.dtype)
    for b in range(batch):
        for top in range(0, height, step):
            rows = min(step, height - top)
            taps = [
                padded[b, top + dy : top + dy + rows, dx : dx + width]
                for dy in range(3)
                for dx in range(3)
            ]
            np.concatenate(taps, axis=-1, out=patches[:rows])
            flat = patches[:rows].reshape(rows * width, 9 * channels)
            _multiply(flat, weight, out[b, top : top + rows].reshape(-1, channels))
    out += added / 8
    return _round(out)


class _Context:
    """The running sum of embeddings of the levels coded so far."""

    def __init__(self, prior: ExactPrior, batch: int, shape: tuple[int, int]) -> None:
        self.prior = prior
        self.total: Array = np.zeros((batch, *shape, prior.trunk(0).channels), prior.dtype)

    def add(self, level: int, grid: Grid) -> None:
        """Take in the indices (batch, h, w, S) of a level; move on to the next level's stride."""
        prior = self.prior
        self.total += prior.tables[level].embed(grid)
        levels = prior.config.levels
        if level + 1 == len(levels) or levels[level + 1].stride == levels[level].stride:
            return
        matrix, factor = prior.trunk(level).up, levels[level].stride // levels[level + 1].stride
        assert matrix is not None
        blocks = _round(np.clip(self.total, -ACTIVATION_MAX, ACTIVATION_MAX) @ matrix)
        batch, height, width, _ = blocks.shape
        # Column (dy * f + dx) * C' + c is channel c of the finer position (f i + dy, f j + dx).
        blocks = blocks.reshape(batch, height, width, factor, factor, -1)
        blocks = blocks.transpose(0, 1, 3, 2, 4, 5)
        self.total = blocks.reshape(batch, height * factor, width * factor, -1)

    def layers(self, level: int, quality: int) -> Array:
        """The context of a level, (batch, h, w, C)."""
        trunk, (c1, c2) = self.prior.trunk(level), self.prior.tables[level].condition[quality]
        x = np.clip(self.total, -ACTIVATION_MAX, ACTIVATION_MAX)
        x = _conv3x3(x, trunk.context1, c1)
        np.clip(x, 0, ACTIVATION_MAX, out=x)
        x = _conv3x3(x, trunk.context2, c2)
        return np.clip(x, -ACTIVATION_MAX, ACTIVATION_MAX, out=x)


# -- the causal network over fronts ------------------------------------------------------------


class _LevelCoder:
    """Skewed features of one level at a time, and frequencies for any run of positions.

    A *row* is one position of one picture of the batch. In coding order, rows run over fronts,
    positions by increasing i, then pictures. Levels of the same stride may use one coder in turn.
    """

    def __init__(
        self, prior: ExactPrior, level: int, batch: int, shape: tuple[int, int], most: int
    ) -> None:
        """For levels of the stride of `level`; `most`: rows that one call may ask for."""
        self.prior, self.batch, (height, width) = prior, batch, shape
        self.trunk = trunk = prior.trunk(level)
        channels, depth, dtype = trunk.channels, len(trunk.layers), prior.dtype
        fronts = width + 2 * (height - 1)
        i, j = np.divmod(np.arange(height * width), width)
        t = j + 2 * i
        self.order = np.lexsort((i, t))
        self.rows, self.cols = i[self.order], j[self.order]
        # Where each front ends, in positions; a grid one column wide has no odd fronts.
        self.ends: list[int] = np.unique(np.cumsum(np.bincount(t))).tolist()
        # No two positions meet, nor does a tap outside the grid meet a position: the rows i of
        # fronts t and t + n differ by at most (width + 2) / 2, less than n steps.
        stride = min(height + PAD_ROWS, width // 2 + 2) * batch
        slot = (t[self.order] + PAD_FRONTS) * stride + (self.rows + PAD_ROWS) * batch
        self.slots = (slot[:, None] + np.arange(batch)).ravel()
        self.first_back = [(dx + 2 * dy) * stride + dy * batch for dy, dx in FIRST_TAPS]
        self.layer_back = [(dx + 2 * dy) * stride + dy * batch for dy, dx in LAYER_TAPS]
        # Rows outside the grid are never written and stay zero; all others are written before
        # they are read, in every level.
        size = (fronts + PAD_FRONTS) * stride + (height + PAD_ROWS) * batch
        self.features = np.zeros((depth + 1, size, channels), dtype)
        self.gates = np.empty((depth, height * width * batch, 2 * channels), dtype)
        self.first_input = np.empty((most, 9 * channels), dtype)
        self.layer_input = np.empty((most, 5 * channels), dtype)
        self.h, self.u, self.r = np.empty((3, most, channels), dtype)
        self.sums = np.empty((most, 2 * channels), dtype)
        self.most = most

    def begin(self, level: int, quality: int, context: Array) -> None:
        """Turn to a level; `context` (batch, h, w, C)."""
        self.bias = self.prior.tables[level].bias[quality * RATE_BINS // QUALITIES]
        self.level, self.tables = level, self.prior.tables[level]
        self.slices, self.size, _ = self.tables.embedding.shape
        self.logits = np.empty(self.most * self.bias.size, self.prior.dtype)
        self.distances = np.empty(self.logits.size, np.intp)
        channels = self.trunk.channels
        flat = context.reshape(self.batch, -1, channels)[:, self.order].swapaxes(0, 1)
        self.context = np.ascontiguousarray(flat).reshape(-1, channels)  # in coding order
        for gate, layer in zip(self.gates, self.trunk.layers, strict=True):
            _multiply(self.context, layer.context, gate)
            gate += layer.bias

    def front(self, first: int, last: int) -> Front:
        """The positions first..last of the coding order."""
        return Front(self.level, self.rows[first:last], self.cols[first:last])

    def _where(self, first: int, last: int, together: bool) -> slice | NDArray[np.intp]:
        """Rows of the features; a slice if the positions are part of one front."""
        if not together:
            rows: NDArray[np.intp] = self.slots[first * self.batch : last * self.batch]
            return rows
        start = int(self.slots[first * self.batch])
        return slice(start, start + (last - first) * self.batch)

    def place(self, first: int, last: int, indices: Indices, together: bool = True) -> None:
        """Set the indices (batch, n, S) of positions whose network outputs are already known."""
        where = self._where(first, last, together)
        rows = indices.swapaxes(0, 1).reshape(-1, self.slices)
        self.features[0][where] = self.tables.embed(rows)

    def frequencies(self, first: int, last: int, together: bool = True) -> Frequencies:
        """(batch, n, S, K) of positions first..last, given all indices that they may see."""
        where = self._where(first, last, together)
        logits = self._network(where, first * self.batch, last * self.batch)
        shares = self._normalise(logits.reshape(-1, self.size))
        shape = last - first, self.batch, self.slices, self.size
        result: Frequencies = shares.reshape(shape).swapaxes(0, 1)
        return result

    def _network(self, where: slice | NDArray[np.intp], first: int, last: int) -> Array:
        """Logits (n, S K) of the rows first..last."""
        n, trunk, channels = last - first, self.trunk, self.trunk.channels
        h, u, r, sums = self.h[:n], self.u[:n], self.r[:n], self.sums[:n]
        x = _gather(self.features[0], where, self.first_back, self.first_input[:n])
        _multiply(x, trunk.first, h)
        _round(h)  # before the context is added: the bounds of the sums do not allow for it
        h += self.context[first:last]
        _clip_activations(h)
        for k, layer in enumerate(trunk.layers):
            features = self.features[k + 1]
            features[where] = h
            x = _gather(features, where, self.layer_back, self.layer_input[:n])
            _multiply(x, layer.gate, sums)
            sums += self.gates[k][first:last]
            np.floor(sums, out=sums)
            np.maximum(sums, layer.low, out=sums)
            np.minimum(sums, GATE_MAX, out=sums)
            np.multiply(sums[:, :channels], sums[:, channels:], out=u)
            u *= 1 / GATE_MAX
            np.floor(u, out=u)
            _multiply(u, layer.residual, r)
            h += _round(r)
            _clip_activations(h)
        output, size = self.tables.output, self.bias.size
        logits = self.logits[: n * size].reshape(n, size)
        _multiply(h, output, logits)
        logits += self.bias
        return np.floor(logits, out=logits)

    def _normalise(self, logits: Array) -> NDArray[np.float64]:
        """Logits -> frequencies (n, K); spoils the logits."""
        distances = self.distances[: logits.size].reshape(logits.shape)
        rows = np.arange(len(logits))
        best = logits.argmax(axis=1)
        np.subtract(logits[rows, best, None], logits, out=logits)
        np.copyto(distances, logits, casting="unsafe")
        # Products are < 2**20 * 2**24 and row sums <= 4096 * 2**20: all exact in float64. The
        # correctly rounded quotient never reaches the next integer (they differ by >= 1 / sum).
        shares: NDArray[np.float64] = self.prior.table.take(distances, mode="clip")
        total = shares.sum(axis=1, keepdims=True)
        shares *= TOTAL - shares.shape[1]
        shares /= total
        np.floor(shares, out=shares)
        shares += 1
        shares[rows, best] += TOTAL - shares.sum(axis=1)
        return shares


def _gather(
    features: Array, where: slice | NDArray[np.intp], back: Sequence[int], out: Array
) -> Array:
    """The taps of some rows side by side: (n, taps * C)."""
    if isinstance(where, slice):
        start, stop = where.start, where.stop
        return np.concatenate([features[start + b : stop + b] for b in back], axis=1, out=out)
    return np.concatenate([features[where + b] for b in back], axis=1, out=out)


def _clip_activations(h: Array) -> Array:
    """Clamp to +-255, in place."""
    np.maximum(h, -ACTIVATION_MAX, out=h)
    return np.minimum(h, ACTIVATION_MAX, out=h)


# -- the coding order --------------------------------------------------------------------------


def walk(
    prior: ExactPrior,
    shapes: Sequence[tuple[int, int]],
    quality: int,
    choose: Choose,
    batch: int = 1,
    done: Callable[[list[NDArray[np.int32]]], None] | None = None,
) -> list[NDArray[np.int32]]:
    """Visit every position in coding order: by level, then t = j + 2 i, then i.

    Args:
        prior: the frozen prior.
        shapes: (h, w) of the grids of the first levels, coarse first; may stop early.
        quality: 0..100.
        choose: picks the indices (batch, n, S) of a front, given its frequencies
            (batch, n, S, K).
        batch: pictures walked together.
        done: told the grids so far, after each level; may stop the walk by an exception.
    Returns:
        The chosen grids, int32 (batch, h, w, S) per level.
    Raises:
        ValueError: shapes that do not fit the configuration, quality out of range.
    """
    shapes = [(int(height), int(width)) for height, width in shapes]
    _check(prior, shapes, quality)
    grids: list[NDArray[np.int32]] = []
    context = _Context(prior, batch, shapes[0])
    coder: _LevelCoder | None = None
    for level, shape in enumerate(shapes):
        most = min(shape[0], (shape[1] + 1) // 2) * batch
        if coder is None or shape != shapes[level - 1]:
            coder = _LevelCoder(prior, level, batch, shape, most)
        coder.begin(level, quality, context.layers(level, quality))
        with limit_blas(1 if most < MANY_ROWS else None):
            grid = _walk_level(coder, shape, choose)
        grids.append(grid)
        if done:
            done(grids)
        context.add(level, grid)
    return grids


def _walk_level(coder: _LevelCoder, shape: tuple[int, int], choose: Choose) -> NDArray[np.int32]:
    grid = np.empty((coder.batch, *shape, coder.slices), np.int32)
    first = 0
    for last in coder.ends:
        front = coder.front(first, last)
        indices = choose(front, coder.frequencies(first, last))
        grid[:, front.rows, front.cols] = indices
        coder.place(first, last, indices)
        first = last
    return grid


def walk_known(
    prior: ExactPrior, grids: Sequence[Grid], quality: int
) -> Iterator[tuple[Front, Frequencies]]:
    """The frequencies that `walk` computes when its choices are `grids`, in the same order.

    Knowing the indices, it computes many fronts at once: one item covers up to `CHUNK` positions.

    Args:
        grids: (batch, h, w, S) per level, coarse first; may stop early.
    Raises:
        ValueError: shapes, indices or quality out of range.
    """
    context = _begin(prior, grids, quality)
    for level, grid in enumerate(grids):
        yield from _known_level(prior, grid, level, quality, context.layers(level, quality))
        context.add(level, grid)


def level_frequencies(
    prior: ExactPrior, grids: Sequence[Grid], quality: int, level: int
) -> Iterator[tuple[Front, Frequencies]]:
    """The part of `walk_known` that belongs to one level; reads `grids[: level + 1]`."""
    context = _begin(prior, grids[: level + 1], quality)
    for coarser in range(level):
        context.add(coarser, grids[coarser])
    yield from _known_level(prior, grids[level], level, quality, context.layers(level, quality))


def cross_entropy_bits(prior: ExactPrior, grids: Sequence[Grid], quality: int) -> list[float]:
    """Ideal code length of each level in bits, summed over the batch."""
    bits = [0.0] * len(grids)
    for front, frequencies in walk_known(prior, grids, quality):
        indices = grids[front.level][:, front.rows, front.cols]
        chosen = np.take_along_axis(frequencies, indices[..., None], axis=3)
        bits[front.level] += float(-np.log2(chosen / TOTAL).sum())
    return bits


def _known_level(
    prior: ExactPrior, grid: Grid, level: int, quality: int, context: Array
) -> Iterator[tuple[Front, Frequencies]]:
    batch, height, width, slices = grid.shape
    positions, step = height * width, max(1, CHUNK // (batch * slices))
    most = min(step, positions) * batch
    coder = _LevelCoder(prior, level, batch, (height, width), most)
    coder.begin(level, quality, context)
    # Taps only look back in coding order, so later indices may lie there already.
    coder.place(0, positions, grid[:, coder.rows, coder.cols], together=False)
    for first in range(0, positions, step):
        last = min(first + step, positions)
        yield coder.front(first, last), coder.frequencies(first, last, together=False)


def _begin(prior: ExactPrior, grids: Sequence[Grid], quality: int) -> _Context:
    """Check what the caller gave; the context before the first level."""
    _check(prior, [(grid.shape[1], grid.shape[2]) for grid in grids], quality)
    for grid, level in zip(grids, prior.config.levels, strict=False):
        if len(grid) != len(grids[0]) or grid.shape[3:] != (level.slices,):
            raise ValueError(f"a grid of shape {grid.shape}")
        if grid.min() < 0 or grid.max() >= level.codebook_size:
            raise ValueError(f"an index lies outside its codebook of {level.codebook_size}")
    return _Context(prior, len(grids[0]), (grids[0].shape[1], grids[0].shape[2]))


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
