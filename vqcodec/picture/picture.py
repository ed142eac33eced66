"""A picture in memory: 8-bit samples, opacity and metadata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Picture", "UInt8Array", "to_pil"]

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)  # a generated == would fail: comparing arrays gives no bool
class Picture:
    """One upright picture.

    Attributes:
        rgb: (H, W, 3) uint8, C-contiguous and writable; three equal channels when grey.
        grey: the picture is greyscale.
        alpha: (H, W) uint8 opacity, 255 opaque; None when all opaque.
        icc: ICC colour profile of the samples.
        exif: EXIF data as a bare TIFF structure (no `Exif` prefix), orientation 1.
        xmp: XMP packet.
        notes: a line for each conversion that changed samples or left something out.
    """

    rgb: UInt8Array
    grey: bool = False
    alpha: UInt8Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a Pillow image of mode L, LA, RGB or RGBA, metadata in `info`.

    `info["exif"]` has the `Exif` prefix that Pillow's readers put there.
    """
    planes = picture.rgb[..., :1] if picture.grey else picture.rgb
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[..., None]], axis=2)
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image
