"""Tiny models that the tests share: seeded, trained for a few steps, never shipped."""

from pathlib import Path

import pytest

from vqcodec import container, tiles
from vqcodec.config import Level, ModelConfig, PriorConfig

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


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A weights file of each tiny configuration, trained for a few steps on drawings."""
    from vqcodec import train

    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name, config in TINY.items():
        paths[name] = folder / f"{name}.safetensors"
        options = train.TrainOptions(
            output=paths[name], config=config, steps=60, batch=4, crop=64, prior_share=0.5
        )
        train.run(options, lambda record: None)
    return paths


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of at most 32 pixels on a side, so that a small picture has many."""
    for module in (container, tiles):
        monkeypatch.setattr(module, "TILE", 32)
    return 32
