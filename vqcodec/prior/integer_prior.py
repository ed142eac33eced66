"""The prior frozen to integers: its tables and matrices, loaded and checked. NumPy only.

Activations and weights are 8-bit integers. Each matrix is checked when it is loaded: no sum of its
products can reach 2**24, so these are exact in float32, float64 and int32, in any order of
summation, on any machine and with any number of threads.

A product divides each column's sum, and its bias, by a power of two, so that results come out in
their own steps, before rounding. In binary floating point this is exact: it only moves the point
of the integers that the bounds are about.

Source: docs/format.md, section 5.
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
from vqcodec.prior.constants import (
    ACCUMULATOR_LIMIT,
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    CONDITION_UNIT,
    EXPONENTS,
    FINE_MAX,
    FINE_STEPS,
    GATE_UNIT,
    LOGIT_UNIT,
    TABLE_SIZE,
    TABLE_UNIT,
)

__all__ = ["IntegerPrior", "Layer", "Tables", "Trunk", "clip_activations"]

FLOAT32 = FloatArithmetic()


@dataclass(frozen=True)
class Layer:
    """A gated causal layer."""

    gate: Product  # (6 C, 2 C): five taps, then the context
    bias: Array  # (2 C,), with the halves of rounding and the offset 64 of the gate
    residual: Product  # (C, C)


@dataclass(frozen=True)
class Trunk:
    """The layers that all levels of one stride share; f is the ratio to the next finer stride."""

    channels: int  # C
    context1: Product  # (9 C, C)
    context2: Product  # (9 C, C)
    first: Product  # (9 C, C)
    layers: tuple[Layer, ...]
    up: Product | None  # (C, f f C')


@dataclass(frozen=True)
class Tables:
    """What each level has for itself."""

    embedding: Array  # (S, K, C), fine values
    condition: Array  # (101, 2, C), CONDITION_UNIT steps per unit
    output: Product  # (C, S K)
    bias: Array  # (RATE_BINS, S K), with the half of rounding


class _Loader:
    """Takes tensors by name and checks their types, shapes and bounds."""

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
            raise ModelError(f"prior weights: {name} is not within -{FINE_MAX}..{FINE_MAX}")
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
        """The product with a matrix, and what one step of each column's sums is worth, (outputs,).

        Args:
            name: of the matrix; `name.weight` and `name.exponent` are its tensors.
            shape: (..., inputs, outputs) of the weight.
            steps: steps of a result in one step of an input.
            largest: bound of the absolute inputs.
            bias: what will be added to the integer sums.
            offset: bound of what will be added besides, in steps of the inputs.
        """
        weight = self.integers(f"{name}.weight", np.int8, *shape).reshape(-1, shape[-1])
        exponents = self.integers(f"{name}.exponent", np.int8, shape[-1])
        if exponents.min() < EXPONENTS[0] or exponents.max() > EXPONENTS[-1]:
            first, last = EXPONENTS[0], EXPONENTS[-1]
            raise ModelError(f"prior weights: {name}.exponent is not within {first}..{last}")
        units: NDArray[np.float64] = np.ldexp(1.0, -exponents)
        sums = np.abs(weight).sum(0) * largest + np.abs(bias) + offset / units
        if sums.max() >= ACCUMULATOR_LIMIT:
            raise ModelError(f"prior weights: sums of {name} can reach 2**24")
        return self.arithmetic.product(weight.astype(np.int8), units * steps), units

    def floats(self, values: NDArray[Any]) -> Array:
        return np.ascontiguousarray(values, dtype=self.arithmetic.sums)

    def tables(self, name: str, slices: int, size: int, channels: int) -> Tables:
        bias = self.bias(f"{name}.output", RATE_BINS, slices * size)
        steps = LOGIT_UNIT / ACTIVATION_UNIT
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
        # The results are a and the gate 1/2 + b / 4. That half is two units of b.
        steps = np.repeat([1.0, 0.25], channels) * (GATE_UNIT / ACTIVATION_UNIT)
        half = 2 * ACTIVATION_UNIT
        gate, units = self.matrix(
            f"{name}.gate",
            *(6, channels, 2 * channels),
            steps=steps,
            bias=bias,
            offset=half + 0.5,
        )
        residual, _ = self.matrix(f"{name}.residual", channels, channels, largest=GATE_UNIT)
        return Layer(
            gate=gate,
            bias=self.floats(
                bias * units * steps + np.repeat([0.5, GATE_UNIT / 2 + 0.5], channels)
            ),
            residual=residual,
        )

    def trunk(
        self, name: str, channels: int, layers: int, finer: int | None, added: float
    ) -> Trunk:
        """The layers of a stride.

        Args:
            finer: f f C', the outputs of the upsampling; None at the finest stride.
            added: the largest absolute conditioning value, in steps of the inputs.
        """
        square, most = (9, channels, channels), added + 0.5
        up = None
        if finer is not None:
            up, _ = self.matrix(f"{name}.up", channels, finer, steps=FINE_STEPS)
        return Trunk(
            channels,
            self.matrix(f"{name}.context1", *square, offset=most)[0],
            self.matrix(f"{name}.context2", *square, steps=FINE_STEPS, offset=most)[0],
            self.matrix(f"{name}.first", *square, steps=FINE_STEPS)[0],
            tuple(self.layer(f"{name}.{i}", channels) for i in range(layers)),
            up,
        )


class IntegerPrior:
    """The frozen prior: integer tables and matrices, checked."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, NDArray[Any]],
        arithmetic: Arithmetic = FLOAT32,
    ) -> None:
        """Load what `freeze.freeze` made.

        Args:
            config: the model's configuration.
            tensors: integer arrays by name; names outside `prior.` are ignored.
            arithmetic: what products are calculated in; results are the same in all.
        Raises:
            ModelError: an array is missing, has another type or shape, or breaks a bound.
        """
        loader = _Loader(tensors, arithmetic)
        self.config, self.arithmetic = config, arithmetic
        width_of = dict(zip(config.strides, config.prior.channels, strict=True))
        self.tables = [
            loader.tables(
                f"prior.level{k}", level.slices, level.codebook_size, width_of[level.stride]
            )
            for k, level in enumerate(config.levels)
        ]
        self._trunks = self._load_trunks(loader)
        table = loader.integers("prior.table", np.int32, TABLE_SIZE)
        # The largest logit always contributes table[0]: no sum of a row can be zero.
        if table[0] != TABLE_UNIT or table.min() < 0 or table.max() > TABLE_UNIT:
            raise ModelError(f"prior weights: prior.table leaves 0..{TABLE_UNIT} or starts lower")
        self.table = table.astype(np.float64)

    def _load_trunks(self, loader: _Loader) -> dict[int, Trunk]:
        """By stride."""
        config, trunks = self.config, dict[int, Trunk]()
        strides, widths = config.strides, config.prior.channels
        for k, stride in enumerate(strides):
            finer = None
            if k + 1 < len(strides):
                finer = (stride // strides[k + 1]) ** 2 * widths[k + 1]
            added = max(
                float(np.abs(tables.condition).max()) * ACTIVATION_UNIT / CONDITION_UNIT
                for tables, level in zip(self.tables, config.levels, strict=True)
                if level.stride == stride
            )
            trunks[stride] = loader.trunk(
                f"prior.{stride}", widths[k], config.prior.layers, finer, added
            )
        return trunks

    def trunk(self, level: int) -> Trunk:
        """The layers that a level shares with the others of its stride."""
        return self._trunks[self.config.levels[level].stride]


def clip_activations(h: Array) -> Array:
    """Clamp fine values to +-`FINE_MAX`, in place."""
    return h.clip(-FINE_MAX, FINE_MAX, out=h)
