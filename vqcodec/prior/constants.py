"""The numbers of the frozen prior that training, freezing and decoding share.

Source: docs/format.md, section 5.
"""

from __future__ import annotations

__all__ = [
    *("Taps", "CONTEXT_TAPS", "FIRST_TAPS", "LAYER_TAPS"),
    *("ACTIVATION_UNIT", "ACTIVATION_MAX", "WEIGHT_MAX", "EXPONENTS", "ACCUMULATOR_LIMIT"),
    *("FINE_STEPS", "FINE_UNIT", "FINE_MAX", "GATE_UNIT", "CONDITION_UNIT", "LOGIT_UNIT"),
    *("TABLE_SIZE", "TABLE_UNIT", "TOTAL_BITS", "TOTAL"),
]

# Taps (dy, dx) of the convolutions, in the order in which their weights are stored. Those of the
# causal layers satisfy dx + 2 dy <= 0, those of the first layer dx + 2 dy < 0.
Taps = tuple[tuple[int, int], ...]
CONTEXT_TAPS: Taps = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
FIRST_TAPS: Taps = (
    *((0, -1), (0, -2)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1)),
    *((-2, -1), (-2, 0), (-2, 1)),
)
LAYER_TAPS: Taps = ((0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1))

# X_UNIT: how many integer steps of X make 1.0 of the trained prior.
ACTIVATION_UNIT = 16  # activations: what is multiplied by a matrix
ACTIVATION_MAX = 127
WEIGHT_MAX = 127
EXPONENTS = range(4, 16)  # a column of a matrix holds real weights times 2**e
ACCUMULATOR_LIMIT = 2**24  # sums of products stay below it, so float32 holds them exactly

# Fine values: what is added up, before it is rounded to activations.
FINE_STEPS = 8  # in one step of an activation
FINE_UNIT = FINE_STEPS * ACTIVATION_UNIT
FINE_MAX = FINE_STEPS * ACTIVATION_MAX
GATE_UNIT = 128  # a, the gate g (0..1, hence 0..128), and their product u
CONDITION_UNIT = 256
LOGIT_UNIT = 64  # steps per nat

TABLE_SIZE = 1024  # of exp(-d / LOGIT_UNIT) for d = 0, 1, ..
TABLE_UNIT = 2**20

TOTAL_BITS = 24
TOTAL = 2**TOTAL_BITS  # what the frequencies of an index sum to
