"""The float prior rounded to the tensors of `integer_prior`, and back, so that it can train on.

Source: docs/format.md, section 5.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.limits import QUALITIES
from vqcodec.prior.constants import (
    ACCUMULATOR_LIMIT,
    ACTIVATION_MAX,
    ACTIVATION_UNIT,
    CONDITION_UNIT,
    EXPONENTS,
    FINE_MAX,
    FINE_UNIT,
    GATE_UNIT,
    LOGIT_UNIT,
    TABLE_SIZE,
    TABLE_UNIT,
    WEIGHT_MAX,
)
from vqcodec.prior.network import GatedLayer, Prior, Trunk

__all__ = ["freeze", "thaw", "unfrozen"]


def freeze(prior: Prior) -> dict[str, NDArray[np.generic]]:
    """Round a trained prior to the integer tensors that `IntegerPrior` loads.

    Each column of a matrix becomes round(weight * 2**e) with the largest e that keeps every
    possible sum of products below 2**24 and every weight in -127..127.

    Returns:
        Arrays by name, as docs/format.md, section 5 lists them.
    Raises:
        ValueError: a weight is not finite, or a bias so large that no exponent fits.
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
    columns = _array(tables.output.flatten(0, 1).T)
    output = _freeze_matrix(f"{name}.output", columns, bias=_array(tables.bias.flatten(1)))
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
        tensors.update(_freeze_matrix(f"{name}.{part}", weight, reserve=added))
    tensors.update(_freeze_matrix(f"{name}.first", _array(trunk.first.tap_weights())))
    for i, layer in enumerate(trunk.layers):
        assert isinstance(layer, GatedLayer) and layer.gate.bias is not None
        context = layer.context.weight[None, :, :, 0, 0].transpose(1, 2)
        both = _array(torch.cat([layer.gate.tap_weights(), context]))  # taps, then context
        # The gate 1/2 + b/4 is (2 + b) / 4: two units of b more than b itself.
        gate = _freeze_matrix(f"{name}.{i}.gate", both, bias=_array(layer.gate.bias), reserve=2)
        residual = _array(layer.residual.weight[:, :, 0, 0].T)
        tensors.update(gate)
        tensors.update(
            _freeze_matrix(
                f"{name}.{i}.residual", residual, input_max=GATE_UNIT, input_unit=GATE_UNIT
            )
        )
    if trunk.finer is not None:
        tensors.update(_freeze_matrix(f"{name}.up", _array(trunk.up.weight.T)))
    return tensors


def _freeze_matrix(
    name: str,
    weight: NDArray[np.float64],
    *,
    bias: NDArray[np.float64] | None = None,
    reserve: float = 0.0,
    input_max: int = ACTIVATION_MAX,
    input_unit: int = ACTIVATION_UNIT,
) -> dict[str, NDArray[np.generic]]:
    """Integer weight (..., inputs, outputs), exponents (outputs,), and the bias if there is one.

    Weights beyond +-7.9, which no exponent can hold, are clipped.

    Args:
        reserve: room, in units of the inputs, for what is added to the sums besides the bias.
        input_max: the largest absolute input, as an integer.
        input_unit: how many integers make one unit of the inputs.
    """
    columns = weight.shape[-1]
    biases = np.zeros((1, columns)) if bias is None else np.atleast_2d(bias) * input_unit
    integers, integer_bias = np.zeros_like(weight), np.zeros_like(biases)
    exponents = np.zeros(columns, np.int8)
    for exponent in EXPONENTS:  # the largest that fits stays
        scale = 2.0**exponent
        rounded, rounded_bias = np.round(weight * scale), np.round(biases * scale)
        if exponent == EXPONENTS[0]:
            rounded = rounded.clip(-WEIGHT_MAX, WEIGHT_MAX)
        sums = np.abs(rounded).reshape(-1, columns).sum(0) * input_max + np.abs(rounded_bias).max(0)
        # One more unit covers the half that rounding adds.
        fits = sums + (reserve + 1) * input_unit * scale < ACCUMULATOR_LIMIT
        fits &= np.abs(rounded).reshape(-1, columns).max(0) <= WEIGHT_MAX
        integers[..., fits] = rounded[..., fits]
        integer_bias[:, fits] = rounded_bias[:, fits]
        exponents[fits] = exponent
    if not (exponents.all() and np.isfinite(weight).all()):
        raise ValueError(f"{name} is not finite, or its bias is too large")
    frozen: dict[str, NDArray[np.generic]] = {
        f"{name}.weight": integers.astype(np.int8),
        f"{name}.exponent": exponents,
    }
    if bias is not None:
        frozen[f"{name}.bias"] = integer_bias.reshape(bias.shape).astype(np.int32)
    return frozen


def thaw(prior: Prior, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Set the weights of a prior to those that `freeze` rounded; the inverse, up to rounding.

    The conditioning network stays as it is: only its results are frozen. See `unfrozen`.

    Args:
        tensors: what `freeze` returned; arrays of other names are ignored.
    Raises:
        ValueError: an array is missing, or has another shape or type.
    """
    with torch.no_grad():
        try:
            for index in range(len(prior.config.levels)):
                name, tables = f"prior.level{index}", prior.tables(index)
                weight, bias = _thaw_matrix(f"{name}.output", tensors)  # (C, S K), (bins, S K)
                tables.output.copy_(weight.T.reshape(tables.output.shape))
                tables.bias.copy_(bias.reshape(tables.bias.shape) / ACTIVATION_UNIT)
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
        layer.gate.bias.copy_(bias / ACTIVATION_UNIT)
        layer.context.weight.copy_(weight[-1].T[:, :, None, None])
        weight, _ = _thaw_matrix(f"{name}.{i}.residual", tensors)
        layer.residual.weight.copy_(weight.T[:, :, None, None])
    if trunk.finer is not None:
        trunk.up.weight.copy_(_thaw_matrix(f"{name}.up", tensors)[0].T)


def _thaw_matrix(name: str, tensors: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Weight (..., inputs, outputs), and the bias times the unit of the inputs, 0 without one."""
    if (found := tensors[f"{name}.weight"].dtype) != np.int8:  # older files have other units
        raise ValueError(f"{name}.weight is {found}, not int8")
    scale = np.ldexp(1.0, -tensors[f"{name}.exponent"].astype(int))
    bias = tensors.get(f"{name}.bias", np.zeros(1))
    weight = torch.from_numpy(tensors[f"{name}.weight"] * scale)
    return weight, torch.from_numpy(bias * scale)


def unfrozen(prior: Prior) -> dict[str, Tensor]:
    """The part of a prior's state that `thaw` cannot restore: the conditioning network."""
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
