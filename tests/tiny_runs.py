"""Training runs of a few steps, for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import TINY

from vqcodec.training.run import TrainOptions


def tiny_options(tmp_path: Path, **changes: Any) -> TrainOptions:
    base = TrainOptions(
        output=tmp_path / "w.safetensors",
        config=TINY["vq-vae-2"],
        steps=120,
        batch=4,
        crop=64,
        prior_share=0.5,
        encoder_share=0.0,
        drawings=64,
        samples=40,
    )
    return replace(base, **changes)
