"""The layers of the frozen prior, run for the rows of a step or of a whole level. NumPy only.

What layers read of other rows is kept in arrays of features, laid out as in `wavefront_layout`.
All numbers are integers: sums are *fine* values, which `_narrow` rounds to 8 bits before the next
product. A half that rounds is added inside the product.

Source: docs/format.md, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.prior.arithmetic import Array
from vqcodec.prior.constants import (
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    CONDITION_UNIT,
    CONTEXT_TAPS,
    FINE_STEPS,
    FIRST_TAPS,
    GATE_UNIT,
    LAYER_TAPS,
)
from vqcodec.prior.integer_prior import IntegerPrior, Layer, Tables, clip_activations
from vqcodec.prior.wavefront_layout import Layout, Places, Rows

__all__ = ["WavefrontNetwork"]


class WavefrontNetwork:
    """The layers of one stride, with the features that they read and write.

    Each row of each level needs three calls:

    - `first_context`, once the coarser levels are placed at the rows around it;
    - `features`, once the first context of the rows around it is there, and its own level is placed
      at all earlier wavefronts;
    - `place`, once its indices are known. As no row reads its own, this may come before `features`.

    All levels share the arrays of features. What a level overwrites, the levels before it do not
    read again.
    """

    def __init__(
        self,
        prior: IntegerPrior,
        levels: range,
        layout: Layout,
        quality: int,
        total: Array | None,
    ) -> None:
        """
        Args:
            levels: those of the stride, by their numbers in the model.
            total: (batch, h, w, C), the sum of the embeddings of all coarser levels, as `finer`
                gave it at the stride before; None at the first.
        """
        self._layout, self._trunk = layout, prior.trunk(levels[0])
        tables = [prior.tables[level] for level in levels]
        self._embedding, self._conditions = _Embedding(tables), _conditions(tables, quality)
        channels, depth, size = self._trunk.channels, len(self._trunk.layers), layout.num_slots
        # Number types: of sums, and in which features are stored.
        sums, self._stored = prior.arithmetic.sums, prior.arithmetic.activations
        self._half = np.array([0.5], sums)  # for rounding
        # Slots outside the grid are never written and stay zero; all others are written before
        # they are read, by every level.
        self._total = np.zeros((size, channels), sums)
        self._narrow_total, self._middle = np.zeros((2, size, channels), self._stored)
        # The embeddings of the indices, then what each layer reads, last the context.
        self._features = np.zeros((depth + 2, size, channels), self._stored)
        self._around, self._first_taps = map(layout.offsets, (CONTEXT_TAPS, FIRST_TAPS))
        # In the features of all layers, one after the other: the taps of each layer, and the
        # context besides.
        layer_taps, own = layout.offsets(LAYER_TAPS), size * np.arange(1, depth + 1)[:, None]
        context = np.full((depth, 1), size * (depth + 1))
        self._layer_taps = np.hstack([own + layer_taps, context])
        if total is not None:
            self._add(layout.slots, layout.to_rows(total))

    def first_context(self, rows: Rows) -> None:
        """Run the first context layer."""
        added = self._conditions[0].take(rows.levels, axis=0)
        found = self._trunk.context1(_taps(self._narrow_total, rows.slots, self._around), added)
        self._middle[rows.slots] = found.clip(0, ACTIVATION_MAX, out=found)

    def features(self, rows: Rows) -> Array:
        """Run all other layers: what the logits are made of, (n, C), within 8 bits."""
        added = self._conditions[1].take(rows.levels, axis=0)
        context = self._trunk.context2(_taps(self._middle, rows.slots, self._around), added)
        return _narrow(self._causal(rows.slots, clip_activations(context)))

    def place(self, rows: Rows, indices: NDArray[np.integer[Any]]) -> None:
        """Embed the indices, (all slices of all rows,), for later rows and finer levels."""
        embedded = self._embedding(rows, indices)
        self._features[0][rows.slots] = _narrow(embedded)
        self._add(rows.slots, embedded)

    def whole_level(self, level: int, indices: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The `features` of all rows of a level whose indices are known, (num_rows, C).

        Args:
            level: 0 for the coarsest of the stride; to be called for each, in this order.
            indices: (num_rows, S).
        """
        rows = self._layout.rows(self._layout.whole(level))
        self.first_context(rows)
        self.place(rows, indices.ravel())
        return self.features(rows).astype(self._stored, copy=False)

    def finer(self, shape: tuple[int, int]) -> Array:
        """The total (batch, *shape, C') for the next stride, when all indices are placed."""
        layout, matrix, (height, width) = self._layout, self._trunk.up, self._layout.shape
        assert matrix is not None
        found = layout.to_grid(matrix(self._narrow_total[layout.slots], self._half))
        # Column (dy * f + dx) * C' + c is channel c of the finer position (f i + dy, f j + dx).
        factor = shape[0] // height
        blocks = found.reshape(layout.batch, height, width, factor, factor, -1)
        finer: Array = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(layout.batch, *shape, -1)
        return finer

    def _add(self, slots: Places, rows: Array) -> None:
        """Add to the total that finer levels read; spoils `rows`."""
        rows += self._total.take(slots, axis=0)
        self._total[slots] = rows
        self._narrow_total[slots] = _narrow(clip_activations(rows))

    def _causal(self, slots: Places, context: Array) -> Array:
        """The causal layers, given the context (n, C): (n, C), fine."""
        self._features[-1][slots] = _narrow(context)
        # Rounded before the context is added: the bounds of the sums do not allow for it.
        h = self._trunk.first(_taps(self._features[0], slots, self._first_taps), self._half)
        h += context
        clip_activations(h)
        for k, layer in enumerate(self._trunk.layers):
            self._features[k + 1][slots] = _narrow(h)
            h += self._gated(layer, slots, self._layer_taps[k])
            clip_activations(h)
        return h

    def _gated(self, layer: Layer, slots: Places, taps: Places) -> Array:
        """What a gated layer adds, (n, C), fine; `taps` are distances in all features."""
        channels = self._trunk.channels
        sums = layer.gate(_taps(self._features.reshape(-1, channels), slots, taps), layer.bias)
        u = sums[:, :channels].clip(-GATE_UNIT, GATE_UNIT - 1)
        u *= sums[:, channels:].clip(0, GATE_UNIT)
        u *= 1 / GATE_UNIT
        return layer.residual(np.floor(u, out=u), self._half)


class _Embedding:
    """The embedding tables of all levels of a stride as one, so that one look-up serves a step."""

    def __init__(self, tables: Sequence[Tables]) -> None:
        shapes = [one.embedding.shape for one in tables]
        self._slices, self._codes = [slices for slices, _, _ in shapes], shapes[0][1]
        channels = shapes[0][2]
        self._table = np.concatenate([one.embedding.reshape(-1, channels) for one in tables])
        self._first = self._codes * np.cumsum([0, *self._slices])  # row of a level's first code

    def __call__(self, rows: Rows, indices: NDArray[np.integer[Any]]) -> Array:
        """Indices (all slices of all rows,) -> (rows, C), fine, summed over the slices."""
        found, first, end = [], 0, 0
        for slices, alike in groupby(rows.spans, key=lambda span: self._slices[span.level]):
            count = sum(span.end - span.first for span in alike)
            own = indices[end : (end := end + count * slices)].reshape(count, slices)
            start = self._first.take(rows.levels[first : (first := first + count)])
            total = self._table.take(own[:, 0] + start, axis=0)
            for k in range(1, slices):
                total += self._table.take(own[:, k] + (start + k * self._codes), axis=0)
            found.append(total if slices == 1 else clip_activations(total))
        return found[0] if len(found) == 1 else np.concatenate(found)


def _conditions(tables: Sequence[Tables], quality: int) -> NDArray[np.floating[Any]]:
    """What the two context layers add for quality and level, (2, levels, C), and for rounding.

    The second layer's results are fine, so its part has `FINE_STEPS` times as many steps.
    """
    found = np.stack([one.condition[quality] for one in tables], 1)
    found *= np.array([1, FINE_STEPS]).reshape(2, 1, 1) * (ACTIVATION_UNIT / CONDITION_UNIT)
    found += 0.5
    return found


def _taps(features: NDArray[Any], slots: Places, offsets: Places) -> NDArray[Any]:
    """The features at the taps of some slots, side by side: (n, taps * C)."""
    found = features.take(slots[:, None] + offsets, axis=0, mode="clip")
    return found.reshape(len(slots), len(offsets) * features.shape[1])


def _narrow(fine: Array) -> Array:
    """Fine values rounded to steps of an activation."""
    steps: Array = fine * (1 / FINE_STEPS)
    steps += 0.5
    return np.floor(steps, out=steps)
