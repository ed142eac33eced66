"""Products with the matrices of the frozen prior, exact in each arithmetic offered here.

All sums of a product stay below 2**24 (`integer_prior` checks), so float32 holds them exactly, as
int32 does: an arithmetic decides about speed and nothing else. NumPy multiplies floats fast, but
not integers. Processors with VNNI or AMX multiply int8 several times as fast as floats, and torch
makes use of that. No other module knows by what int8 is multiplied.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqcodec.resources import fast_int8

__all__ = [
    *("Array", "Arithmetic", "FloatArithmetic", "Int8Arithmetic", "Product"),
    *("INT8_KERNELS", "INT8_KERNELS_VARIABLE"),
    *("fastest", "fastest_with_torch", "int8_is_right", "int8_threads"),
]

Array = NDArray[np.floating[Any]]  # its numbers are integers, or integers over a power of two

# From activations x (n, inputs), integers of -128..127 in any type, and an array b, (outputs,) or
# (n, outputs), of the type of the sums: floor(x W + b), (n, outputs).
Product = Callable[[NDArray[Any], Array], Array]

# torch multiplies int8 by oneDNN, which reads this environment variable when the process starts and
# then uses the kernels for processors of that kind, without VNNI, with it or with AMX, as far as
# this processor can run them. `vqcodec doctor` tries each.
INT8_KERNELS_VARIABLE = "ONEDNN_MAX_CPU_ISA"
INT8_KERNELS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_AMX")


class Arithmetic(Protocol):
    """What products are calculated in. Hashable: a model keeps one prior for each arithmetic.

    name: for people.
    activations: the type in which activations are best stored.
    sums: the type of what products return.
    """

    @property
    def name(self) -> str: ...
    @property
    def activations(self) -> type[np.number[Any]]: ...
    @property
    def sums(self) -> type[np.floating[Any]]: ...

    def product(self, weight: NDArray[np.int8], units: NDArray[np.float64]) -> Product:
        """The product with a matrix W.

        Args:
            weight: (inputs, outputs).
            units: (outputs,), powers of two; W is `weight * units`.
        """
        ...


@dataclass(frozen=True)
class FloatArithmetic:
    """Everything in floating point, by NumPy: for any machine."""

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
    """Activations in int8 and sums in int32, by torch; small products in float32, by NumPy.

    least: how many multiplications make a product large.
    """

    least: int = 900_000  # a call takes 15 microseconds; a million of these in float32 take 20

    activations, sums, name = np.int8, np.float32, "int8"

    def product(self, weight: NDArray[np.int8], units: NDArray[np.float64]) -> Product:
        import torch

        matrix, scales = torch.from_numpy(weight), torch.from_numpy(units.astype(np.float32))
        small = FloatArithmetic(self.sums).product(weight, units)

        def product(rows: NDArray[Any], added: Array) -> Array:
            if len(rows) * weight.size < self.least:
                return small(rows, added)
            narrow = torch.from_numpy(rows.astype(np.int8, copy=False))
            sums = torch._int_mm(narrow, matrix)  # (n, outputs) int32; not a public function
            return torch.addcmul(torch.from_numpy(added), sums, scales).floor_().numpy()

        return product


def fastest() -> Arithmetic:
    """The fastest arithmetic that is exact here; int8 only if torch is loaded already."""
    suits = "torch" in sys.modules and fast_int8() and int8_is_right()
    return Int8Arithmetic() if suits else FloatArithmetic()


def fastest_with_torch() -> Arithmetic:
    """`fastest`, after loading torch, which takes a second or two: where it is needed anyway."""
    importlib.import_module("torch")
    return fastest()


@functools.cache
def int8_is_right() -> bool:
    """Whether products of int8 are exact here, tried with the largest numbers.

    Kernels for processors without VNNI add two products in 16 bits, where large sums saturate.
    """
    # Products of neighbours add up, in all rows and columns or in some. Repeated, they fill the
    # blocks in which kernels work, and leave a rest.
    inputs, times = 9 * 64, 11
    signs = np.where(np.arange(inputs) % 4 < 2, 1, -1)
    rows = np.stack([np.full(inputs, -128), 127 * signs, 127 * np.roll(signs, 1)])
    columns = np.stack([np.full(inputs, 127), 127 * signs, -128 * signs])
    seen = rows.repeat(times, axis=0).astype(np.int8)
    weight = columns.repeat(times, axis=0).T.astype(np.int8, order="C")
    units, half = np.ones(weight.shape[1]), np.full(weight.shape[1], 0.5, np.float32)
    try:
        found = Int8Arithmetic(least=0).product(weight, units)(seen, half)
    except (AttributeError, RuntimeError):  # torch has no such function, or not for this processor
        return False
    return np.array_equal(found, FloatArithmetic(np.float64).product(weight, units)(seen, half))


@contextlib.contextmanager
def int8_threads(threads: int) -> Iterator[None]:
    """So many threads, no more and no fewer, for products of int8."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
