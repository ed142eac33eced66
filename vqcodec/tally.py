"""A picture's own statistics: codes that came against those expected. NumPy only.

A prior that learnt from photographs is far off on a drawing, and a little on every picture. So each
level corrects its logits by about log((came + 3) / (expected + 3)) of each code, front after front.
All numbers are integers; see docs/format.md, section 5, *Tally*.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tally"]

ONE = 2.0**24  # a whole index: what the frequencies of a position sum to
DOUBT = 3 * ONE  # of each code, came and was expected before the first
MEMORY = 64 * ONE  # more is not remembered as expected: later fronts count the more
UNIT = 1024  # steps of a correction per nat
STEP = 16  # of these, in a step of a logit
LARGEST = 16.0 * UNIT


class Tally:
    """Corrections of the logits of several levels, kept up while their indices become known.

    steps: for each level, (batch, S K): whole steps of a logit.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], batch: int) -> None:
        """`sizes`: slices and codes, S and K, of each level."""
        self.ends = [0, *accumulate(batch * slices * size for slices, size in sizes)]
        self.correction, self.expected, self.due = np.zeros((3, self.ends[-1]))
        self.rounded = np.zeros(self.ends[-1], np.float32)
        spans = list(pairwise(self.ends))
        self.steps = [self.rounded[a:b].reshape(batch, -1) for a, b in spans]
        self.dues = [self.due[a:b].reshape(batch, -1) for a, b in spans]
        # Where the codes of each slice start, (batch, 1, S) for each level.
        self.starts = [
            first + size * np.arange(batch * slices).reshape(batch, 1, slices)
            for first, (slices, size) in zip(self.ends, sizes, strict=False)
        ]

    def expect(self, level: int, frequencies: NDArray[np.float64]) -> None:
        """Take note of those of a front, (n, batch, S K), of the level with this number."""
        frequencies.sum(axis=0, out=self.dues[level])

    def learn(self, chosen: Sequence[tuple[int, NDArray[np.integer[Any]]]]) -> None:
        """The number and the indices (batch, n, S) of each level with such a front, in order."""
        part = slice(self.ends[chosen[0][0]], self.ends[chosen[-1][0] + 1])
        places = np.concatenate([(indices + self.starts[k]).ravel() for k, indices in chosen])
        counts = np.bincount(places - part.start, minlength=part.stop - part.start)
        came, due, expected = counts * ONE, self.due[part], self.expected[part]
        # The logarithm of a quotient of sums a and b is about 2 (a - b) / (a + b). Numerators are
        # below 2**52, sums below 2**42: the correctly rounded quotient has the right floor.
        sums = came + due + 2 * (expected + DOUBT)
        steps = np.floor(2 * UNIT * (came - due) / sums)
        correction = self.correction[part]
        np.clip(correction + steps, -LARGEST, LARGEST, out=correction)
        np.minimum(expected + due, MEMORY, out=expected)
        due[:] = 0  # levels between these may have no front the next time
        self.rounded[part] = np.floor(correction / STEP)
