"""Random scalar fields, the raw material of `drawings`: fractal noise, ridge lines, blur."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float32", "Generator", "axes", "blur", "f32", "fractal", "ridge_line"]

Float32 = NDArray[np.float32]
Generator = np.random.Generator


def fractal(
    rng: Generator, side: int, slope: float, squeeze: float = 1.0, turn: float = 0.0
) -> Float32:
    """(side, side) Gaussian noise with amplitude 1/f**slope, mean 0, deviation 1.

    Args:
        squeeze: below 1 draws the noise out along one direction.
        turn: radians by which that direction is turned.
    """
    fy, fx = _frequencies(side)
    cos, sin = math.cos(turn), math.sin(turn)  # of Python's type, which leaves float32 as it is
    along, across = cos * fx + sin * fy, cos * fy - sin * fx
    power = (squeeze * across) ** 2 + along**2
    power[0, 0] = 1
    gain: Float32 = power ** f32(-slope / 2)
    gain[0, 0] = 0
    wave = rng.standard_normal((2, *gain.shape), np.float32) * gain
    noise = f32(np.fft.irfft2(wave[0] + 1j * wave[1], (side, side)))
    noise /= noise.std() + f32(1e-9)
    return noise


def blur(plane: Float32, sigma: float) -> Float32:
    """Gaussian blur of a (side, side) plane, periodic."""
    side = len(plane)
    fy, fx = _frequencies(side)
    gain = np.exp(-2 * (np.pi * sigma / side) ** 2 * (fx**2 + fy**2))
    return f32(np.fft.irfft2(np.fft.rfft2(plane) * gain, plane.shape))


def ridge_line(rng: Generator, side: int) -> Float32:
    """(side,) a random line with a 1/f spectrum, mean 0, deviation 1."""
    frequency = np.arange(side // 2 + 1)
    wave = rng.normal(size=(2, len(frequency))) / np.maximum(frequency, 1) ** rng.uniform(1, 1.8)
    wave[:, 0] = 0
    line = np.fft.irfft(wave[0] + 1j * wave[1], side)
    return f32(line / (line.std() + 1e-9))


@lru_cache(maxsize=8)
def _frequencies(side: int) -> tuple[Float32, Float32]:
    """Cycles a side: (side, 1) and (1, side // 2 + 1)."""
    return (
        f32(np.fft.fftfreq(side, 1 / side))[:, None],
        f32(np.fft.rfftfreq(side, 1 / side))[None],
    )


def axes(side: int) -> tuple[Float32, Float32]:
    """Row and column numbers of a (side, side) plane: (side, 1) and (1, side)."""
    line = np.arange(side, dtype=np.float32)
    return line[:, None], line[None]


def f32(values: object) -> Float32:
    """As float32: one float64 operand would make whole planes float64, at half the speed."""
    return np.asarray(values, np.float32)
