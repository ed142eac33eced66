"""The prior frozen to integers: its tables and matrices, loaded and checked. NumPy only.

Activations and weights are 8-bit integers. Each matrix is checked at loading: no sum of products
can reach 2**24, so products in float32, float64 and int32 are exact in any order of summation, on
any machine and with any number of threads. See docs/format.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.config import RATE_BINS, ModelConfig
from vqcodec.errors import ModelError
from vqcodec.limits import QUALITIES
from vqcodec.prior.arithmetic import Arithmetic, Array, FloatArithmetic, Product

__all__ = ["IntegerPrior", "Layer", "Tables", "Trunk", "clip_activations"]

AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
FIRST_TAPS = (
    *((0, -1), (0, -2)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1)),
    *((-2, -1), (-2, 0), (-2, 1)),
)
LAYER_TAPS = ((0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1))

ACCUMULATOR_LIMIT = 2**24
ACTIVATION_MAX = 127  # what is multiplied: 8 units of 16 steps, less one step
FINE = 8  # steps of what is added up, in one of these
FINE_MAX = FINE * ACTIVATION_MAX
GATE_MAX = 128  # a, gate and u: 128 steps per unit; a and u stay below 1
EXPONENTS = range(4, 16)
TABLE_SIZE = 1024
TABLE_UNIT = 2**20

FLOAT32 = FloatArithmetic()


# Each column of a matrix, and its bias, is divided by a power of two, so that sums come out in the
# steps of the result, before rounding. In binary floating point this is exact: the integers of the
# bounds times a power of two.


@dataclass(frozen=True)
class Layer:
    gate: Product  # (6 C, 2 C): five taps, then the context
    bias: Array  # (2 C,), with the halves of rounding and the offset 64 of the gate
    residual: Product  # (C, C)


@dataclass(frozen=True)
class Trunk:
    channels: int
    context1: Product  # (9 C, C)
    context2: Product  # (9 C, C)
    first: Product  # (9 C, C)
    layers: tuple[Layer, ...]
    up: Product | None  # (C, f f C')


@dataclass(frozen=True)
class Tables:
    embedding: Array  # (S, K, C)
    condition: Array  # (101, 2, C), 256 steps per unit
    output: Product  # (C, S K)
    bias: Array  # (RATE_BINS, S K), with the half of rounding


class _Loader:
    """Takes named tensors, checking type, shape and bounds."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], arithmetic: Arithmetic) -> None:
        self.tensors, self.arithmetic = tensors, arithmetic

    def integers(self, name: str, dtype: type[np.integer[Any]], *shape: int) -> NDArray[np.int64]:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelError(f"prior weights: {name} is missing")
        if tensor.dtype != dtype or tensor.shape != shape:
            want = f"{np.dtype(dtype)} {shape}"
            raise ModelError(f"prior weights: {name} is {tensor.dtype} {tensor.shape}, not {want}")
        return tensor.astype(np.int64)

    def embedding(self, name: str, *shape: int) -> Array:
        values = self.integers(name, np.int16, *shape)
        if np.abs(values).max() > FINE_MAX:
            raise ModelError(f"prior weights: {name} passes {FINE_MAX}")
        return self.floats(values)

    def bias(self, name: str, *shape: int) -> NDArray[np.int64]:
        return self.integers(f"{name}.bias", np.int32, *shape)

    def matrix(
        self,
        name: str,
        *shape: int,
        steps: float | NDArray[np.float64] = 1.0,
        largest: int = ACTIVATION_MAX,
        bias: NDArray[np.int64] | int = 0,
        offset: float = 0.5,
    ) -> tuple[Product, NDArray[np.float64]]:
        """The product with integers (..., outputs), and the unit of each column's sums.

        Results come `steps` times as large as the units say. Inputs are at most `largest`; `bias`
        and `offset / unit` bound what is added to the integer sums, the half of rounding included.
        """
        weight = self.integers(f"{name}.weight", np.int8, *shape).reshape(-1, shape[-1])
        exponents = self.integers(f"{name}.exponent", np.int8, shape[-1])
        if exponents.min() < EXPONENTS[0] or exponents.max() > EXPONENTS[-1]:
            raise ModelError(f"prior weights: an exponent of {name} is out of range")
        units: NDArray[np.float64] = np.ldexp(1.0, -exponents)
        sums = np.abs(weight).sum(0) * largest + np.abs(bias) + offset / units
        if sums.max() >= ACCUMULATOR_LIMIT:
            raise ModelError(f"prior weights: sums of {name} can reach 2**24")
        return self.arithmetic.product(weight.astype(np.int8), units * steps), units

    def floats(self, values: NDArray[Any]) -> Array:
        return np.ascontiguousarray(values, dtype=self.arithmetic.sums)

    def tables(self, name: str, slices: int, size: int, channels: int) -> Tables:
        bias, steps = self.bias(f"{name}.output", RATE_BINS, slices * size), 4  # from 16 to 64
        output, units = self.matrix(
            f"{name}.output", channels, slices * size, steps=steps, bias=bias
        )
        return Tables(
            self.embedding(f"{name}.embedding", slices, size, channels),
            self.floats(self.integers(f"{name}.condition", np.int16, QUALITIES, 2, channels)),
            output,
            self.floats(steps * bias * units + 0.5),
        )

    def layer(self, name: str, channels: int) -> Layer:
        bias = self.bias(f"{name}.gate", 2 * channels)
        steps = np.repeat([8.0, 2.0], channels)  # a: from 16 to 128 per unit; the gate: b / 4
        # The gate is 64 steps more than its sum, 32 of the sum's; half of one is for rounding.
        gate, units = self.matrix(
            f"{name}.gate", 6, channels, 2 * channels, steps=steps, bias=bias, offset=32.5
        )
        residual, _ = self.matrix(f"{name}.residual", channels, channels, largest=GATE_MAX)
        return Layer(
            gate=gate,
            bias=self.floats(bias * units * steps + np.repeat([0.5, 64.5], channels)),
            residual=residual,
        )

    def trunk(
        self, name: str, channels: int, layers: int, finer: int | None, added: float
    ) -> Trunk:
        """`finer`: outputs of the upsampling; `added`: largest conditioning value, in steps."""
        context = [
            self.matrix(
                f"{name}.context{k}", 9, channels, channels, steps=steps, offset=added + 0.5
            )[0]
            for k, steps in ((1, 1), (2, FINE))
        ]
        return Trunk(
            channels,
            context[0],
            context[1],
            self.matrix(f"{name}.first", 9, channels, channels, steps=FINE)[0],
            tuple(self.layer(f"{name}.{i}", channels) for i in range(layers)),
            None if finer is None else self.matrix(f"{name}.up", channels, finer, steps=FINE)[0],
        )


class IntegerPrior:
    """The frozen prior: integer tables and matrices, checked."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, NDArray[Any]],
        arithmetic: Arithmetic = FLOAT32,
    ) -> None:
        """Load what `freezing.freeze` made.

        Args:
            config: the model's configuration.
            tensors: integer arrays by name; names outside `prior.` are ignored.
            arithmetic: what the arithmetic is done in; results are the same.
        Raises:
            ModelError: an array is missing, has another type or shape, or breaks a bound.
        """
        loader = _Loader(tensors, arithmetic)
        self.config, self.arithmetic = config, arithmetic
        strides, widths = config.strides, config.prior.channels
        width_of = dict(zip(strides, widths, strict=True))
        self.tables = [
            loader.tables(
                f"prior.level{k}", level.slices, level.codebook_size, width_of[level.stride]
            )
            for k, level in enumerate(config.levels)
        ]
        self._trunks: dict[int, Trunk] = {}
        for k, stride in enumerate(strides):
            finer = None
            if k + 1 < len(strides):
                finer = (stride // strides[k + 1]) ** 2 * widths[k + 1]
            added = max(
                float(np.abs(tables.condition).max()) / 16
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

    def trunk(self, level: int) -> Trunk:
        """The matrices shared by the levels of one stride."""
        return self._trunks[self.config.levels[level].stride]


def clip_activations(h: Array) -> Array:
    """Clamp fine values to +-1016, in place."""
    return h.clip(-FINE_MAX, FINE_MAX, out=h)
