"""A picture's own statistics: which codes came, against how often they were expected. NumPy only.

A prior that learnt from photographs is far off on a drawing, and a little on every picture. So the
logit of each code is corrected by about log((came + 3) / (expected + 3)) after every wavefront.

All numbers are integers. Source: docs/format.md, section 5, *Adaptive counts*; its w_k is
`_correction` here, e_k is in `_before`, and g_k is `_due`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.prior.constants import LOGIT_UNIT, TOTAL

__all__ = ["AdaptiveCounts"]

ONE = float(TOTAL)  # an index that came, in the unit of the frequencies
PSEUDO_COUNT = 3 * ONE  # of each code, as if it had come and been expected before the first
MEMORY = 64 * ONE  # a code is not expected more often than this: so later wavefronts count
STEP = 16  # steps of a correction in one step of a logit
UNIT = STEP * LOGIT_UNIT  # steps of a correction per nat
LARGEST = 16.0 * UNIT  # bound of a correction


class AdaptiveCounts:
    """Corrections of the logits of several levels, kept up while their indices become known.

    For each wavefront of each level: `expect`, then `learn`.

    steps: for each level, (batch S K): what to add to the logits.
    """

    def __init__(self, slices: Sequence[int], codes: int, batch: int, longest: int) -> None:
        """
        Args:
            slices: S of each level.
            codes: K of all levels.
            batch: pictures, each with statistics of its own.
            longest: positions of the longest wavefront.
        """
        self._ends = [0, *accumulate(batch * count * codes for count in slices)]
        # `_due`: expected in the wavefronts whose indices are not learnt yet.
        self._correction, self._due = np.zeros((2, self._ends[-1]))
        self._before = np.full(self._ends[-1], 2 * PSEUDO_COUNT)  # 2 (expected + PSEUDO_COUNT)
        self._rounded = np.zeros(self._ends[-1], np.float32)
        spans = list(pairwise(self._ends))
        self.steps = [self._rounded[a:b] for a, b in spans]
        self._dues = [self._due[a:b] for a, b in spans]
        # For each index of the longest wavefront, where code 0 counts.
        self._zeros = [np.tile(np.arange(a, b, codes), longest) for a, b in spans]

    def expect(self, level: int, shares: NDArray[np.float64]) -> None:
        """Take note of the frequencies, less one, of a wavefront of a level, (n batch S, K)."""
        due = self._dues[level]
        rows = shares.reshape(-1, len(due))
        # `initial` makes up for the one that each frequency lacks in each row.
        rows.sum(axis=0, out=due, initial=len(rows))

    def learn(
        self, levels: Sequence[int], sizes: Sequence[int], came: NDArray[np.integer[Any]]
    ) -> None:
        """Take in the indices of the wavefronts of some levels, coarse first.

        Args:
            sizes: number of indices of each, n batch S.
            came: (the sum of these,).
        """
        part = slice(self._ends[levels[0]], self._ends[levels[-1] + 1])
        places = np.concatenate(
            [self._zeros[level][:size] for level, size in zip(levels, sizes, strict=True)]
        )
        places += came
        counts = np.bincount(places - part.start, minlength=part.stop - part.start)
        due, before, correction = self._due[part], self._before[part], self._correction[part]
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
        np.minimum(before, 2 * (MEMORY + PSEUDO_COUNT), out=before)
        due[:] = 0  # a level between these may have no wavefront the next time
        self._rounded[part] = np.floor(correction * (1 / STEP), out=steps)
