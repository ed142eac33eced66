"""Make the golden files anew: `python tests/golden/regenerate.py [tiny|photo|photo-ssim]`, or all.

Only for as long as the format is version 0. From 1.0 on golden files are never made again: a change
that breaks one is a new format version.
"""

import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent / "v0"
sys.path.insert(0, str(Path(__file__).parents[1]))


def picture(width: int, height: int) -> Image.Image:
    """A photo-like drawing."""
    from vqcodec.training.drawings import draw

    return Image.fromarray(draw(np.random.default_rng(2), max(width, height))[:height, :width])


def index_hash(data: bytes, model: str) -> str:
    """SHA-256 of all decoded indices, little-endian int32, level after level."""
    from vqcodec.decoder.grids import read_grids
    from vqcodec.options import DecodeOptions

    grids = read_grids(data, DecodeOptions(model=model)).grids
    return sha256(b"".join(grid.astype("<i4").tobytes() for grid in grids)).hexdigest()


def tiny_weights() -> None:
    """A model of five levels and three strides, small enough to commit."""
    from helpers import TINY

    from vqcodec import models
    from vqcodec.training import train

    path = HERE / "tiny.safetensors"
    config = replace(TINY["residual"], name="tiny")
    options = train.TrainOptions(path, config=config, steps=600, batch=4, crop=64, prior_share=0.5)
    train.run(options, lambda record: None)
    model = models.Model(path)
    state = {k: v for k, v in model.tensors.items() if not k.startswith("training.")}
    models.save(path, config, state, {"note": "for the tests"}, model.probe)
    for suffix in (".jsonl", ".checkpoint"):
        path.with_name(path.name + suffix).unlink()


def write(name: str, model: str, size: tuple[int, int], quality: float) -> None:
    from vqcodec import codec

    data = codec.compress(picture(*size), quality, model=model)
    (HERE / f"{name}.vqc").write_bytes(data)
    (HERE / f"{name}.json").write_text(json.dumps({"indices": index_hash(data, model)}) + "\n")


def write_bad() -> None:
    """Broken versions of the tiny file, named after fault and exception."""
    from vqcodec.bitstream import container

    good, bad = (HERE / "tiny.vqc").read_bytes(), HERE.parent / "bad"
    stranger = replace(container.parse(good), model_id=bytes(4))
    files = {
        "empty-NotVqcodecFile": b"",
        "text-NotVqcodecFile": b"not a picture at all\n",
        "newer-UnsupportedVersion": good[:4] + b"\x7f" + good[5:],
        "header-cut-CorruptChunk": good[:12],
        "payload-cut-CorruptChunk": good[:-9],
        "payload-flipped-CorruptChunk": good[:-6] + bytes([good[-6] ^ 4]) + good[-5:],
        "trailing-CorruptChunk": good + b"\0",
        "stranger-ModelError": container.pack(stranger),
    }
    bad.mkdir(exist_ok=True)
    for name, data in files.items():
        (bad / f"{name}.vqc").write_bytes(data)


def main(what: str) -> None:
    if what in ("tiny", "all"):
        tiny_weights()
        write("tiny", str(HERE / "tiny.safetensors"), (53, 38), 64)
        write("tiny-tiles", str(HERE / "tiny.safetensors"), (1043, 17), 70)
        write_bad()
    for model, qualities in (("photo", (10, 50, 90)), ("photo-ssim", (50,))):
        for quality in qualities if what in (model, "all") else ():
            write(f"{model}-q{quality}", model, (150, 100), quality)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all")
