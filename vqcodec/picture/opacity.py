"""Opacity planes as they are stored in a `.vqc` file: small lossless picture files."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, features

from vqcodec.errors import CorruptChunk, ImageError
from vqcodec.picture import pillow
from vqcodec.picture.picture import UInt8Array

__all__ = ["decode", "encode"]

_MAX_WEBP_SIDE: Final = 16383
_MAX_WEBP_PIXELS: Final = 2**22  # decoding WebP takes 20 bytes of memory for each


def encode(alpha: UInt8Array) -> bytes:
    """An (H, W) opacity plane as a lossless WebP or PNG file, whichever is smaller."""
    plane = Image.fromarray(alpha)
    bilevel = bool(((alpha == 0) | (alpha == 255)).all())
    files = [pillow.saved(plane.convert("1") if bilevel else plane, "PNG", optimize=True)]
    small = max(plane.size) <= _MAX_WEBP_SIDE and alpha.size <= _MAX_WEBP_PIXELS
    if small and features.check("webp"):
        files.append(pillow.saved(plane, "WEBP", lossless=True))
    return min(files, key=len)


def decode(data: bytes, width: int, height: int) -> UInt8Array:
    """The (height, width) opacity plane that `encode` wrote.

    Raises:
        CorruptChunk: not such a file, damaged, or of another size, which is checked before the
            samples are decoded.
    """
    try:
        with (
            pillow.errors("opacity plane"),
            pillow.open_file(data, ("PNG", "WEBP")) as image,
        ):
            if image.size != (width, height):
                raise ImageError(f"{image.size} samples instead of {(width, height)}")
            if image.mode not in ("1", "L", "RGB"):
                raise ImageError(f"mode {image.mode} instead of grey")
            pillow.load(image)
            return np.array(image.convert("L") if image.mode == "1" else image.getchannel(0))
    except ImageError as error:
        raise CorruptChunk(b"ALPHA", 0, str(error)) from error
