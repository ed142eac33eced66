"""The probe and its hash, and `vqcodec doctor`."""

import inspect
import json
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner, Result

from vqcodec import models
from vqcodec.cli import doctor
from vqcodec.cli.app import app
from vqcodec.prior.arithmetic import FloatArithmetic, Int8Arithmetic, int8_is_right
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import _split_mix, probe, probe_known, probe_scan

NAMES = ("vq-vae", "vq-vae-2", "residual")
IN_PROCESS = 17  # and seven more, where sums of int8 are right
NEHALEM = ("OPENBLAS_CORETYPE", "Nehalem", "float32")


@pytest.fixture(autouse=True)
def few_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CORE_TYPES", ("Nehalem",))
    monkeypatch.setattr(doctor, "INSTRUCTION_SETS", ("AVX512_CORE_VNNI",))


def run(*arguments: str) -> Result:
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters
    options: Any = {"mix_stderr": False} if apart else {}
    return CliRunner(**options).invoke(app, ["doctor", *arguments])


def copy(source: Path, path: Path, stored: str | None) -> str:
    """The same weights with another hash stored, or none."""
    model = models.load(str(source))
    models.save(path, model.config, model.tensors, model.training, stored)
    return str(path)


# The probe


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
    module: Any = import_module("vqcodec.prior.probe")
    model = models.load(str(tiny_weights["vq-vae"]))
    wanted, drawn = probe_scan(model.prior)
    exact = module.scan_known

    def inexact(*arguments: Any) -> Any:
        for step, indices in exact(*arguments):
            step.shares[-1, 0] += 1  # of the last copy
            yield step, indices

    monkeypatch.setattr(module, "scan_known", inexact)
    assert probe_known(model.prior, drawn, 2) != wanted


# The command


def test_all_configurations_agree(tiny_weights: dict[str, Path]) -> None:
    path = str(tiny_weights["residual"])
    result = run("--model", path)
    assert (result.exit_code, "MISMATCH" in result.stdout) == (0, False)
    verdict = result.stdout.splitlines()[-1]
    assert verdict.startswith(f"{path}: exact: all ")
    assert verdict.endswith(" configurations give the stored hash")
    assert (models.load(path).probe or "?")[: doctor.SHOWN] in result.stdout


def test_json_tells_of_every_configuration(tiny_weights: dict[str, Path]) -> None:
    path = str(tiny_weights["vq-vae-2"])
    (line,) = run("--model", path, "--json").stdout.splitlines()
    told = json.loads(line)
    with safe_open(path, framework="np") as file:
        stored = file.metadata()["probe"]
    assert (told["model"], told["stored"], told["exact"]) == (path, stored, True)
    rows = told["configurations"]
    assert len({row["configuration"] for row in rows}) == len(rows) >= IN_PROCESS
    for row in rows:
        wanted = (stored, "ok") if row["hash"] else (None, "not available")
        assert (row["hash"], row["state"]) == wanted
        assert bool(row["note"]) == (row["hash"] is None)


def test_a_child_uses_the_kernels_asked_for(tiny_weights: dict[str, Path]) -> None:
    path = str(tiny_weights["vq-vae"])
    found, note = doctor._child(path, *NEHALEM)
    if not note:
        assert found.pop("kernels")
        assert set(found.values()) == {models.load(path).probe}
    else:
        assert not found


def test_int8_is_used_only_where_its_sums_are_right(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VNNI, kernels add two products in 16 bits, which saturate."""
    path = str(tiny_weights["vq-vae"])
    for most in ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_AMX"):
        found, note = doctor._child(path, "ONEDNN_MAX_CPU_ISA", most, "int8")
        found.pop("kernels", None)
        assert set(found.values()) == {models.load(path).probe} or note
    monkeypatch.setattr(doctor, "int8_is_right", lambda: False)
    assert doctor.probe_here(path, "int8") == {}
    (check,) = doctor._int8_here(models.load(path))
    assert (check.hash, check.note) == (None, doctor.INEXACT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_children_that_fail_are_not_available(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tiny_weights["vq-vae"])
    if doctor._child(path, *NEHALEM)[1]:
        pytest.skip("no other kernels here")
    for code, note in [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import sys; sys.exit('first\\nlast')", "last"),
        ("import sys; sys.exit(3)", "failed"),
    ]:
        monkeypatch.setattr(doctor, "CHILD", code)
        assert doctor._child(path, *NEHALEM) == ({}, note)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert doctor._child(path, *NEHALEM) == ({}, "not an x86-64 machine")


def test_another_stored_hash_is_a_mismatch(tiny_weights: dict[str, Path], tmp_path: Path) -> None:
    path = copy(tiny_weights["vq-vae"], tmp_path / "other.safetensors", "0" * 64)
    result = run("--model", path)
    assert (result.exit_code, "MISMATCH" in result.stdout) == (1, True)
    assert "NOT exact" in result.stdout.splitlines()[-1]
    assert result.stdout.endswith("but agree with each other\n")


def test_weights_without_a_hash(
    tiny_weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy(tiny_weights["vq-vae"], tmp_path / "none.safetensors", None)
    assert models.load(path).probe is None
    result = run("--model", path)
    assert result.exit_code == 0
    assert "agree with each other; the weights file has no stored hash" in result.stdout
    monkeypatch.setattr(doctor, "probe_known", lambda *_: "1" * 64)
    result = run("--model", path, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["exact"], told["stored"]) == (1, False, None)
    assert "configurations differ from the first" in told["verdict"]


def test_an_unknown_model_is_one_line() -> None:
    result = run("--model", "no-such-model")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
