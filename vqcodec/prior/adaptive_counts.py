"""A picture's own statistics: codes that came against those expected. NumPy only.

A prior that learnt from photographs is far off on a drawing, and a little on every picture. So each
level corrects the logit of each code by about log((came + 3) / (expected + 3)) after every
wavefront. All numbers are integers; see docs/format.md, section 5, *Adaptive counts*.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AdaptiveCounts"]

ONE = 2.0**24  # a whole index: what the frequencies of a position sum to
DOUBT = 3 * ONE  # of each code, came and was expected before the first
MEMORY = 64 * ONE  # more is not remembered as expected: later wavefronts count the more
UNIT = 1024  # steps of a correction per nat
STEP = 16  # of these, in a step of a logit
LARGEST = 16.0 * UNIT


class AdaptiveCounts:
    """Corrections of the logits of several levels, kept up while their indices become known.

    steps: for each level, (batch S K): whole steps of a logit.
    """

    def __init__(self, slices: Sequence[int], codes: int, batch: int) -> None:
        """`slices`, S, of each level, and `codes`, K, of all."""
        self.ends = [0, *accumulate(batch * count * codes for count in slices)]
        self.correction, self.due = np.zeros((2, self.ends[-1]))
        self.before = np.full(self.ends[-1], 2 * DOUBT)  # 2 (expected + DOUBT)
        self.rounded = np.zeros(self.ends[-1], np.float32)
        spans = list(pairwise(self.ends))
        self.steps = [self.rounded[a:b] for a, b in spans]
        self.dues = [self.due[a:b] for a, b in spans]

    def expect(self, level: int, shares: NDArray[np.float64]) -> None:
        """Take note of the frequencies, less one, of a wavefront, (n batch S, K), of a level."""
        due = self.dues[level]
        rows = shares.reshape(-1, len(due))
        rows.sum(axis=0, out=due, initial=len(rows))

    def learn(self, first: int, last: int, came: NDArray[np.integer[Any]]) -> None:
        """Take in what came of levels first..last: where in the arrays of all levels it counts."""
        part = slice(self.ends[first], self.ends[last + 1])
        counts = np.bincount(came - part.start, minlength=part.stop - part.start)
        due, before, correction = self.due[part], self.before[part], self.correction[part]
        # The logarithm of a quotient of sums a and b is about 2 (a - b) / (a + b). Numerators are
        # below 2**52, sums below 2**42: the correctly rounded quotient has the right floor.
        steps = counts * ONE
        sums = steps + due
        sums += before
        steps -= due
        steps *= 2 * UNIT
        steps /= sums
        correction += np.floor(steps, out=steps)
        correction.clip(-LARGEST, LARGEST, out=correction)
        before += 2 * due
        np.minimum(before, 2 * (MEMORY + DOUBT), out=before)
        due[:] = 0  # levels between these may have no wavefront the next time
        self.rounded[part] = np.floor(correction * (1 / STEP), out=steps)
