import hashlib

import numpy as np
import pytest

from vqcodec.training.drawings import draw


@pytest.mark.parametrize("size", [8, 33, 96])
def test_pictures_have_the_size_asked_for(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(12):  # enough to meet most scenes
        picture = draw(rng, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8


def test_the_generator_decides_everything() -> None:
    first, again = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(8):
        np.testing.assert_array_equal(draw(first, 48), draw(again, 48))


def test_pictures_differ() -> None:
    rng = np.random.default_rng(0)
    assert len({hashlib.sha256(draw(rng, 32).tobytes()).digest() for _ in range(40)}) == 40


def test_statistics_are_those_of_photographs() -> None:
    """Power falls about as 1/f**2; brightness and colour vary about as much as in photos."""
    rng = np.random.default_rng(11)
    side, count = 96, 60
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.zeros((side, side))
    contrasts, chromas = [], []
    for _ in range(count):
        picture = draw(rng, side).astype(np.float64)
        grey = picture.mean(axis=2)
        power += np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        contrasts.append(grey.std())
        chromas.append(np.abs(picture - grey[..., None]).mean())
    rows, columns = np.meshgrid(*2 * [np.fft.fftfreq(side, 1 / side)], indexing="ij")
    radius = np.hypot(rows, columns)
    rings = np.arange(3, 40)
    mean_power = [power[(radius >= r) & (radius < r + 1)].mean() for r in rings]
    slope = np.polyfit(np.log(rings), np.log(mean_power), 1)[0]
    assert -3.5 < slope < -1.8
    assert 30 < np.mean(contrasts) < 65
    assert 8 < np.mean(chromas) < 35


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="below 8"):
        draw(np.random.default_rng(0), 7)
