"""The command `train`: its options, and how it words what the library says."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vqcodec.cli.app import app
from vqcodec.cli.console import TrainingDisplay
from vqcodec.config import PRESETS
from vqcodec.training import train


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


def test_help_names_every_preset() -> None:
    words = run("--help").stdout.replace("(", " ").replace(",", " ").split()
    assert set(PRESETS) <= set(words)


def test_steps_take_the_place_of_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[train.TrainOptions] = []
    monkeypatch.setattr(train, "run", lambda options, log: asked.append(options))
    output = str(tmp_path / "w.safetensors")
    assert run("-o", output, "--steps", "40", "--threads", "1").exit_code == 0
    assert (asked[0].steps, asked[0].threads, asked[0].preset) == (40, 1, None)
    both = run("-o", output, "--steps", "40", "--minutes", "3")
    assert both.exit_code == 2 and len(asked) == 1


def test_a_resumed_run_keeps_its_model(tmp_path: Path) -> None:
    init = tmp_path / "i.safetensors"
    init.touch()
    for words in (("--preset", "photo"), ("--tune", "ssim"), ("--init", str(init))):
        refused = run("-o", str(tmp_path / "w.safetensors"), "--resume", *words)
        assert refused.exit_code == 2 and "--resume keeps the model" in refused.stderr


def test_an_interrupted_run_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    display = TrainingDisplay()
    display({"phase": "pictures", "progress": 0.5, "minutes": 0.25, "pictures": 7})
    display({"phase": "prior", "stopped": 12})
    assert capsys.readouterr().err.splitlines() == [
        " 50.0 %  pictures  0.2 min  7 pictures",
        "vqcodec: note: stopped after step 12; --resume continues from there",
    ]
