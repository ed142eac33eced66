"""The payload of a file -> the index grids of its picture, tile by tile."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqcodec import models
from vqcodec.bitstream import container
from vqcodec.bitstream.container import Container
from vqcodec.bitstream.tiles import Tile
from vqcodec.decoder.workers import Reader, read_tiles
from vqcodec.errors import CorruptChunk, RegionError
from vqcodec.networks import windows
from vqcodec.networks.model import Model
from vqcodec.options import DecodeOptions, ignore
from vqcodec.prior.arithmetic import Arithmetic, fastest

__all__ = ["Grids", "read_grids"]

HOPELESS = 16  # tiles of a damaged file without a single sound part, after which we give up


@dataclass(frozen=True)
class Grids:
    """What a `.vqc` file holds, entropy-decoded and checked: all but the pixels.

    Attributes:
        box: the part of the picture that was asked for.
        grids: (h_l, w_l, S_l) per decoded level, coarse first, of the whole picture; zero, which
            adds nothing, where a tile was not needed, has not arrived or is damaged.
        damaged: how many tiles have parts that arrived and are not what was written.
    """

    container: Container
    model: Model
    box: Tile
    grids: list[NDArray[np.uint16]]
    damaged: int


def read_grids(
    data: bytes,
    options: DecodeOptions = DecodeOptions(),
    *,
    progress: Callable[[float], None] = ignore,
    arithmetic: Callable[[], Arithmetic] = fastest,
) -> Grids:
    """Parse a file, find its model, decode the index grids and check them; needs no torch.

    Args:
        options: with `partial`, each tile gives the levels before the first part that did not
            arrive or does not match its check; tiles that `region` does not need are not decoded.
        progress: called with the share of the tiles that are done, 0..1.
        arithmetic: gives what the prior is calculated in, as in `workers.Reader`.
    Raises:
        BitstreamError, ModelError, RegionError: as `codec.decompress`.
    """
    parsed = container.parse(data, partial=options.partial, max_pixels=options.max_pixels)
    box = _box_of(parsed, options.region)
    loaded = models.find(parsed.model_id, options.model)
    specs = loaded.config.levels
    if parsed.level_count > len(specs):
        raise CorruptChunk(b"header", 0, f"{parsed.level_count} levels, model has {len(specs)}")
    count = min(options.levels or len(specs), parsed.level_count)
    size = parsed.height, parsed.width
    grids: list[NDArray[np.uint16]] = []
    tiles = windows.needed(loaded, *size, box)
    most, damaged = 0, 0
    reader = Reader(data, parsed, loaded, count, options.partial, arithmetic)
    with closing(read_tiles(reader, tiles, options.workers)) as found:
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
            progress((done + 1) / len(tiles))
    if most == 0:
        raise CorruptChunk(b"payload", len(data), "not even the first part of a tile is there")
    return Grids(parsed, loaded, box, grids[:most], damaged)


def _zeros(loaded: Model, size: tuple[int, int], count: int) -> list[NDArray[np.uint16]]:
    shapes = loaded.config.grid_shapes(*size)[:count]
    return [
        np.zeros((*shape, spec.slices), np.uint16)
        for shape, spec in zip(shapes, loaded.config.levels, strict=False)
    ]


def _box_of(parsed: Container, region: tuple[int, int, int, int] | None) -> Tile:
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
