"""What training minimises, and the moving averages that it goes by."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY

from vqcodec import models
from vqcodec.config import RATE_BINS, Tuning
from vqcodec.networks.quantizer import Quantizer, rate_bins
from vqcodec.prior.network import Prior
from vqcodec.training import objective
from vqcodec.training.codebook_learning import CodebookLearner
from vqcodec.training.codebooks import Codebooks
from vqcodec.training.data import CropSource, drawn_pictures
from vqcodec.training.drawings import draw
from vqcodec.training.objective import (
    AutoencoderObjective,
    DecoderObjective,
    prior_loss,
    proxy_bits,
    spread_quality,
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


def test_steps_in_training_lower_the_error(tiny_weights: dict[str, Path]) -> None:
    x = torch.from_numpy(np.stack([draw(np.random.default_rng(k), 64) for k in range(4)]))
    x = x.permute(0, 3, 1, 2).float() / 255
    errors = []
    for steps in (0, objective.REFINEMENT_STEPS):
        model = models.Model(tiny_weights["residual"])
        quality = torch.full((4,), 60.0)
        torch.manual_seed(0)  # the same step of all levels
        learner = CodebookLearner(model.quantizer)
        _, parts = AutoencoderObjective()(model.autoencoder, learner, x, quality, steps)
        errors.append(float(parts["mse"].mean()))
    assert errors[1] < 0.99 * errors[0]


def test_proxy_counts_bits_above_the_water_level() -> None:
    lambdas = torch.tensor([0.01, 0.1])[:, None, None]
    quiet, loud = torch.full((2, 3, 4, 4), 1e-4), torch.full((2, 3, 4, 4), 1.0)
    assert (proxy_bits(quiet, lambdas) < 0.01).all()
    bits = proxy_bits(loud, lambdas)
    assert bits[0] > bits[1] > 48
    doubled = proxy_bits(2 * loud, lambdas) - bits
    torch.testing.assert_close(doubled, torch.full((2,), 48.0), atol=3.0, rtol=0)


def test_prior_loss_leaves_out_levels_that_a_file_would_not_have() -> None:
    torch.manual_seed(0)
    config = TINY["residual"]
    prior, quality = Prior(config), torch.tensor([10, 50, 90])
    grids = [
        torch.randint(level.codebook_size, (3, *shape, level.slices))
        for level, shape in zip(config.levels, config.grid_shapes(32, 48), strict=True)
    ]
    coded = torch.tensor([1, 3, 5])
    loss, per_index = prior_loss(prior, grids, quality, [0, 2, 4], coded, 32 * 48)
    bits = {k: prior.coded_bits(grids, quality, k)[coded > k] for k in (0, 2, 4)}
    want = sum(float(b.detach().sum()) for b in bits.values()) / (3 * 32 * 48)
    assert loss.item() == pytest.approx(want, rel=0.01)  # bfloat16
    assert {k: len(b) for k, b in bits.items()} == {0: 3, 2: 2, 4: 1}
    assert per_index == pytest.approx(
        {k: float(b.detach().mean()) / grids[k][0].numel() for k, b in bits.items()}, rel=0.01
    )
    loss, per_index = prior_loss(prior, grids, quality, [0, 4], coded - 1, 32 * 48)
    assert list(per_index) == [0]
    loss.backward()
    grad = prior.tables(0).bias.grad
    assert grad is not None
    used = quality[1:] * 16 // 101  # not the row of the quality that codes no level
    assert grad.abs().sum((1, 2)).nonzero().flatten().tolist() == used.tolist()


@pytest.mark.parametrize(("tune", "say"), [("psnr", 2.0), ("ssim", 4.0)])
def test_the_say_of_a_crop_goes_with_its_error(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tune: Tuning, say: float
) -> None:
    """Its square root for `psnr`: a crop of four times the usual error counts twice."""
    model = models.Model(tiny_weights["vq-vae-2"])
    quantizer = Quantizer(replace(model.config, tune=tune))
    quantizer.load_state_dict(model.quantizer.state_dict(), strict=False)
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20, 80])
    grids, coded = (
        quantizer(torch.zeros(2, quantizer.dim, 8, 8), quality).grids,
        torch.tensor([1, 2]),
    )
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 0.0)
    decoder = DecoderObjective()
    codebooks = Codebooks(quantizer)
    arguments = model.autoencoder, quantizer, x, grids, quality, coded, codebooks()
    assert decoder(*arguments)[0].item() == pytest.approx(1)
    decoder.usual -= math.log(4)
    loss, mse = decoder(*arguments)
    assert loss.item() == pytest.approx(say, rel=1e-3) and mse.shape == (2,)
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 1.0)
    before = decoder.usual.clone()
    assert decoder(*arguments)[0].item() == pytest.approx(1)
    assert torch.equal(decoder.usual.nan_to_num(), before.nan_to_num())


def test_codebooks_learn_what_brings_the_picture_closer(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 0.0)
    torch.manual_seed(0)
    model = models.Model(tiny_weights["residual"])
    quantizer = Quantizer(model.config)
    quantizer.load_state_dict(model.quantizer.state_dict(), strict=False)
    count = len(model.config.levels)
    x = CropSource(list(drawn_pictures(4, 80, 0)), 0).batch(4, 64)
    quality, coded = torch.full((4,), 80), torch.full((4,), count)
    latent = model.autoencoder.encode(x, quality)
    grids = quantizer(latent, quality).grids
    codebooks, before = Codebooks(quantizer), quantizer.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    codebooks.write(quantizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())

    optimizer, errors = torch.optim.Adam(codebooks.parameters(), lr=0.03), []
    for _ in range(20):
        optimizer.zero_grad()
        arguments = model.autoencoder, quantizer, x, grids, quality, coded, codebooks()
        loss, mse = DecoderObjective()(*arguments)
        loss.backward()
        optimizer.step()
        errors.append(float(mse.mean()))
    codebooks.write(quantizer)
    assert errors[-1] < 0.9 * errors[0]
    for level in range(count):
        found = quantizer.buffer("codebook", level)
        assert not found[:, 0].any()
        assert not found.equal(before[f"codebook_{level}"])


def test_spread_quality_covers_the_scale() -> None:
    torch.manual_seed(0)
    quality = spread_quality(10)
    assert ((quality >= torch.arange(10) * 10) & (quality <= torch.arange(1, 11) * 10)).all()
