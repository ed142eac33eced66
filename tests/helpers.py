"""What several test modules share: tiny configurations, and where things lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vqcodec import models
from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.decoder import grids
from vqcodec.options import DecodeOptions, ignore
from vqcodec.prior.arithmetic import Arithmetic, fastest

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
