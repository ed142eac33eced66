"""Rate between pictures."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.config import PRESETS
from vqcodec.encoder.allocation import (
    ENDS,
    LEVEL,
    MOST,
    POWER,
    SIDE,
    TYPICAL,
    quality_for,
    water_filling_error,
)

PHOTO = PRESETS["photo"]


def noise(strength: float, height: int = 700, width: int = 40) -> NDArray[np.uint8]:
    """Grey noise, `strength` times black to white at most."""
    levels = np.random.default_rng(0).uniform(-0.5, 0.5, (height, width, 1)) * strength * 255
    grey: NDArray[np.uint8] = (127.5 + levels).round().astype(np.uint8)
    return np.broadcast_to(grey, (height, width, 3))


def test_small_coefficients_are_lost_and_of_large_ones_the_level() -> None:
    """Against cosines and colours written out."""
    rgb = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    rgb[8:] = rgb[8:] // 16 + 120
    x = rgb / 255 - 0.5
    colours = [x @ a / np.sqrt(np.dot(a, a)) for a in ([1, 1, 1], [1, 0, -1], [1, -2, 1])]
    total, places = 0.0, np.arange(8) + 0.5
    for v, u in np.ndindex(8, 8):
        wave = np.outer(np.cos(np.pi * v * places / 8), np.cos(np.pi * u * places / 8))
        wave /= np.linalg.norm(wave)
        for colour in colours:
            for block in (colour[:8], colour[8:]):
                total += min(float((block * wave).sum()) ** 2, LEVEL)
    assert water_filling_error(rgb) == pytest.approx(total / 128, rel=1e-4)


def test_of_a_little_noise_all_is_lost() -> None:
    rgb = noise(0.05)
    assert water_filling_error(rgb) == pytest.approx(3 * np.square(rgb / 255 - 0.5).mean(), 1e-3)


@pytest.mark.parametrize("shape", [(2 * SIDE + 8, 24), (16, SIDE + 40)])
def test_a_large_picture_is_its_parts(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    axis = int(shape[1] > SIDE)
    parts = np.split(rgb, range(SIDE, shape[axis], SIDE), axis)
    sizes = [part.shape[axis] for part in parts]
    want = np.average([water_filling_error(part) for part in parts], weights=sizes)
    assert water_filling_error(rgb) == pytest.approx(want)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (SIDE + 1, 3)])
def test_odd_sizes_are_extended_by_their_edges(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    height, width = (-(-side // 8) * 8 for side in shape)
    rows, cols = np.arange(height).clip(max=shape[0] - 1), np.arange(width).clip(max=shape[1] - 1)
    assert water_filling_error(rgb) == water_filling_error(rgb[rows][:, cols])


def test_lambda_is_in_proportion_to_a_power_of_the_error() -> None:
    smooth, busy = noise(0.09), noise(0.1)
    config = replace(PHOTO, lambdas=(0.5, 0.0005))
    first, second = (config.lambda_at(quality_for(config, rgb, 50)) for rgb in (smooth, busy))
    errors = water_filling_error(smooth), water_filling_error(busy)
    assert second / first == pytest.approx((errors[1] / errors[0]) ** POWER)
    assert first == pytest.approx(config.lambda_at(50) * (errors[0] / TYPICAL) ** POWER)


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.1, 1.0])
def test_quality_grows_from_end_to_end(strength: float) -> None:
    rgb = noise(strength)
    asked = np.linspace(0, 100, 401)
    coded = [quality_for(PHOTO, rgb, quality) for quality in asked]
    assert coded[0] == 0 and coded[-1] == 100
    assert np.diff(coded).min() > 0
    inner = (asked > ENDS) & (asked < 100 - ENDS)
    assert np.abs(coded - asked)[inner].max() <= MOST + 1e-9


def test_models_tuned_for_ssim_are_left_as_they_are() -> None:
    assert quality_for(replace(PHOTO, tune="ssim"), noise(0.5), 50) == 50
