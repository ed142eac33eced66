"""windows.py: tile by tile, the networks make what they make of the whole picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY
from numpy.typing import NDArray

from vqcodec.bitstream import tiles
from vqcodec.bitstream.tiles import Tile
from vqcodec.config import ModelConfig
from vqcodec.networks import windows
from vqcodec.networks.autoencoder import Autoencoder, ResidualBlock
from vqcodec.networks.model import Model
from vqcodec.networks.quantizer import Quantizer
from vqcodec.picture.padding import pad

# Blocks at every scale of the decoder and none; the coarsest stride is the base stride, or not.
CONFIGS = {
    **TINY,
    "deep": replace(TINY["vq-vae"], encoder=(8, 3), decoder=((8, 2), (8, 3), (8, 2))),
    "shallow": replace(TINY["vq-vae-2"], encoder=(8, 0), decoder=((8, 0), (8, 0), (8, 0))),
}
SIZES = [(100, 70), (33, 129), (1, 150), (97, 8)]  # height, width
QUALITY = 70


class Loud(Model):
    """Random networks that say as much in their branches as in their block transforms.

    Margins that are too narrow would hardly show in a model that was trained for a few steps.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network, quantizer = Autoencoder(config), Quantizer(config)
            for module in network.modules():
                if isinstance(module, ResidualBlock):
                    torch.nn.init.normal_(module.second.weight, std=0.15)
            torch.nn.init.normal_(network.encoder_out.weight, std=0.1)
            torch.nn.init.normal_(network.decoder_out.weight, std=0.03)
            for level in range(len(config.levels)):
                quantizer.buffer("codebook", level).normal_(std=0.3)[:, 0] = 0
        self.__dict__["autoencoder"] = network.eval().requires_grad_(False)
        self.__dict__["quantizer"] = quantizer.eval()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    return Loud(CONFIGS[request.param])


def random_grids(model: Model, height: int, width: int) -> list[NDArray[np.uint16]]:
    rng, config = np.random.default_rng(0), model.config
    return [
        rng.integers(0, spec.codebook_size, (*shape, spec.slices), dtype=np.uint16)
        for shape, spec in zip(config.grid_shapes(height, width), config.levels, strict=True)
    ]


def random_picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decode_whole(model: Model, grids: list[NDArray[np.uint16]]) -> NDArray[np.uint8]:
    """The padded picture, in one piece."""
    tensors = [torch.from_numpy(grid.astype(np.int64))[None] for grid in grids]
    latent = model.quantizer.dequantize(tensors, *grids[-1].shape[:2])
    x = model.autoencoder.decode(latent, torch.tensor([QUALITY]))[0].clamp(0, 1)
    return (255 * x).round().to(torch.uint8).permute(1, 2, 0).numpy()


def decode_tiles(
    model: Model, grids: list[NDArray[np.uint16]], size: tuple[int, int], box: Tile | None = None
) -> NDArray[np.uint8]:
    """The padded picture, tile by tile; zero in tiles that do not meet the box."""
    stride, box = model.config.strides[0], box or Tile(0, 0, 0, *size)
    height, width = (-(-side // stride) * stride for side in size)
    canvas, seen = np.zeros((height, width, 3), np.uint8), []
    for tile, samples in windows.decode(model, grids, QUALITY, *size, box):
        canvas[tile.top : tile.bottom, tile.left : tile.right] = samples
        seen.append(tile)
    assert seen == [tile for tile in tiles.split(*size, stride) if tile.meets(box)]
    return canvas


def same_pixels(got: NDArray[np.uint8], want: NDArray[np.uint8]) -> bool:
    """Equal but for sums in another order: half a value may be rounded up or down."""
    distance = np.abs(got.astype(int) - want.astype(int))
    return bool(distance.max() <= 1 and (distance > 0).mean() < 1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_decoding_has_no_seams(model: Model, small_tiles: int, size: tuple[int, int]) -> None:
    grids = random_grids(model, *size)
    assert len(tiles.split(*size, model.config.strides[0])) > 3
    assert same_pixels(decode_tiles(model, grids, size), decode_whole(model, grids))
    first = [grids[0], *(np.zeros_like(grid) for grid in grids[1:])]  # code 0 adds nothing
    assert same_pixels(decode_tiles(model, grids[:1], size), decode_whole(model, first))


def test_decoding_has_no_seams_between_tiles_of_full_size(model: Model) -> None:
    size = 40, 1100
    grids = random_grids(model, *size)
    assert len(tiles.split(*size, model.config.strides[0])) == 2
    assert same_pixels(decode_tiles(model, grids, size), decode_whole(model, grids))


@pytest.mark.parametrize("size", SIZES)
def test_encoding_has_no_seams(model: Model, small_tiles: int, size: tuple[int, int]) -> None:
    rgb = random_picture(*size)
    stride, base = model.config.strides[0], model.config.base_stride
    whole = torch.from_numpy(pad(rgb, stride)).permute(2, 0, 1)[None].float() / 255
    want = model.autoencoder.encode(whole, torch.tensor([QUALITY]))
    got = torch.full_like(want, torch.nan)
    for tile in tiles.split(*size, stride):
        rows, cols = (
            slice(tile.top // base, tile.bottom // base),
            slice(tile.left // base, tile.right // base),
        )
        got[:, :, rows, cols] = windows.encode(model, rgb, tile, QUALITY)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_without_margins_there_would_be_seams(
    model: Model, small_tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the tests above can fail."""
    if model.config == CONFIGS["shallow"]:
        pytest.skip("sees next to nothing of its neighbours")
    grids = random_grids(model, 100, 70)
    monkeypatch.setattr(ModelConfig, "decoder_reach", 0)
    assert not same_pixels(decode_tiles(model, grids, (100, 70)), decode_whole(model, grids))


def test_reach_is_as_far_as_the_networks_see(model: Model) -> None:
    """Everything that a pixel, or a latent vector, depends on lies within reach of it."""
    config, signalled = model.config, torch.tensor([QUALITY])
    base, cells = config.base_stride, 64
    middle = base * cells // 2
    latent = torch.randn(1, config.latent_dims[-1], 2, cells, requires_grad=True)
    farthest = 0
    for x in range(middle, middle + 2 * base):  # one cell of the decoder's coarsest grid
        pixel = model.autoencoder.decode(latent, signalled)[0, :, 0, x].sum()
        (gradient,) = torch.autograd.grad(pixel, latent)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        first, last = base * int(seen.min()), base * int(seen.max()) + base - 1
        farthest = max(farthest, x - first, last - x)
        assert middle // base % 2 == 0
    # A window holds whole cells, of which it needs one pixel each.
    assert config.decoder_reach - 2 * base < farthest - base + 1 <= config.decoder_reach
    picture = torch.rand(1, 3, base, base * cells, requires_grad=True)
    vector = model.autoencoder.encode(picture, signalled)[0, :, 0, cells // 2].sum()
    (gradient,) = torch.autograd.grad(vector, picture)
    seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
    farthest = max(middle - int(seen.min()), int(seen.max()) - (middle + base - 1))
    # A ReLU may be closed on the outermost path.
    assert config.encoder_reach - 2 * base < farthest <= config.encoder_reach


def test_pixels_are_padded_like_the_picture() -> None:
    model = Loud(TINY["vq-vae-2"])
    rgb = random_picture(37, 21)
    whole = windows.pixels(model, rgb, Tile(0, 0, 0, 48, 32))
    want = pad(rgb, 16).transpose(2, 0, 1)
    np.testing.assert_allclose(whole[0].numpy(), want / 255, atol=1e-6)
    corner = windows.pixels(model, rgb, Tile(0, 32, 16, 48, 32))
    assert corner.equal(whole[:, :, 32:, 16:])


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (40, 66, 41, 67), (31, 31, 33, 33), (0, 0, 100, 1)])
def test_only_needed_tiles_are_read(
    model: Model, small_tiles: int, box: tuple[int, int, int, int]
) -> None:
    size, config, tile = (100, 400), model.config, Tile(0, *box)
    needed = windows.needed(model, *size, tile)
    everything = tiles.split(*size, config.strides[0])
    assert {t for t in everything if t.meets(tile)} <= set(needed)
    assert len(needed) < len(everything)
    assert windows.needed(model, *size, Tile(0, 0, 0, *size)) == everything
    grids = random_grids(model, *size)
    inside = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
    want = decode_tiles(model, grids, size, tile)[inside]
    for other in everything:
        if other not in needed:
            for grid, spec in zip(grids, config.levels, strict=True):
                rows = slice(other.top // spec.stride, other.bottom // spec.stride)
                grid[rows, other.left // spec.stride : other.right // spec.stride] = 0
    np.testing.assert_array_equal(decode_tiles(model, grids, size, tile)[inside], want)
