"""One tile of a picture -> its index grids -> a stream for each part."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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


class Effort(NamedTuple):
    """How long the indices of a tile are searched.

    Attributes:
        steps: refinement steps; after at least one, the last choice goes by code lengths of the
            prior, else by marginal ones.
        beam: paths of the beam search in a refinement step.
        final_beam: paths of the beam search in the last choice.
    """

    steps: int
    beam: int
    final_beam: int


# By effort. MS-SSIM is no quadratic function, so it takes more steps: experiments 47, 51.
EFFORTS: dict[Tuning, tuple[Effort, ...]] = {
    "psnr": (Effort(0, 2, 16), Effort(3, 12, 48), Effort(8, 16, 64)),
    "ssim": (Effort(0, 2, 16), Effort(8, 12, 48), Effort(12, 16, 64)),
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
        quality: 0..100, continuous: sets lambda. The networks and the file have it rounded.
        effort: index into `EFFORTS`.
        levels: how many, from the first.
        progress: called with the share of the refinement steps that are done, 0..1.
    Returns:
        The entry in the part table and the stream of each part.
    """
    grids = _choose(model, rgb, tile, quality, EFFORTS[model.config.tune][effort], levels, progress)
    size = container.LEVELS_PER_PART
    parts = [grids[first : first + size] for first in range(0, levels, size)]
    streams = encode_grids(model.prior, grids, round(quality), size)
    return [
        (Part(len(stream), container.checksum_indices(part)), stream)
        for part, stream in zip(parts, streams, strict=True)
    ]


def _choose(
    model: Model,
    rgb: NDArray[np.uint8],
    tile: Tile,
    quality: float,
    effort: Effort,
    levels: int,
    progress: Callable[[float], None],
) -> list[IndexGrid]:
    """The search: index grids (h_l, w_l, S_l) of a tile with little error for their bits.

    The latent is refined, then its codes are chosen for the last time.
    """
    import torch

    from vqcodec.encoder.code_lengths import expected_lengths
    from vqcodec.encoder.perception import weights_for
    from vqcodec.encoder.refine import refine

    signalled, config, base = round(quality), model.config, model.config.base_stride
    # With some of the neighbouring tiles, or a step would take the tile's edge for the picture's.
    around = tile.window(MARGIN, config.strides[0], *config.padded(*rgb.shape[:2]))
    latent = windows.encode(model, rgb, around, signalled)
    picture = windows.pixels(model, rgb, around)
    weights = weights_for(config, picture)
    exact, rounded = torch.tensor([quality]), torch.tensor([signalled])
    bfloat16 = fast_bfloat16()  # as in training; then a step takes a third less time

    def decode(latent: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model.autoencoder.decode(latent, rounded)

    def refined(count: int) -> None:
        progress(count / (effort.steps + 1))

    search = (effort.steps, effort.beam, levels, weights, refined)
    latent = refine(model.quantizer, decode, latent, picture, exact, *search, keep_best=True)
    latent = windows.within(tile, around, latent, base)
    if weights is not None:
        weights = windows.within(tile, around, weights, base)
    choose = partial(model.quantizer, latent, exact, weights=weights)

    def first_choice(count: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = choose(levels=count, beam=effort.beam).grids
        return found

    lengths = expected_lengths(model, first_choice, exact, levels) if effort.steps else ()
    chosen = choose(levels=levels, beam=effort.final_beam, lengths=lengths)
    return [grid[0].numpy().astype(np.int32) for grid in chosen.grids]
