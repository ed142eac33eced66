"""Tiny models that the tests share: seeded, trained for a few steps, never shipped."""

import os
from pathlib import Path

import pytest
from helpers import TINY

from vqcodec import limits
from vqcodec.options import ignore
from vqcodec.resources import wait_passively

wait_passively()  # before torch loads: spinning threads slow a busy machine down
# For networks as small as those here, one thread is twice as fast; some tests ask for more.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A weights file of each tiny configuration, trained for a few steps on drawings."""
    from tiny_runs import tiny_options

    from vqcodec.training import train

    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name, config in TINY.items():
        paths[name] = folder / f"{name}.safetensors"
        options = tiny_options(folder, output=paths[name], config=config, steps=60)
        train.run(options, ignore)
    return paths


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of at most 32 pixels on a side, so that a small picture has many."""
    monkeypatch.setattr(limits, "TILE", 32)
    return 32
