"""What the phases show the networks: levels of each turn, codes chosen as coding does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY
from tiny_runs import tiny_options as options

from vqcodec import models
from vqcodec.config import PRESETS
from vqcodec.encoder import code_lengths as lengths
from vqcodec.options import ignore
from vqcodec.training import objective, phases, startup, train
from vqcodec.training.data import CropSource
from vqcodec.training.drawings import draw
from vqcodec.training.run import Run


def test_turns_with_the_same_crops_are_for_different_levels() -> None:
    config = PRESETS["photo"]
    turns = list(phases._turns(config))
    assert len(turns) == phases.TURNS
    coarse = [k for levels in turns for k in levels if config.levels[k].stride == 16]
    fine = [k for levels in turns for k in levels if config.levels[k].stride == 8]
    assert sorted(coarse) == [0, 1, 2, 3]
    assert len(set(fine)) == len(fine) == 2 * phases.TURNS
    orders = {tuple(map(tuple, phases._turns(config))) for _ in range(9)}
    assert len(orders) > 1
    assert list(phases._turns(TINY["vq-vae-2"])) == [[0, 1]] * phases.TURNS


@pytest.mark.parametrize("continued", [False, True])
def test_codes_are_chosen_after_steps(
    tmp_path: Path,
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    continued: bool,
) -> None:
    """For the networks from half of a first run on, or where they were trained before."""
    asked: list[int] = []

    def note(*arguments: Any) -> torch.Tensor:
        latent: torch.Tensor = arguments[2]
        asked.append(arguments[5])
        return latent

    for module in (objective, phases):
        monkeypatch.setattr(module, "refine_as_coding", note)
    init = tiny_weights["vq-vae-2"] if continued else None
    train.run(options(tmp_path, init=init, steps=16), ignore)
    assert asked[8:] == [objective.REFINEMENT_STEPS] * 8  # of the prior
    assert (
        asked[:8]
        == [objective.REFINEMENT_STEPS if continued else 0] * 4 + [objective.REFINEMENT_STEPS] * 4
    )


@pytest.mark.parametrize("name", TINY)
def test_the_prior_learns_codes_chosen_by_its_own_lengths(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As coding chooses them; those of levels that a file does not have by marginal ones."""
    model = models.Model(tiny_weights[name])
    pictures = [draw(np.random.default_rng(k), 96) for k in range(2)]
    state = Run(options(tmp_path), model.config, CropSource(pictures, 0), ignore)
    startup._start_from(state, model)
    count = len(model.config.levels)
    for k in range(count):  # what is marginal is no longer what the prior says
        state.prior.tables(k).bias.data += 99 * torch.randn_like(state.prior.tables(k).bias)
    x, quality = state.crops.batch(2, 64), torch.tensor([2, 2])
    spent = []
    monkeypatch.setitem(lengths.LONGER, "psnr", 0.0)
    for share in (0.0, 1.0):
        monkeypatch.setitem(lengths.SHARES, "psnr", (share, share))
        grids = phases._coded(state, x, quality, torch.tensor([1, count]))
        with torch.no_grad():
            each = [state.prior.coded_bits(grids, quality, k)[1].item() for k in range(count)]
        spent.append(each[0])
    assert spent[1] < spent[0]
    found = phases._lengths(state, grids, quality, torch.tensor([1, count]))
    assert found and all(level.slices == 1 for level in model.config.levels[: len(found)])
    assert all(level.slices > 1 for level in model.config.levels[len(found) :][:1])
    for level, bits in enumerate(found):
        used = bits.gather(2, grids[level].flatten(1, 2)).sum((1, 2))
        assert used[1].item() == pytest.approx(each[level], rel=0.02, abs=0.5)
        marginal = state.quantizer.marginal_bits(level, quality)
        assert torch.equal(bits[0], marginal[0].expand_as(bits[0])) == (level > 0)
