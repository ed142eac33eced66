"""The other half of the second decoder, from index grids to samples: section 9 of docs/format.md.

NumPy in float64, and like `reference` without a line of the package.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Floats = NDArray[np.float64]  # (channels, rows, columns) where nothing else is said


class Weights:
    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="np") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.config = json.loads(file.metadata()["config"])

    def __call__(self, name: str) -> Floats:
        found: Floats = self.tensors[name].astype(np.float64)
        return found

    def network(self, name: str) -> Floats:
        return self(f"autoencoder.{name}")

    def layer(self, name: str, x: Floats) -> Floats:
        """A matrix with its bias on a vector (inputs,)."""
        return self.network(f"{name}.weight") @ x + self.network(f"{name}.bias")

    def mix(self, name: str, x: Floats) -> Floats:
        weight, bias = self.network(f"{name}.weight"), self.network(f"{name}.bias")
        mixed: Floats = np.einsum("oi,irc->orc", weight[:, :, 0, 0], x)
        return mixed + bias[:, None, None]

    def convolution(self, name: str, x: Floats) -> Floats:
        weight, bias = self.network(f"{name}.weight"), self.network(f"{name}.bias")
        rows, cols = x.shape[1:]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        total = np.zeros((len(bias), rows, cols)) + bias[:, None, None]
        for dy in range(3):
            for dx in range(3):
                part = padded[:, dy : dy + rows, dx : dx + cols]
                total += np.tensordot(weight[:, :, dy, dx], part, 1)
        return total

    def blocks(self, name: str, x: Floats, embedding: Floats) -> Floats:
        k = 0
        while f"autoencoder.{name}.{k}.first.weight" in self.tensors:
            a, b = np.split(self.layer(f"{name}.{k}.modulation", embedding), 2)
            hidden = self.convolution(f"{name}.{k}.first", x)
            hidden = relu((1 + a)[:, None, None] * hidden + b[:, None, None])
            x = x + self.convolution(f"{name}.{k}.second", hidden)
            k += 1
        return x


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def spread(x: Floats, f: int) -> Floats:
    channels, rows, cols = x.shape
    x = x.reshape(channels // f**2, f, f, rows, cols).transpose(0, 3, 1, 4, 2)
    return x.reshape(-1, rows * f, cols * f)


def gather(x: Floats, f: int) -> Floats:
    channels, rows, cols = x.shape
    x = x.reshape(channels, rows // f, f, cols // f, f).transpose(0, 2, 4, 1, 3)
    return x.reshape(-1, rows // f, cols // f)


def latent(weights: Weights, grids: Sequence[NDArray[np.int64]]) -> Floats:
    """Of the grids (h_l, w_l, n) of the first levels."""
    levels = weights.config["levels"]
    base = levels[-1]["stride"]
    f = levels[0]["stride"] // base
    rows, cols = grids[0].shape[0] * f, grids[0].shape[1] * f
    total = np.zeros((weights.config["latent_dims"][-1], rows, cols))
    for number, (grid, level) in enumerate(zip(grids, levels, strict=False)):
        codebook, f = weights(f"quantizer.codebook_{number}"), level["stride"] // base
        n = len(codebook)
        width = n * codebook.shape[2]
        v = np.stack([codebook[c % n][grid[:, :, c % n], c // n] for c in range(width)])
        if f > 1:
            projection = weights(f"quantizer.projection_{level['stride']}")
            v = spread(np.tensordot(projection, v, 1), f)
        total += v
    return total


def samples(
    path: Path, grids: Sequence[NDArray[np.int64]], quality: int, height: int, width: int
) -> Floats:
    """(height, width, 3) in 0..255, before rounding."""
    weights = Weights(path)
    stride, y = weights.config["levels"][-1]["stride"], latent(weights, grids)
    y = np.pad(y, ((0, 0), (0, y.shape[1] % 2), (0, y.shape[2] % 2)), mode="edge")
    t = np.pi * quality / 100
    waves = [f(k * t) for k in (1, 2, 4) for f in (np.sin, np.cos)]
    embedding = relu(weights.layer("embedding.layers.0", np.array([quality / 100, *waves])))
    embedding = relu(weights.layer("embedding.layers.2", embedding))

    x = y / (weights.network("sigma")[: len(y)] + 0.05)[:, None, None]
    middle = relu(weights.mix("decoder_in", x))
    coarse = relu(weights.mix("down", gather(middle, 2)))
    coarse = weights.blocks("coarse_blocks", coarse, embedding)
    middle = weights.blocks(
        "middle_blocks", middle + spread(weights.mix("up", coarse), 2), embedding
    )
    fine = relu(spread(weights.mix("refine", middle), 2))
    fine = weights.blocks("fine_blocks", fine, embedding)
    picture: Floats = spread(weights.convolution("decoder_out", fine), stride // 2)
    klt = weights.network("klt")[: len(y)]
    picture += spread(np.tensordot(klt.T, y, 1), stride) + 0.5
    pixels: Floats = picture.clip(0, 1).transpose(1, 2, 0)[:height, :width] * 255
    return pixels
