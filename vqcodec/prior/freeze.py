"""A prior trained in floats -> the integer tensors of `integer_prior`, and back to train on.

Source: docs/format.md, section 5.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.limits import QUALITIES
from vqcodec.prior.network import GatedLayer, Prior, Trunk

__all__ = ["freeze", "thaw", "unfrozen"]

# Units of the integers (docs/format.md, section 5). `integer_prior` states them again because it
# must not import torch; a test compares the two.

UNIT = 16  # what is multiplied: integers per unit, clamped to +-127
FINE_UNIT = 128  # what is added up, clamped to +-1016
GATE_UNIT = 128  # a, gate and u
CONDITION_UNIT = 256
LOGIT_UNIT = 64  # logits: integers per nat
ACTIVATION_MAX = 127
FINE_MAX = 1016
WEIGHT_MAX = 127
ACCUMULATOR_LIMIT = 2**24  # below it float32 sums of integers are exact
EXPONENTS = range(4, 16)
TABLE_SIZE = 1024
TABLE_UNIT = 2**20


def freeze(prior: Prior) -> dict[str, NDArray[np.generic]]:
    """Round a trained prior to the integer tensors that `IntegerPrior` loads.

    Each column of a matrix becomes round(weight * 2**e) with the largest e that keeps every
    possible sum of products below 2**24 and every weight in -127..127.

    Returns:
        Arrays by name, as docs/format.md, section 5 lists them.
    Raises:
        ValueError: a weight is not a number, or a bias so large that no exponent fits.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    with torch.no_grad():
        for index in range(len(prior.config.levels)):
            tensors.update(_freeze_level(prior, index))
        for stride, trunk in prior.trunks.items():
            assert isinstance(trunk, Trunk)
            added = [
                np.abs(tensors[f"prior.level{k}.condition"]).max() / CONDITION_UNIT
                for k, level in enumerate(prior.config.levels)
                if level.stride == int(stride)
            ]
            tensors.update(_freeze_trunk(f"prior.{stride}", trunk, max(added)))
    distances = np.arange(TABLE_SIZE) / LOGIT_UNIT
    tensors["prior.table"] = np.round(np.exp(-distances) * TABLE_UNIT).astype(np.int32)
    return tensors


def _freeze_level(prior: Prior, level: int) -> dict[str, NDArray[np.generic]]:
    name, tables = f"prior.level{level}", prior.tables(level)
    qualities = torch.arange(QUALITIES, device=tables.bias.device)
    condition = torch.stack(prior.condition(level, qualities), dim=1)  # (101, 2, C)
    output = _freeze_matrix(
        f"{name}.output",
        _array(tables.output.flatten(0, 1).T),
        ACTIVATION_MAX,
        UNIT,
        _array(tables.bias.flatten(1)),
    )
    return {
        f"{name}.embedding": _clipped(_array(tables.embedding) * FINE_UNIT, FINE_MAX, np.int16),
        f"{name}.condition": _clipped(_array(condition) * CONDITION_UNIT, 2**15 - 1, np.int16),
        **output,
    }


def _freeze_trunk(name: str, trunk: Trunk, added: float) -> dict[str, NDArray[np.generic]]:
    """`added`: the largest conditioning value, which the sums of the context layers must hold."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for part, conv in (("context1", trunk.context1), ("context2", trunk.context2)):
        weight = _array(conv.weight.permute(2, 3, 1, 0).flatten(0, 1))  # (9, in, out)
        tensors.update(
            _freeze_matrix(f"{name}.{part}", weight, ACTIVATION_MAX, UNIT, reserve=added)
        )
    first = _array(trunk.first.tap_weights())
    tensors.update(_freeze_matrix(f"{name}.first", first, ACTIVATION_MAX, UNIT))
    for i, layer in enumerate(trunk.layers):
        assert isinstance(layer, GatedLayer) and layer.gate.bias is not None
        context = layer.context.weight[None, :, :, 0, 0].transpose(1, 2)
        both = _array(torch.cat([layer.gate.tap_weights(), context]))  # taps, then context
        bias = _array(layer.gate.bias)
        # A gate of 1/2 + b/4 is 64 + 32 b of 128 steps: the 64 is two units of b.
        gate = _freeze_matrix(f"{name}.{i}.gate", both, ACTIVATION_MAX, UNIT, bias, reserve=2)
        residual = _array(layer.residual.weight[:, :, 0, 0].T)
        tensors.update(gate)
        tensors.update(_freeze_matrix(f"{name}.{i}.residual", residual, GATE_UNIT, GATE_UNIT))
    if trunk.finer is not None:
        up = _array(trunk.up.weight.T)
        tensors.update(_freeze_matrix(f"{name}.up", up, ACTIVATION_MAX, UNIT))
    return tensors


def _freeze_matrix(
    name: str,
    weight: NDArray[np.float64],
    input_max: int,
    unit: int,
    bias: NDArray[np.float64] | None = None,
    reserve: float = 0.0,
) -> dict[str, NDArray[np.generic]]:
    """Integer weight (..., inputs, outputs), exponents (outputs,), bias in units of the sums.

    `unit` is how many integers make one unit of the input; `reserve` is room, in units, for what
    is added to the sums besides the bias. Weights beyond the smallest exponent's +-7.9 are clipped.
    """
    columns = weight.shape[-1]
    biases = np.zeros((1, columns)) if bias is None else np.atleast_2d(bias) * unit
    whole, shift = np.zeros_like(weight), np.zeros_like(biases)
    exponents = np.zeros(columns, np.int8)
    for exponent in EXPONENTS:  # the largest that fits stays
        scale = 2.0**exponent
        rounded, shifted = np.round(weight * scale), np.round(biases * scale)
        if exponent == EXPONENTS[0]:
            rounded = rounded.clip(-WEIGHT_MAX, WEIGHT_MAX)
        sums = np.abs(rounded).reshape(-1, columns).sum(0) * input_max + np.abs(shifted).max(0)
        # One more unit covers the half that rounding adds.
        fits = sums + (reserve + 1) * unit * scale < ACCUMULATOR_LIMIT
        fits &= np.abs(rounded).reshape(-1, columns).max(0) <= WEIGHT_MAX
        whole[..., fits], shift[:, fits] = rounded[..., fits], shifted[:, fits]
        exponents[fits] = exponent
    if not (exponents.all() and np.isfinite(weight).all()):
        raise ValueError(f"{name}: no number, or too large to freeze")
    frozen: dict[str, NDArray[np.generic]] = {
        f"{name}.weight": whole.astype(np.int8),
        f"{name}.exponent": exponents,
    }
    if bias is not None:
        frozen[f"{name}.bias"] = shift.reshape(bias.shape).astype(np.int32)
    return frozen


def thaw(prior: Prior, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Set the weights of a prior to those that `freeze` rounded.

    All but the conditioning network, whose results alone are frozen: see `unfrozen`.

    Args:
        tensors: what `freeze` returned; others are ignored.
    Raises:
        ValueError: an array is missing or has another shape.
    """
    with torch.no_grad():
        try:
            for index in range(len(prior.config.levels)):
                name, tables = f"prior.level{index}", prior.tables(index)
                weight, bias = _thaw_matrix(f"{name}.output", tensors)  # (C, S K), (bins, S K)
                tables.output.copy_(weight.T.reshape(tables.output.shape))
                tables.bias.copy_(bias.reshape(tables.bias.shape) / UNIT)
                tables.embedding.copy_(torch.from_numpy(tensors[f"{name}.embedding"]) / FINE_UNIT)
            for stride, trunk in prior.trunks.items():
                assert isinstance(trunk, Trunk)
                _thaw_trunk(f"prior.{stride}", trunk, tensors)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"not a frozen prior of this configuration: {error}") from error


def _thaw_trunk(name: str, trunk: Trunk, tensors: Mapping[str, NDArray[Any]]) -> None:
    for part, conv in (("context1", trunk.context1), ("context2", trunk.context2)):
        weight, _ = _thaw_matrix(f"{name}.{part}", tensors)  # (9, in, out)
        conv.weight.copy_(weight.reshape(3, 3, *weight.shape[1:]).permute(3, 2, 0, 1))
    trunk.first.set_tap_weights(_thaw_matrix(f"{name}.first", tensors)[0])
    for i, layer in enumerate(trunk.layers):
        assert isinstance(layer, GatedLayer) and layer.gate.bias is not None
        weight, bias = _thaw_matrix(f"{name}.{i}.gate", tensors)  # taps, then context
        layer.gate.set_tap_weights(weight[:-1])
        layer.gate.bias.copy_(bias / UNIT)
        layer.context.weight.copy_(weight[-1].T[:, :, None, None])
        weight, _ = _thaw_matrix(f"{name}.{i}.residual", tensors)
        layer.residual.weight.copy_(weight.T[:, :, None, None])
    if trunk.finer is not None:
        trunk.up.weight.copy_(_thaw_matrix(f"{name}.up", tensors)[0].T)


def _thaw_matrix(name: str, tensors: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Weight (..., inputs, outputs), and the bias times the unit of the inputs; 0 without one."""
    if (found := tensors[f"{name}.weight"].dtype) != np.int8:  # an older file, in other units
        raise ValueError(f"{name}.weight is {found}, not int8")
    scale = np.ldexp(1.0, -tensors[f"{name}.exponent"].astype(int))
    bias = tensors.get(f"{name}.bias", np.zeros(1))
    weight = torch.from_numpy(tensors[f"{name}.weight"] * scale)
    return weight, torch.from_numpy(bias * scale)


def unfrozen(prior: Prior) -> dict[str, Tensor]:
    """The part of a prior's state that `thaw` cannot restore: its conditioning network."""
    return {
        name: value
        for name, value in prior.state_dict().items()
        if name.startswith("hidden.") or ".condition." in name or name.endswith(".vector")
    }


def _clipped(
    values: NDArray[np.float64], limit: int, dtype: type[np.integer[Any]]
) -> NDArray[np.generic]:
    return np.clip(np.round(values), -limit, limit).astype(dtype)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy(), dtype=np.float64)
