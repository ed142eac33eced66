"""The bytes of a file -> its picture."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.container import ALPHA, EXIF, ICC, XMP
from vqcodec.bitstream.tiles import Tile
from vqcodec.decoder.grids import Grids, read_grids
from vqcodec.networks import windows
from vqcodec.networks.model import Model
from vqcodec.options import Callbacks, DecodeOptions
from vqcodec.picture import opacity
from vqcodec.picture.picture import Picture
from vqcodec.prior.arithmetic import fastest_with_torch

__all__ = ["decode_picture", "reconstruct"]

OF_GRIDS = 0.7  # share of the progress for entropy decoding; the rest is for the network
ROWS = 64  # of a grey picture averaged at once: bounds memory


def decode_picture(data: bytes, options: DecodeOptions, callbacks: Callbacks) -> Picture:
    """The picture in a `.vqc` file.

    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
        RegionError: the region is not inside the picture.
    """
    found = read_grids(
        data,
        options,
        progress=lambda share: callbacks.progress(OF_GRIDS * share),
        arithmetic=fastest_with_torch,
    )
    parsed = found.container
    for loss in _losses(found):
        callbacks.notes(loss)
    box, size = found.box, (parsed.height, parsed.width)
    rgb = reconstruct(found.model, found.grids, parsed.quality, size, box)
    if parsed.grey:
        _make_grey(rgb)
    alpha = None
    if (data_of_alpha := parsed.chunk(ALPHA)) is not None:
        alpha = opacity.decode(data_of_alpha, parsed.width, parsed.height)
        alpha = alpha[box.top : box.bottom, box.left : box.right]
        alpha = None if (alpha == 255).all() else alpha  # a part may be opaque where others are not
    return Picture(
        rgb=rgb,
        grey=parsed.grey,
        alpha=alpha,
        icc=parsed.chunk(ICC),
        exif=parsed.chunk(EXIF),
        xmp=parsed.chunk(XMP),
    )


def reconstruct(
    model: Model,
    grids: Sequence[NDArray[np.integer[Any]]],
    quality: int,
    size: tuple[int, int],
    box: Tile,
) -> NDArray[np.uint8]:
    """Index grids -> samples (h, w, 3) of a box of the picture, by the decoder network.

    Args:
        grids: (h_l, w_l, S_l) of the whole picture, of the first levels.
        quality: 0..100, as signalled.
        size: (height, width) of the whole picture in pixels.
    """
    rgb = np.empty((box.bottom - box.top, box.right - box.left, 3), np.uint8)
    for tile, samples in windows.decode(model, grids, quality, *size, box):
        top, left = max(tile.top, box.top), max(tile.left, box.left)
        bottom, right = min(tile.bottom, box.bottom), min(tile.right, box.right)
        inside = samples[top - tile.top : bottom - tile.top, left - tile.left : right - tile.left]
        rgb[top - box.top : bottom - box.top, left - box.left : right - box.left] = inside
    return rgb


def _make_grey(rgb: NDArray[np.uint8]) -> None:
    """Set the channels (H, W, 3), which are almost equal, to their mean, rounded."""
    for top in range(0, len(rgb), ROWS):
        rows = rgb[top : top + ROWS]
        rows[:] = ((rows.sum(2, dtype=np.uint16) + 1) // 3)[..., None]


def _losses(found: Grids) -> Iterator[str]:
    """What a cut or damaged file has lost, in sentences."""
    parsed = found.container
    if parsed.levels_present < parsed.level_count:
        arrived = f"{parsed.levels_present} of {parsed.level_count} levels arrived whole"
        yield f"the file was cut: {arrived}"
    if found.damaged:
        tiles = container.tile_count(parsed.width, parsed.height)
        yield f"{found.damaged} of {tiles} tiles are damaged: coarser than they were, or grey"
    elif not parsed.verified and parsed.levels_present == parsed.level_count:
        yield "the payload's checksum is wrong, but all that was decoded is right"
    for kind in parsed.lost:
        yield f"its {kind.decode()} is lost"
    if parsed.surplus:
        yield f"{parsed.surplus} bytes after the end of the file were ignored"
