"""What several test modules share: tiny configurations, and where things lie."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec import models
from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.decoder import grids
from vqcodec.options import DecodeOptions, ignore
from vqcodec.prior.arithmetic import Arithmetic, fastest
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.wavefront_scan import scan_known

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
DOCS = TESTS.parent / "docs"

TINY = {
    "vq-vae": ModelConfig(
        name="tiny-vq-vae",
        levels=(Level(8, 16),),
        latent_dims=(12,),
        prior=PriorConfig(channels=(8,), layers=2),
        encoder=(8, 1),
        decoder=((8, 1), (8, 1), (8, 1)),
    ),
    "vq-vae-2": ModelConfig(
        name="tiny-vq-vae-2",
        levels=(Level(16, 16), Level(8, 16, slices=3)),
        latent_dims=(16, 12),
        prior=PriorConfig(channels=(8, 6), layers=2),
        encoder=(8, 1),
        decoder=((8, 1), (8, 1), (8, 1)),
    ),
    "residual": ModelConfig(
        name="tiny-residual",
        levels=(
            *(Level(16, 32), Level(16, 32)),
            *(Level(8, 16, slices=2), Level(8, 16)),
            Level(4, 8, slices=3),
        ),
        latent_dims=(24, 16, 12),
        prior=PriorConfig(channels=(8, 8, 6), layers=2),
        encoder=(8, 1),
        decoder=((8, 1), (8, 1), (8, 1)),
    ),
}


def same_weights(a: Path, b: Path) -> bool:
    first, second = models.Model(a).tensors, models.Model(b).tensors
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def read_grids(
    data: bytes,
    *,
    progress: Callable[[float], None] = ignore,
    arithmetic: Callable[[], Arithmetic] = fastest,
    **options: Any,
) -> grids.Grids:
    """`decoder.grids.read_grids` with the fields of `DecodeOptions` as keywords."""
    asked = DecodeOptions(**options)
    return grids.read_grids(data, asked, progress=progress, arithmetic=arithmetic)


def cross_entropy_bits(
    prior: IntegerPrior, grids: Sequence[NDArray[np.integer[Any]]], quality: int
) -> list[float]:
    """Ideal code length of each level (batch, h, w, S) in bits, summed over the batch."""
    bits = [0.0] * len(grids)
    for step, indices in scan_known(prior, grids, quality):
        chosen = step.frequencies[np.arange(len(indices)), indices]
        lengths = -np.log2(chosen / 2**24)
        for wavefront in step.wavefronts:
            bits[wavefront.level] += float(lengths[wavefront.indices].sum())
    return bits
