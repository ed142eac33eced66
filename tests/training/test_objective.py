"""What training minimises, and the moving averages that it goes by."""

import itertools
from pathlib import Path

import pytest
import torch

from vqcodec import models
from vqcodec.config import RATE_BINS
from vqcodec.networks.quantizer import rate_bins
from vqcodec.training import objective
from vqcodec.training.codebook_learning import CodebookLearner
from vqcodec.training.codebooks import Codebooks
from vqcodec.training.data import CropSource, drawn_pictures
from vqcodec.training.objective import (
    AutoencoderObjective,
    DecoderObjective,
    update_averages,
)


def test_every_value_of_a_bin_moves_its_average() -> None:
    """As they would one after another, on average over all orders."""
    start = torch.tensor([2.0, 5.0, 7.0, torch.nan, torch.nan])
    values = torch.tensor([1.0, 9.0, 4.0, 20.0, 30.0, 50.0])
    bins = torch.tensor([0, 0, 0, 1, 3, 3])
    found = start.clone()
    update_averages(found, bins, values, 0.25)
    ends = []
    for order in itertools.permutations([1.0, 9.0, 4.0]):
        average = 2.0
        for value in order:
            average += 0.25 * (value - average)
        ends.append(average)
    want = [sum(ends) / len(ends), 5 + 0.25 * 15, 7.0, 40.0, torch.nan]
    torch.testing.assert_close(found, torch.tensor(want), equal_nan=True)


def test_averages_do_not_depend_on_the_order_of_a_batch(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of one quality share a bin; the last of them is not the only one that counts."""
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 0.0)
    x = CropSource(list(drawn_pictures(4, 80, 0)), 0).batch(4, 64)
    quality, found = torch.full((4,), 50), []
    for pictures in (x, x.flip(0)):
        model = models.Model(tiny_weights["vq-vae-2"])
        averages = AutoencoderObjective(), DecoderObjective()
        learner = CodebookLearner(model.quantizer)
        coded = torch.full((4,), len(model.config.levels))
        grids = model.quantizer(model.autoencoder.encode(pictures, quality), quality).grids
        codebooks = Codebooks(model.quantizer)()
        averages[0](model.autoencoder, learner, pictures, quality)
        averages[1](model.autoencoder, model.quantizer, pictures, grids, quality, coded, codebooks)
        found.append((averages[0].bits_per_proxy, averages[1].usual))
    for one, other, unused in zip(*found, (1.0, torch.nan), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-3, atol=1e-3)
        rest = one[torch.arange(RATE_BINS) != rate_bins(quality)[0]]
        torch.testing.assert_close(rest, torch.full_like(rest, unused), equal_nan=True)
