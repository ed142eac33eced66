"""The last phase of training: the encoder learns to start where refinement would end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, same_weights
from tiny_runs import tiny_options

from vqcodec import models
from vqcodec.options import ignore
from vqcodec.training import encoder_start, journal, train
from vqcodec.training import run as train_run
from vqcodec.training.data import CropSource
from vqcodec.training.drawings import draw
from vqcodec.training.encoder_start import LATEST, Example, Latest, refined
from vqcodec.training.objective import spread_quality
from vqcodec.training.run import TrainOptions

ENCODER = ("encoder_in", "encoder_blocks", "encoder_out")


def options(tmp_path: Path, **changes: Any) -> TrainOptions:
    """Of the last phase alone."""
    alone: dict[str, Any] = {"config": None, "steps": 60, "encoder_share": 1.0}
    return tiny_options(tmp_path, **(alone | changes))


@pytest.fixture
def astray(tmp_path: Path, tiny_weights: dict[str, Path]) -> Path:
    """A model whose encoder gives other latents than its decoder wants."""
    model = models.Model(tiny_weights["residual"])
    tensors = {
        name: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
        for name, tensor in model.tensors.items()
    }
    tensors["autoencoder.encoder_out.bias"] += 0.2
    path = tmp_path / "astray.safetensors"
    models.save(path, model.config, tensors, {})
    return path


def moved(path: Path) -> float:
    """How far refinement moves latents of drawings that training does not see."""
    torch.manual_seed(0)
    model = models.Model(path)
    pictures = [draw(np.random.default_rng(99 + k), 64) for k in range(16)]
    crops = CropSource(pictures, 0).batch(16, 64)
    _, distances = refined(model.autoencoder, model.quantizer, crops, spread_quality(16))
    return float(distances.mean())


@pytest.mark.slow
def test_refinement_has_less_to_do_and_the_decoder_is_the_same(
    tmp_path: Path, astray: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_start, "PEAK", 2e-3)  # as there are only a few steps
    start, end = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
    records = list[dict[str, Any]]()
    train.run(options(tmp_path, output=start, init=astray, steps=0), ignore)
    train.run(options(tmp_path, output=end, init=astray), records.append)
    assert moved(end) < 0.6 * moved(start)
    before, after = models.Model(start).tensors, models.Model(end).tensors
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == set(ENCODER)
    logged = [each for each in records if "step" in each]
    assert {each["phase"] for each in logged} == {"encoder"}
    assert all(len(each["refinement"]) == 4 for each in logged)


def test_a_fresh_run_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the other phases, which share what it leaves of the steps."""
    monkeypatch.setattr(journal, "LOG_STEPS", 1)
    records = list[dict[str, Any]]()
    shares = {"prior_share": 0.25, "encoder_share": 0.2}
    train.run(tiny_options(tmp_path, steps=20, **shares), records.append)
    phases = [each["phase"] for each in records if "step" in each]
    assert phases == ["autoencoder"] * 12 + ["prior"] * 4 + ["encoder"] * 4


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.slow
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    tmp_path: Path, astray: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    class Killed(Exception):
        pass

    def kill(record: dict[str, Any]) -> None:
        if record["phase"] == "encoder" and record.get("step", 0) >= 20:
            raise Killed

    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(journal, "LOG_STEPS", 10)
    start = {"config": TINY["residual"], "encoder_share": 0.5} if fresh else {"init": astray}
    straight, stopped = (
        options(tmp_path, output=tmp_path / f"{name}.safetensors", steps=48, **start)
        for name in ("straight", "stopped")
    )
    train.run(straight, ignore)
    with pytest.raises(Killed):
        train.run(stopped, kill)
    assert not stopped.output.exists()
    train.run(replace(stopped, resume=True), ignore)
    assert same_weights(straight.output, stopped.output)


def test_the_latest_examples_take_the_place_of_the_oldest() -> None:
    config, batch = TINY["residual"], 2
    latest = Latest(config, batch, 64)
    torch.manual_seed(0)
    for step in range(LATEST + 3):
        values = (torch.full((batch, *kept.shape[1:]), step) for kept in latest.kept)
        latest.put(step, Example(*values))
        drawn = [latest.draw(step) for _ in range(150)]
        least = max(0, step - LATEST + 1)
        assert {unit.item() for each in drawn for unit in each.unit} == set(range(least, step + 1))
        for each in drawn:
            assert torch.equal(each.quality, each.unit)
            assert torch.equal(each.target[:, 0, 0, 0].float(), each.unit)
            assert torch.equal(each.crops[:, 0, 0, 0].float(), each.unit)
