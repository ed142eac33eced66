"""refine.py: a step that brings what is decoded closer to the picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY

from vqcodec import models
from vqcodec.bitstream import container, tiles
from vqcodec.bitstream.tiles import Tile
from vqcodec.config import Tuning
from vqcodec.encoder import refine
from vqcodec.encoder import tile as tile_coding
from vqcodec.networks import windows
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.quantizer import Quantized, Quantizer
from vqcodec.training.drawings import draw

QUALITY = 60


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("decoded_before", [False, True])
def test_the_step_lowers_the_error(
    tiny_weights: dict[str, Path], name: str, decoded_before: bool
) -> None:
    """With networks that nobody used before, and with those of a process that decoded before."""
    model = models.Model(tiny_weights[name])
    rgb = draw(np.random.default_rng(3), 64)[:48]
    (tile,) = tiles.split(48, 64, model.config.strides[0])
    levels, signalled = len(model.config.levels), torch.tensor([QUALITY])
    if decoded_before:
        shapes = model.config.grid_shapes(48, 64)
        zero = [
            np.zeros((*shape, spec.slices), np.uint16)
            for shape, spec in zip(shapes, model.config.levels, strict=True)
        ]
        assert len(list(windows.decode(model, zero, QUALITY, 48, 64, tile))) == 1
    latent, picture = windows.encode(model, rgb, tile, QUALITY), windows.pixels(model, rgb, tile)
    before = latent.clone()

    def decode(y: torch.Tensor) -> torch.Tensor:
        return model.autoencoder.decode(y, signalled)

    refined = refine.refine(model.quantizer, decode, latent, picture, signalled, 1, 2, levels)
    assert refined.shape == latent.shape and latent.equal(before)
    with torch.inference_mode():
        chosen = model.quantizer(latent, signalled, beam=2).latent
        errors = [
            float((decode(y) - picture).square().sum())
            for y in (chosen, chosen + (refined - latent))
        ]
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize(("gain", "steps"), [(1.0, 0), (1.0, 1), (1.0, 3), (3.0, 1)])
def test_the_steps_of_a_block_transform(gain: float, steps: int) -> None:
    """Where errors of the latent are those of pixels, or a third of them, the steps are known."""
    torch.manual_seed(0)
    network = Autoencoder(TINY["residual"])  # its branches are still zero
    picture, quality = torch.rand(3, 3, 32, 48), torch.tensor([60.0, 10.0, 15.0])
    network.initialise(picture)
    latent = network.encode(picture, quality) / gain
    network.klt *= gain
    chosen = latent + torch.randn_like(latent)

    def decode(y: torch.Tensor) -> torch.Tensor:
        return network.decode(y, quality)

    seen: list[int] = []
    rest = steps, 5, 2, None, seen.append
    refined = refine.refine(Choice(chosen), decode, latent, picture, quality, *rest)
    assert seen == list(range(1, steps + 1))
    low, middle, high = refine.STEPS["psnr"]
    rising = [0.8 * low + 0.2 * middle, 0.7 * low + 0.3 * middle]
    parts = torch.tensor([0.8 * middle + 0.2 * high, *rising])
    usual = torch.tensor([1, 0, 3 / 8])[:, None, None, None]  # from 12 to 20
    first = 1 + (refine.FIRST - 1) * usual
    steepness = gain**2
    parts = parts[:, None, None, None] * min(1, refine.TRUST / steepness)
    want, move = latent, torch.zeros(())
    for number in range(steps):
        # What is decoded does not change, as the choice does not; what it is chosen for does.
        step = parts * (refine.CURVATURE * (chosen - want) - steepness * (chosen - latent))
        move = refine.MOMENTUM * usual * move + (step if number else first * step)
        want = want + move
    torch.testing.assert_close(refined, want, rtol=1e-4, atol=1e-4)


def test_a_step_that_leads_astray_is_not_taken() -> None:
    """Of two pictures, the decoder of the second one turns the step around."""
    torch.manual_seed(0)
    network = Autoencoder(TINY["residual"])
    picture, quality = torch.rand(2, 3, 32, 48), torch.tensor([60.0, 60.0])
    network.initialise(picture)
    latent = network.encode(picture, quality)
    start = latent + 0.1 * torch.randn_like(latent)

    def decode(y: torch.Tensor) -> torch.Tensor:
        wrong = y.detach() + (y - y.detach()) * torch.tensor([1.0, -40.0])[:, None, None, None]
        return network.decode(wrong, quality)

    def refined(keep_best: bool) -> torch.Tensor:
        rest = 2, 5, 2, None, None, keep_best
        return refine.refine(Nothing(), decode, start, picture, quality, *rest)

    first, second = refined(keep_best=True)
    assert first.equal(refined(keep_best=False)[0])
    assert second.equal(start[1]) and not refined(keep_best=False)[1].equal(start[1])


def test_the_best_step_for_ms_ssim_may_have_more_squared_error() -> None:
    torch.manual_seed(0)
    picture, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 12, 16, 16)
    noisy = picture + 0.05 * torch.randn_like(picture)
    shown = iter([noisy, picture + 0.08, noisy])  # the second is the picture, but brighter

    def decode(y: torch.Tensor) -> torch.Tensor:
        return next(shown) + y.mean()

    choice, quality = Nothing("ssim"), torch.tensor([60.0])
    rest = 2, 5, 2, torch.ones(1, 16, 16), None, True
    found = refine.refine(choice, decode, latent, picture, quality, *rest)
    assert len(choice.seen) == 3 and found.equal(choice.seen[1])


class Nothing(Quantizer):
    """Takes the latent as it is, for no bits."""

    def __init__(self, tune: Tuning = "psnr") -> None:
        super().__init__(replace(TINY["residual"], tune=tune))
        self.seen: list[torch.Tensor] = []

    def forward(self, latent: torch.Tensor, *_: object, **__: object) -> Quantized:
        self.seen.append(latent)
        return Quantized(latent.detach().clone(), [], torch.zeros(len(latent)))


class Choice(Quantizer):
    """Takes what it is given, whatever the latent."""

    def __init__(self, latent: torch.Tensor) -> None:
        super().__init__(TINY["residual"])
        self.latent = latent

    def forward(self, *_: object, **options: object) -> Quantized:
        assert (options["levels"], options["beam"]) == (2, 5)
        return Quantized(self.latent.detach().clone(), [], torch.zeros(3))


def test_efforts_differ_in_steps_and_paths(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(str(tiny_weights["residual"]))
    rgb = draw(np.random.default_rng(3), 64)[:32]
    tile = Tile(0, 0, 0, 32, 64)

    def write(effort: int) -> list[tuple[container.Part, bytes]]:
        return tile_coding.write_tile(model, rgb, tile, 80, effort, 5)

    real = refine.refine  # and of a model so small steps may not be worth it

    def refined(*arguments: Any, keep_best: bool) -> torch.Tensor:
        assert keep_best
        return real(*arguments)

    monkeypatch.setattr(refine, "refine", refined)
    written = write(1), write(2)
    asked: list[int] = []

    def unrefined(
        quantizer: Quantizer, decode: object, latent: torch.Tensor, *rest: object, keep_best: bool
    ) -> torch.Tensor:
        picture, quality, steps, *_ = rest
        assert isinstance(steps, int) and keep_best
        asked.append(steps)
        return latent

    monkeypatch.setattr(refine, "refine", unrefined)
    for effort, (steps, *_) in enumerate(tile_coding.EFFORTS["psnr"]):
        assert write(effort) not in written
        assert asked.pop() == steps
    for efforts in tile_coding.EFFORTS.values():
        assert list(efforts) == sorted(efforts)
    assert written[0] != written[1] and write(1) == write(2)
