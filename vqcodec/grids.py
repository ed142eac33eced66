"""Index grids of a picture <-> the payload of its file, tile by tile."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vqcodec import container, registry, windows
from vqcodec.coder import IndexGrid, encode_grids
from vqcodec.config import Tuning
from vqcodec.container import MAX_PIXELS, Container, Part
from vqcodec.errors import CorruptChunk, RegionError
from vqcodec.products import Carrier, fastest
from vqcodec.readers import Reader, read_tiles
from vqcodec.registry import Model
from vqcodec.resources import fast_bfloat16
from vqcodec.tiles import Tile

__all__ = ["Grids", "read_grids", "write_tile"]

# Per effort: looks at what the choice so far decodes to, paths followed up in these, and at last.
# With looks, the last choice goes by what the prior expects too, not by marginal lengths alone.
# MS-SSIM is no square, which a few steps would find the least of: experiments 47, 51.
EFFORTS: dict[Tuning, tuple[tuple[int, int, int], ...]] = {
    "psnr": ((0, 2, 16), (3, 12, 48), (8, 16, 64)),
    "ssim": ((0, 2, 16), (8, 12, 48), (12, 16, 64)),
}
MARGIN = 32  # pixels of the neighbouring tiles that a look decodes


def write_tile(
    model: Model,
    rgb: NDArray[np.uint8],
    tile: Tile,
    quality: float,
    effort: int,
    levels: int,
    progress: Callable[[float], None] | None = None,
) -> list[tuple[Part, bytes]]:
    """Choose and code the indices of one tile of a picture (H, W, 3).

    Args:
        quality: 0..100, continuous: sets lambda; the networks are told it rounded.
        effort: 0, 1 or 2: more looks at what the indices decode to, a wider search.
        levels: how many, from the first.
    Returns:
        The entry and the stream of each part.
    """
    import torch

    from vqcodec.lengths import expected_lengths
    from vqcodec.perception import weights_for
    from vqcodec.refine import refine

    told, config = round(quality), model.config
    # A look decodes some of the neighbours too, or it would take the tile's edge for the picture's.
    around = tile.window(MARGIN, config.strides[0], *config.padded(*rgb.shape[:2]))
    latent, picture = windows.encode(model, rgb, around, told), windows.pixels(model, rgb, around)
    weights = weights_for(config, picture)
    looks, rough, beam = EFFORTS[config.tune][effort]
    exact, rounded = torch.tensor([quality]), torch.tensor([told])
    bfloat16 = fast_bfloat16()  # as in training; then a look takes a third less time

    def decode(latent: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model.autoencoder.decode(latent, rounded)

    def looked(count: int) -> None:
        if progress:
            progress(count / (looks + 1))

    search = (looks, rough, levels, weights, looked)
    latent = refine(model.quantizer, decode, latent, picture, exact, *search, safe=True)
    base = config.base_stride
    latent = windows.within(tile, around, latent, base)
    if weights is not None:
        weights = windows.within(tile, around, weights, base)
    choose = partial(model.quantizer, latent, exact, weights=weights)

    def roughly(count: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = choose(levels=count, beam=rough).grids
        return found

    lengths = expected_lengths(model, roughly, exact, levels) if looks else ()
    chosen = choose(levels=levels, beam=beam, lengths=lengths)
    grids: list[IndexGrid] = [grid[0].numpy().astype(np.int32) for grid in chosen.grids]
    step = container.LEVELS_PER_PART
    parts = [grids[first : first + step] for first in range(0, levels, step)]
    return [
        (Part(len(stream), container.checksum_indices(part)), stream)
        for part, stream in zip(parts, encode_grids(model.prior, grids, told, step), strict=True)
    ]


HOPELESS = 16  # tiles of a damaged file without a single sound part, after which we give up


@dataclass(frozen=True)
class Grids:
    """What a `.vqc` file holds, entropy-decoded and checked: all but the pixels.

    grids: (h_l, w_l, S_l) per decoded level, coarse first, of the whole picture; zero, which adds
        nothing, where a tile was not asked for, has not arrived or is damaged.
    damaged: how many tiles have parts that arrived and are not what was written.
    """

    container: Container
    model: Model
    grids: list[NDArray[np.uint16]]
    damaged: int


def read_grids(
    data: bytes,
    *,
    levels: int | None = None,
    partial: bool = False,
    model: str | None = None,
    region: tuple[int, int, int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
    progress: Callable[[float], None] | None = None,
    carrier: Callable[[], Carrier] = fastest,
) -> Grids:
    """Parse a file, find its model, decode the index grids and check them; needs no torch.

    Args:
        partial: of a cut or damaged file take what there is: of each tile the levels before the
            first part that did not arrive or does not match its check.
        region: (x, y, width, height); tiles that it does not need are not decoded.
        max_pixels: refuse larger pictures.
        workers: how many processes read tiles, as of `readers.read_tiles`.
        carrier: as of `readers.Reader`.
    Raises:
        BitstreamError, ModelError, RegionError, ValueError: as `codec.decompress`.
    """
    if levels is not None and levels < 1:
        raise ValueError(f"levels {levels} out of range")
    parsed = container.parse(data, partial=partial, max_pixels=max_pixels)
    loaded = registry.find(parsed.model_id, model)
    specs = loaded.config.levels
    if parsed.level_count > len(specs):
        raise CorruptChunk(b"header", 0, f"{parsed.level_count} levels, model has {len(specs)}")
    count, size = min(levels or len(specs), parsed.level_count), (parsed.height, parsed.width)
    grids: list[NDArray[np.uint16]] = []
    tiles = windows.needed(loaded, *size, box_of(parsed, region))
    most, damaged = 0, 0
    reader = Reader(data, parsed, loaded, count, partial, carrier)
    with closing(read_tiles(reader, tiles, workers)) as found:
        for done, (decoded, sound) in enumerate(found):
            damaged += not sound
            if damaged == HOPELESS and most == 0:
                break  # forged, or for another model
            if decoded and not grids:  # not earlier: anyone can write a large size into a header
                grids = _zeros(loaded, size, count)
            for grid, part, spec in zip(grids, decoded, specs, strict=False):
                top, left = tiles[done].top // spec.stride, tiles[done].left // spec.stride
                grid[top : top + part.shape[0], left : left + part.shape[1]] = part
            most = max(most, len(decoded))
            if progress:
                progress((done + 1) / len(tiles))
    if most == 0:
        raise CorruptChunk(b"payload", len(data), "not even the first part of a tile is there")
    return Grids(parsed, loaded, grids[:most], damaged)


def _zeros(loaded: Model, size: tuple[int, int], count: int) -> list[NDArray[np.uint16]]:
    shapes = loaded.config.grid_shapes(*size)[:count]
    return [
        np.zeros((*shape, spec.slices), np.uint16)
        for shape, spec in zip(shapes, loaded.config.levels, strict=False)
    ]


def box_of(parsed: Container, region: tuple[int, int, int, int] | None) -> Tile:
    """The part of a picture that is asked for.

    Raises:
        RegionError: it does not lie inside the picture.
    """
    x, y, width, height = region or (0, 0, parsed.width, parsed.height)
    if not (0 <= x < x + width <= parsed.width and 0 <= y < y + height <= parsed.height):
        raise RegionError(
            f"region {x},{y},{width},{height} is not inside {parsed.width} x {parsed.height}"
        )
    return Tile(0, y, x, y + height, x + width)
