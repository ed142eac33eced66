"""A first look: one picture, compressed and decompressed at a few qualities."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vqcodec import codec, files
from vqcodec.picture import reading, writing
from vqcodec.picture.metrics import psnr_db
from vqcodec.picture.picture import to_pil
from vqcodec.training.drawings import draw

__all__ = ["Trial", "demo"]


@dataclass(frozen=True)
class Trial:
    """What one quality gave; times are of this process, the first one includes loading."""

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
        picture: drawn procedurally when None.
        force: overwrite what an earlier demo left there.
    Raises:
        OSError: a file is there already.
    """
    targets = [folder / f"q{q:g}{suffix}" for q in qualities for suffix in (".vqc", ".png")]
    for target in (folder / "original.png", *targets):
        files.check_target(str(target), force, new_folders=True)
    if picture is None:
        source = Image.fromarray(draw(np.random.default_rng(11), 512))
    else:
        source = to_pil(reading.read_picture(picture))
    original = writing.write_picture(reading.from_pil(source), ".png")
    files.write(str(folder / "original.png"), original, force, new_folders=True)
    reference = np.asarray(source.convert("RGB"))
    for quality in qualities:
        start = time.perf_counter()
        data = codec.compress(source, quality)
        middle = time.perf_counter()
        decoded = codec.decompress_picture(data)
        end = time.perf_counter()
        path = folder / f"q{quality:g}.vqc"
        png = writing.write_picture(decoded, ".png")
        files.write(str(path), data, force)
        files.write(str(path.with_suffix(".png")), png, force)
        yield Trial(
            quality=quality,
            num_bytes=len(data),
            bpp=8 * len(data) / (source.width * source.height),
            psnr_db=psnr_db(reference, decoded.rgb),
            encode_seconds=middle - start,
            decode_seconds=end - middle,
            path=path,
        )
