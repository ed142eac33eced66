"""A first try: one picture, compressed and decompressed at a few qualities."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from vqcodec import codec, files
from vqcodec.picture import reading, writing
from vqcodec.picture.metrics import psnr_db
from vqcodec.picture.picture import to_pil

__all__ = ["Trial", "demo"]

PHOTOGRAPH = "coffee.jpg"  # by Rachel Michetti, CC0; see coffee.txt


@dataclass(frozen=True)
class Trial:
    """What one quality gave; the seconds are those of coding alone, with the networks loaded."""

    quality: float
    num_bytes: int
    bpp: float
    psnr_db: float
    encode_seconds: float
    decode_seconds: float
    path: Path


def demo(
    folder: Path,
    picture: Path | None = None,
    qualities: tuple[float, ...] = (20, 50, 80),
    force: bool = False,
) -> Iterator[Trial]:
    """Write the picture, the `.vqc` files and what they decode to into a folder.

    Args:
        folder: made if it is not there.
        picture: None takes the photograph that comes with vqcodec.
        force: overwrite what an earlier demo left there.
    Raises:
        ImageError: the picture cannot be read.
        OSError: a file is there already.
    """
    targets = [folder / f"q{q:g}{suffix}" for q in qualities for suffix in (".vqc", ".png")]
    for target in (folder / "original.png", *targets):
        files.check_target(str(target), force, new_folders=True)
    source = to_pil(reading.read_picture(picture or photograph()))
    original = writing.write_picture(reading.from_pil(source), ".png")
    files.write(str(folder / "original.png"), original, force, new_folders=True)
    codec.decompress(codec.compress(Image.new("RGB", (8, 8))))  # loads the networks
    for quality in qualities:
        yield try_quality(source, quality, folder / f"q{quality:g}.vqc", force)


def photograph() -> bytes:
    return resources.files("vqcodec.cli").joinpath(PHOTOGRAPH).read_bytes()


def try_quality(source: Image.Image, quality: float, path: Path, force: bool) -> Trial:
    """Write the `.vqc` file of one quality to `path`, and what it decodes to beside it."""
    start = time.perf_counter()
    data = codec.compress(source, quality)
    middle = time.perf_counter()
    decoded = codec.decompress_picture(data)
    end = time.perf_counter()
    files.write(str(path), data, force)
    files.write(str(path.with_suffix(".png")), writing.write_picture(decoded, ".png"), force)
    return Trial(
        quality=quality,
        num_bytes=len(data),
        bpp=8 * len(data) / (source.width * source.height),
        psnr_db=psnr_db(np.asarray(source.convert("RGB")), decoded.rgb),
        encode_seconds=middle - start,
        decode_seconds=end - middle,
        path=path,
    )
