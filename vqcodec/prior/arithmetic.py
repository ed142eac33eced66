"""Products of 8-bit integers, exact in each of these arithmetics. NumPy only; torch where it is.

All sums of a product stay below 2**24 (`integer_prior` checks), so floating point has them exactly.
Integers are several times as fast on processors made for them (VNNI, AMX), but NumPy has no fast
product of integers; torch has.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqcodec.resources import fast_int8

__all__ = [
    *("Array", "Arithmetic", "FloatArithmetic", "Int8Arithmetic", "Product"),
    *("fastest", "fastest_with_torch", "int8_is_right"),
]

CHANNELS = 64  # of the products that are tried first

Array = NDArray[np.floating[Any]]  # integer-valued, or multiples of a power of two
# Activations (n, inputs) of any type that holds them, and what is added (outputs,) or (n, outputs),
# -> floors (n, outputs).
Product = Callable[[NDArray[Any], Array], Array]


class Arithmetic(Protocol):
    """What holds activations, and what the sums come out in. To be hashed."""

    @property
    def name(self) -> str: ...
    @property
    def activations(self) -> type[np.number[Any]]: ...
    @property
    def sums(self) -> type[np.floating[Any]]: ...

    def product(self, weight: NDArray[np.int8], units: NDArray[np.float64]) -> Product:
        """The product with a matrix (inputs, outputs) whose columns count in units (outputs,)."""
        ...


@dataclass(frozen=True)
class FloatArithmetic:
    """Everything in floating point: for any machine."""

    sums: type[np.floating[Any]] = np.float32

    @property
    def activations(self) -> type[np.floating[Any]]:
        return self.sums

    @property
    def name(self) -> str:
        return self.sums.__name__

    def product(self, weight: NDArray[np.int8], units: NDArray[np.float64]) -> Product:
        matrix = (weight * units).astype(self.sums)

        def product(rows: NDArray[Any], added: Array) -> Array:
            sums: Array = rows.astype(self.sums, copy=False) @ matrix
            sums += added
            return np.floor(sums, out=sums)

        return product


@dataclass(frozen=True)
class Int8Arithmetic:
    """Activations as they are, sums in int32, by torch; small products in float32.

    least: multiplications from which on int8 is used.
    """

    least: int = 900_000  # a call takes 15 microseconds, a million of these in float32 take 20

    activations, sums, name = np.int8, np.float32, "int8"

    def product(self, weight: NDArray[np.int8], units: NDArray[np.float64]) -> Product:
        import torch

        matrix, each = torch.from_numpy(weight), torch.from_numpy(units.astype(np.float32))
        small = FloatArithmetic(self.sums).product(weight, units)

        def product(rows: NDArray[Any], added: Array) -> Array:
            if len(rows) * weight.size < self.least:
                return small(rows, added)
            narrow = rows.astype(self.activations, copy=False)
            sums = torch._int_mm(torch.from_numpy(narrow), matrix)
            found = torch.addcmul(torch.from_numpy(added), sums, each).floor_()
            return found.numpy()

        return product


def fastest() -> Arithmetic:
    """The one that suits this processor; one that needs torch only where that is loaded."""
    suits = "torch" in sys.modules and fast_int8() and int8_is_right()
    return Int8Arithmetic() if suits else FloatArithmetic()


def fastest_with_torch() -> Arithmetic:
    """The same for those who need torch anyway; loading it takes a second or two."""
    importlib.import_module("torch")
    return fastest()


@functools.cache
def int8_is_right() -> bool:
    """Whether torch's largest products come out; kernels for other processors may saturate."""
    signs = np.where(np.arange(CHANNELS * 9) % 4 < 2, 1, -1)
    rows = np.stack([np.full(CHANNELS * 9, -128), 127 * signs, 127 * np.roll(signs, 1)])
    weight = np.stack([np.full(CHANNELS * 9, 127), 127 * signs, -128 * signs], 1)
    rows = np.repeat(rows, 11, 0).astype(np.int8)
    weight = np.repeat(weight, 11, 1).astype(np.int8)
    units = np.ones(weight.shape[1])
    added = units.astype(np.float32) / 2
    try:
        found = Int8Arithmetic(least=0).product(weight, units)(rows, added)
    except (AttributeError, RuntimeError):  # it is no public function of torch
        return False
    return np.array_equal(found, FloatArithmetic(np.float64).product(weight, units)(rows, added))
