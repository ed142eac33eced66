"""One tile of a picture -> its index grids -> a stream for each part."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.container import Part
from vqcodec.bitstream.tiles import Tile
from vqcodec.config import Tuning
from vqcodec.networks import windows
from vqcodec.networks.model import Model
from vqcodec.options import ignore
from vqcodec.prior.range_coder import IndexGrid, encode_grids
from vqcodec.resources import fast_bfloat16

__all__ = ["EFFORTS", "write_tile"]

# Per effort: refinement steps, paths followed up in these, and at last.
# With steps, the last choice goes by what the prior expects too, not by marginal lengths alone.
# MS-SSIM is no square, which a few steps would find the least of: experiments 47, 51.
EFFORTS: dict[Tuning, tuple[tuple[int, int, int], ...]] = {
    "psnr": ((0, 2, 16), (3, 12, 48), (8, 16, 64)),
    "ssim": ((0, 2, 16), (8, 12, 48), (12, 16, 64)),
}
MARGIN = 32  # pixels of the neighbouring tiles that a refinement step decodes


def write_tile(
    model: Model,
    rgb: NDArray[np.uint8],
    tile: Tile,
    quality: float,
    effort: int,
    levels: int,
    progress: Callable[[float], None] = ignore,
) -> list[tuple[Part, bytes]]:
    """Choose and code the indices of one tile of a picture (H, W, 3).

    Args:
        quality: 0..100, continuous: sets lambda; the networks and the file have it rounded.
        effort: 0, 1 or 2: more refinement steps, a wider search.
        levels: how many, from the first.
    Returns:
        The entry and the stream of each part.
    """
    import torch

    from vqcodec.encoder.code_lengths import expected_lengths
    from vqcodec.encoder.perception import weights_for
    from vqcodec.encoder.refine import refine

    signalled, config = round(quality), model.config
    # A step decodes some of the neighbours too, or it would take the tile's edge for the picture's.
    around = tile.window(MARGIN, config.strides[0], *config.padded(*rgb.shape[:2]))
    latent, picture = (
        windows.encode(model, rgb, around, signalled),
        windows.pixels(model, rgb, around),
    )
    weights = weights_for(config, picture)
    steps, rough, beam = EFFORTS[config.tune][effort]
    exact, rounded = torch.tensor([quality]), torch.tensor([signalled])
    bfloat16 = fast_bfloat16()  # as in training; then a step takes a third less time

    def decode(latent: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model.autoencoder.decode(latent, rounded)

    def refined(count: int) -> None:
        progress(count / (steps + 1))

    search = (steps, rough, levels, weights, refined)
    latent = refine(model.quantizer, decode, latent, picture, exact, *search, safe=True)
    base = config.base_stride
    latent = windows.within(tile, around, latent, base)
    if weights is not None:
        weights = windows.within(tile, around, weights, base)
    choose = partial(model.quantizer, latent, exact, weights=weights)

    def roughly(count: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = choose(levels=count, beam=rough).grids
        return found

    lengths = expected_lengths(model, roughly, exact, levels) if steps else ()
    chosen = choose(levels=levels, beam=beam, lengths=lengths)
    grids: list[IndexGrid] = [grid[0].numpy().astype(np.int32) for grid in chosen.grids]
    each = container.LEVELS_PER_PART
    parts = [grids[first : first + each] for first in range(0, levels, each)]
    return [
        (Part(len(stream), container.checksum_indices(part)), stream)
        for part, stream in zip(
            parts, encode_grids(model.prior, grids, signalled, each), strict=True
        )
    ]
