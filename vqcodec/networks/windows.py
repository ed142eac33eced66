"""The networks, a tile at a time: each reads a window as wide as its receptive field needs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Tile, split
from vqcodec.networks.model import Model
from vqcodec.picture.padding import pad
from vqcodec.resources import fast_bfloat16

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["decode", "encode", "needed", "pixels", "within"]

# Up to this quality the decoder may compute in bfloat16, which takes less than half of its time and
# costs 0.001 dB (0.02 dB at quality 100). Experiment 46.
BFLOAT16_QUALITY = 64


def pixels(model: Model, rgb: NDArray[np.uint8], box: Tile) -> "Tensor":
    """A box of a picture (H, W, 3) as (1, 3, h, w) in 0..1, padded to the coarsest stride."""
    import torch

    part = pad(rgb[box.top : box.bottom, box.left : box.right], model.config.strides[0])
    return torch.from_numpy(part).permute(2, 0, 1)[None].float() / 255


def encode(model: Model, rgb: NDArray[np.uint8], tile: Tile, quality: int) -> "Tensor":
    """Latent (1, D, h, w) of a tile of a picture (H, W, 3)."""
    import torch

    stride, base = model.config.strides[0], model.config.base_stride
    height, width = model.config.padded(*rgb.shape[:2])
    window = tile.window(model.config.encoder_reach, stride, height, width)
    with torch.no_grad():
        latent = model.autoencoder.encode(pixels(model, rgb, window), torch.tensor([quality]))
    return within(tile, window, latent, base)


def within(tile: Tile, window: Tile, array: "Tensor", cell: int) -> "Tensor":
    """The part (..., h, w) for a tile of what there is for a window around it.

    Args:
        cell: pixels per row and column of the array.
    """
    rows = slice((tile.top - window.top) // cell, (tile.bottom - window.top) // cell)
    cols = slice((tile.left - window.left) // cell, (tile.right - window.left) // cell)
    return array[..., rows, cols]


def decode(
    model: Model,
    grids: Sequence[NDArray[np.integer]],
    quality: int,
    height: int,
    width: int,
    box: Tile,
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    """Tiles of a picture that meet a box, with their samples (h, w, 3), padding included.

    Args:
        grids: (h_l, w_l, S_l) of the whole picture, of the first levels; only what lies in the
            windows is read.
        quality: 0..100, as signalled.
        height, width: of the whole picture, in pixels.
    """
    import torch

    signalled = torch.tensor([quality])
    rough = quality <= BFLOAT16_QUALITY and fast_bfloat16()
    precision = torch.autocast("cpu", torch.bfloat16, enabled=rough)
    for tile, window in _windows(model, height, width, box):
        with torch.no_grad():
            parts = [
                torch.from_numpy(_slice(grid, window, level.stride).astype(np.int64))[None]
                for grid, level in zip(grids, model.config.levels, strict=False)
            ]
            base = model.config.base_stride
            shape = (window.bottom - window.top) // base, (window.right - window.left) // base
            latent = model.quantizer.dequantize(parts, *shape)
            with precision:
                x = model.autoencoder.decode(latent, signalled)[0]
            top, left = tile.top - window.top, tile.left - window.left
            x = x[:, top : top + tile.bottom - tile.top, left : left + tile.right - tile.left]
            samples = x.clamp(0, 1).mul_(255).round_().to(torch.uint8)
        yield tile, samples.permute(1, 2, 0).numpy()


def needed(model: Model, height: int, width: int, box: Tile) -> list[Tile]:
    """The tiles whose indices show in a box.

    `decode` reads the windows of whole tiles, so that a region has the same samples as in the whole
    picture; but indices beyond the decoder's receptive field may be zero.
    """
    padded = model.config.padded(height, width)
    seen = box.window(model.config.decoder_reach, model.config.strides[0], *padded)
    return [tile for tile in split(height, width, model.config.strides[0]) if tile.meets(seen)]


def _windows(model: Model, height: int, width: int, box: Tile) -> Iterator[tuple[Tile, Tile]]:
    config = model.config
    # The decoder halves the latent's grid once: windows start where whole pictures' pairs do.
    step = max(config.strides[0], 2 * config.base_stride)
    padded = config.padded(height, width)
    for tile in split(height, width, config.strides[0]):
        if tile.meets(box):
            yield tile, tile.window(config.decoder_reach, step, *padded)


def _slice(grid: NDArray[np.integer], box: Tile, stride: int) -> NDArray[np.integer]:
    rows = slice(box.top // stride, box.bottom // stride)
    return grid[rows, box.left // stride : box.right // stride]
