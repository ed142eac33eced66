"""The probe: one hash in every arithmetic, which any change of the weights changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqcodec import models
from vqcodec.prior import probe as module
from vqcodec.prior.arithmetic import FloatArithmetic, Int8Arithmetic, int8_is_right
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import _split_mix, probe, probe_known, probe_scan

NAMES = ("vq-vae", "vq-vae-2", "residual")


def test_its_numbers_are_those_of_splitmix64() -> None:
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # seed 1234567
    assert _split_mix(1234567, 0, 3).tolist() == wanted
    assert _split_mix(1234567, 1, 2).tolist() == wanted[1:]


@pytest.mark.parametrize("name", NAMES)
def test_one_hash_by_all_ways(tiny_weights: dict[str, Path], name: str) -> None:
    model = models.load(str(tiny_weights[name]))
    wanted, drawn = probe_scan(model.prior)
    assert model.probe == probe(model.prior) == wanted
    for arithmetic in (FloatArithmetic(), FloatArithmetic(np.float64), Int8Arithmetic(least=0)):
        if arithmetic.name == "int8" and not int8_is_right():
            continue
        prior = model.prior_in(arithmetic)
        for batch in (1, 3):
            found, grids = probe_scan(prior, batch)
            assert found == probe_known(prior, drawn, batch) == wanted
            for some, others in zip(grids, drawn, strict=True):
                assert all(map(np.array_equal, some, others))


@pytest.mark.parametrize(
    "tensor",
    ["prior.8.first.weight", "prior.8.context1.weight", "prior.8.0.gate.weight", "prior.table"],
)
def test_any_weight_changes_the_hash(tiny_weights: dict[str, Path], tensor: str) -> None:
    model = models.load(str(tiny_weights["vq-vae-2"]))
    tensors = {**model.tensors, tensor: model.tensors[tensor].copy()}
    flat = tensors[tensor].reshape(-1)
    place = 9 if tensor == "prior.table" else int(np.abs(flat).argmax())
    flat[place] -= np.sign(flat[place]) * (1 + abs(flat[place]) // 2)
    assert probe(IntegerPrior(model.config, tensors)) != model.probe


def test_copies_that_differ_change_the_hash(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(str(tiny_weights["vq-vae"]))
    wanted, drawn = probe_scan(model.prior)
    exact: Any = vars(module)["scan_known"]

    def inexact(*arguments: Any) -> Any:
        for step, indices in exact(*arguments):
            step.shares[-1, 0] += 1  # of the last copy
            yield step, indices

    monkeypatch.setattr(module, "scan_known", inexact)
    assert probe_known(model.prior, drawn, 2) != wanted
