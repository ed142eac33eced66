"""Where the features of a grid lie in memory, and in which order its positions are coded.

Positions (i, j) with equal t = j + 2 i are a *wavefront*. A *row* is one position of one picture of
a batch; rows are numbered in coding order: by t, then i, then picture. The features of a row lie in
a *slot* of skewed arrays: its number grows by a constant, the pitch, from one t to the next, and by
one position with i. A tap (dy, dx) is therefore the same distance in slots everywhere. Slots around
those of the grid stay zero, so that taps may lie outside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.prior.constants import Taps

__all__ = ["AHEAD", "Layout", "Places", "Rows", "Span"]

AHEAD = 3  # wavefronts to the furthest tap of a context layer, (1, 1)
LAG = 2 * AHEAD + 1  # wavefronts between two levels: the two context layers see 2 * AHEAD ahead
PAD_WAVEFRONTS, PAD_ROWS = 5, 2  # how far back the furthest tap lies, (-2, -1), in t and in i

Places = NDArray[np.intp]  # positions i * width + j; slots, or distances in slots


class Span(NamedTuple):
    """A wavefront of a level, or several that follow each other."""

    level: int  # 0 for the coarsest level of the stride
    first: int  # its rows: first..end, without end
    end: int


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of some spans, one span after the other."""

    spans: list[Span]
    slots: Places  # (n,)
    levels: Places  # (n,), of the spans that they are in

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Values (n, ..) of these rows, by span."""
        ends = [0, *accumulate(end - first for _, first, end in self.spans)]
        return [values[begin:end] for begin, end in pairwise(ends)]


class Layout:
    """The rows and slots of all levels of a stride, whose grids have one shape.

    num_rows: of one level.
    num_slots: that the array of a feature needs.
    longest: positions of the longest wavefront.
    slots: (num_rows,), the slot of each row.
    """

    def __init__(self, shape: tuple[int, int], batch: int) -> None:
        """`shape`: (h, w) of the grids."""
        self.shape, self.batch = shape, batch
        (height, width), self.num_rows = shape, shape[0] * shape[1] * batch
        i, j = np.divmod(np.arange(height * width), width)
        t = j + 2 * i
        self._order = np.lexsort((i, t))  # positions i * width + j
        # Some wavefronts are empty: a grid one column wide has no odd ones.
        lengths = np.bincount(t)
        self._starts = [0, *(batch * np.cumsum(lengths)).tolist()]
        self._wavefronts, self.longest = len(lengths), int(lengths.max())
        # No two positions share a slot, nor does a tap outside the grid fall on a position: the i
        # of wavefronts t and t + n differ by at most (width + 2) / 2, less than n times the pitch.
        self._pitch = min(height + PAD_ROWS, width // 2 + 2) * batch
        first = ((t + PAD_WAVEFRONTS) * self._pitch + (i + PAD_ROWS) * batch)[self._order]
        self.slots = (first[:, None] + np.arange(batch)).ravel()
        padded = self._wavefronts + 2 * PAD_WAVEFRONTS
        self.num_slots = padded * self._pitch + (height + 2 * PAD_ROWS) * batch

    def offsets(self, taps: Taps) -> Places:
        """The distance in slots from a position to each of its taps (dy, dx), (taps,)."""
        return np.array([(dx + 2 * dy) * self._pitch + dy * self.batch for dy, dx in taps])

    def num_steps(self, levels: int) -> int:
        """Steps of a scan of so many levels."""
        return self._wavefronts + LAG * (levels - 1)

    def spans(self, step: int, levels: int) -> list[Span]:
        """The wavefronts of one step of such a scan, coarse first; before and after it, none."""
        found = [(level, step - LAG * level) for level in range(levels)]
        spans = [
            Span(level, self._starts[t], self._starts[t + 1])
            for level, t in found
            if 0 <= t < self._wavefronts
        ]
        return [span for span in spans if span.first < span.end]

    def whole(self, level: int) -> list[Span]:
        """All rows of a level."""
        return [Span(level, 0, self.num_rows)]

    def rows(self, spans: Sequence[Span]) -> Rows:
        """The rows of some spans."""
        slots = [self.slots[first:end] for _, first, end in spans]
        levels = np.array([level for level, _, _ in spans], np.intp)
        return Rows(
            list(spans),
            np.concatenate(slots or [self.slots[:0]]),
            np.repeat(levels, [*map(len, slots)]),
        )

    def places(self, span: Span) -> Places:
        """The positions of a span, as i * w + j."""
        return self._order[span.first // self.batch : span.end // self.batch]

    def to_rows(self, grid: NDArray[Any]) -> NDArray[Any]:
        """(batch, h, w, C) -> (num_rows, C), a copy."""
        flat = grid.reshape(self.batch, len(self._order), -1)
        rows: NDArray[Any] = flat[:, self._order].swapaxes(0, 1).reshape(self.num_rows, -1)
        return rows

    def to_grid(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(num_rows, C) -> (batch, h, w, C), the inverse of `to_rows`."""
        grid = np.empty((self.batch, len(self._order), rows.shape[1]), rows.dtype)
        grid[:, self._order] = rows.reshape(len(self._order), self.batch, -1).swapaxes(0, 1)
        found: NDArray[Any] = grid.reshape(self.batch, *self.shape, -1)
        return found
