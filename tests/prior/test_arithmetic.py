"""Products of 8-bit integers: right in every arithmetic, and refused where they are not."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from vqcodec.prior import arithmetic as products
from vqcodec.prior.arithmetic import (
    FloatArithmetic,
    Int8Arithmetic,
    fastest,
    fastest_with_torch,
    int8_is_right,
)


@pytest.fixture(autouse=True)
def asked_anew() -> Any:
    int8_is_right.cache_clear()
    yield
    int8_is_right.cache_clear()


@pytest.mark.parametrize(
    "arithmetic", [FloatArithmetic(), FloatArithmetic(np.float64), Int8Arithmetic(least=0)]
)
@pytest.mark.parametrize("shape", [(1, 64, 64), (7, 384, 128), (150, 576, 65), (33, 1, 3)])
def test_sums_are_floors_of_what_integers_give(
    arithmetic: Any, shape: tuple[int, int, int]
) -> None:
    if arithmetic.name == "int8" and not int8_is_right():
        pytest.skip("sums of int8 are not right here")
    (rows, inputs, outputs), rng = shape, np.random.default_rng(shape)
    weight = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    seen = rng.integers(-128, 128, (rows, inputs))
    exponents = rng.integers(4, 16, outputs)
    added = rng.integers(-999, 999, (rows, outputs))
    product = arithmetic.product(weight, np.ldexp(1.0, -exponents))
    # What is added is a multiple of a column's unit, too.
    given = np.ldexp(added.astype(arithmetic.sums), -exponents).astype(arithmetic.sums)
    found = product(seen.astype(arithmetic.activations), given)
    assert found.dtype == arithmetic.sums
    np.testing.assert_array_equal(found, (seen @ weight.astype(np.int64) + added) >> exponents)
    one = product(seen.astype(arithmetic.activations), np.array([0.5], arithmetic.sums))
    half = 1 << exponents - 1
    np.testing.assert_array_equal(one, (seen @ weight.astype(np.int64) + half) >> exponents)


def test_small_products_are_left_to_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    rows, weight = np.full((9, 64), -128, np.int8), np.full((64, 64), 127, np.int8)
    product = Int8Arithmetic().product(weight, np.ones(64))
    found = product(rows, np.zeros(64, np.float32))
    assert found.dtype == np.float32 and (found == -128 * 127 * 64).all()


def test_the_fastest_that_is_right_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "fast_int8", lambda: True)
    if int8_is_right():
        assert fastest().name == fastest_with_torch().name == "int8"
    monkeypatch.setattr(products, "fast_int8", lambda: False)
    assert fastest().name == fastest_with_torch().name == "float32"
    monkeypatch.setattr(products, "fast_int8", lambda: True)
    monkeypatch.delitem(sys.modules, "torch")
    assert fastest().name == "float32"


def test_sums_that_saturate_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of a signed and an unsigned number, added in 16 bits, as without VNNI."""

    def saturating(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        shifted, weight = rows.long() + 128, matrix.long()
        rows_of_pairs = shifted.reshape(len(rows), -1, 2, 1)
        pairs = rows_of_pairs * weight.reshape(-1, 2, weight.shape[1])
        sums = pairs.sum(2).clamp(-(2**15), 2**15 - 1).sum(1)
        return (sums - 128 * weight.sum(0)).int()

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not int8_is_right()
    monkeypatch.setattr(products, "fast_int8", lambda: True)
    assert fastest().name == "float32"


def test_a_torch_without_it_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert not int8_is_right()
