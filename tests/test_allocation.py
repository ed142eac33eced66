"""Rate between pictures."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.allocation import ENDS, MOST, POWER, TYPICAL, contrast, quality_for
from vqcodec.config import PRESETS

PHOTO = PRESETS["photo"]


def noise(strength: float, height: int = 700, width: int = 40) -> NDArray[np.uint8]:
    """Grey noise: neighbours differ by 2/3 of `strength` on average, below and beside."""
    levels = np.random.default_rng(0).uniform(-1, 1, (height, width, 1)) * strength * 255
    return np.broadcast_to(127.5 + levels, (height, width, 3)).round().astype(np.uint8)


def test_contrast_is_the_mean_absolute_gradient() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (601, 37, 3), np.uint8)
    grey = rgb.mean(2) / 255
    want = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    assert contrast(rgb) == pytest.approx(want)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_contrast_of_the_smallest_pictures(shape: tuple[int, int]) -> None:
    rgb = np.zeros((*shape, 3), np.uint8)
    assert contrast(rgb) == 0
    rgb[0, 0] = 255
    assert contrast(rgb) == pytest.approx(1 / (max(shape) - 1) if max(shape) > 1 else 0)


def test_lambda_is_in_proportion_to_a_power_of_contrast() -> None:
    smooth, busy = noise(0.03), noise(0.06)
    config = replace(PHOTO, lambdas=(0.5, 0.0005))
    first, second = (config.lambda_at(quality_for(config, rgb, 50)) for rgb in (smooth, busy))
    assert second / first == pytest.approx((contrast(busy) / contrast(smooth)) ** POWER)
    assert first == pytest.approx(config.lambda_at(50) * (contrast(smooth) / TYPICAL) ** POWER)


@pytest.mark.parametrize("strength", [0.0, 0.01, 0.05, 0.5])
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
