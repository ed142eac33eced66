"""`vqcodec doctor`: the table, the verdict, JSON and the exit status."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner, Result

from vqcodec import models
from vqcodec.cli import doctor
from vqcodec.cli.app import app
from vqcodec.evaluation import exactness

IN_PROCESS = 17  # and seven more, where sums of int8 are right


@pytest.fixture(autouse=True)
def few_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "CORE_TYPES", ("Nehalem",))
    monkeypatch.setattr(exactness, "INT8_KERNELS", ("AVX512_CORE_VNNI",))


def run(*arguments: str) -> Result:
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters
    options: Any = {"mix_stderr": False} if apart else {}
    return CliRunner(**options).invoke(app, ["doctor", *arguments])


def copy(source: Path, path: Path, stored: str | None) -> str:
    """The same weights with another hash stored, or none."""
    model = models.load(str(source))
    models.save(path, model.config, model.tensors, model.training, stored)
    return str(path)


@pytest.mark.slow
def test_all_configurations_agree(tiny_weights: dict[str, Path]) -> None:
    path = str(tiny_weights["residual"])
    result = run("--model", path)
    assert (result.exit_code, "MISMATCH" in result.stdout) == (0, False)
    verdict = result.stdout.splitlines()[-1]
    assert verdict.startswith(f"{path}: exact: all ")
    assert verdict.endswith(" configurations give the stored hash")
    assert (models.load(path).probe or "?")[: doctor.DIGITS] in result.stdout


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


@pytest.mark.slow
def test_another_stored_hash_is_a_mismatch(tiny_weights: dict[str, Path], tmp_path: Path) -> None:
    path = copy(tiny_weights["vq-vae"], tmp_path / "other.safetensors", "0" * 64)
    result = run("--model", path)
    assert (result.exit_code, "MISMATCH" in result.stdout) == (1, True)
    assert "NOT exact" in result.stdout.splitlines()[-1]
    assert result.stdout.endswith("but agree with each other\n")


@pytest.mark.slow
def test_weights_without_a_hash(
    tiny_weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy(tiny_weights["vq-vae"], tmp_path / "none.safetensors", None)
    assert models.load(path).probe is None
    result = run("--model", path)
    assert result.exit_code == 0
    assert "agree with each other; the weights file has no stored hash" in result.stdout
    monkeypatch.setattr(exactness, "probe_known", lambda *_: "1" * 64)
    result = run("--model", path, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["exact"], told["stored"]) == (1, False, None)
    assert "configurations differ from the first" in told["verdict"]


def test_an_unknown_model_is_one_line() -> None:
    result = run("--model", "no-such-model")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
