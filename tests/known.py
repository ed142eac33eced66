"""A soft picture, which JPEG, AVIF and HEIC keep nearly as it is, and files that are made of it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pictures import saved
from PIL import Image, ImageCms

from vqcodec.errors import ImageError
from vqcodec.picture import boxes
from vqcodec.picture.picture import Picture
from vqcodec.picture.reading import read_picture

Array = np.ndarray[Any, Any]
AVIF: dict[str, Any] = {"quality": 97, "subsampling": "4:4:4"}
Y, X = np.mgrid[:32, :48]
COLOURS = np.stack([X * 4, Y * 7, (X + Y) * 3], 2).astype(np.uint8)
SOFT = Image.fromarray(COLOURS)
OPACITY = np.where(X < 24, 255, 128).astype(np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def refused(data: bytes, told: str) -> None:
    """Check that a file is refused in one line that has these words."""
    with pytest.raises(ImageError) as caught:
        read_picture(data)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def difference(picture: Picture, wanted: Array) -> int:
    """The largest one between samples; `wanted` is (H, W) or (H, W, 3)."""
    found = picture.rgb[..., 0] if wanted.ndim == 2 else picture.rgb
    assert found.shape == wanted.shape
    return int(np.abs(found.astype(int) - wanted).max())


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def jp2(source: Image.Image, **options: Any) -> bytes:
    return saved(source, "JPEG2000", irreversible=False, **{"mct": 0, **options})


def with_box(data: bytes, extra: bytes, instead_of: bytes = b"") -> bytes:
    """The JP2 file with a box more at the end of its header, or in place of another one."""
    start = data.index(b"jp2h") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    header = data[start + 8 : start + size]
    parts = [struct.pack(">I", 8 + len(b.data)) + b.kind + b.data for b in boxes.children(header)]
    header = b"".join(part for part in parts if part[4:8] != instead_of) + extra
    return (
        data[:start] + struct.pack(">I4s", 8 + len(header), b"jp2h") + header + data[start + size :]
    )


def cdef(*entries: tuple[int, int, int]) -> bytes:
    numbers = [number for entry in entries for number in entry]
    return box(b"cdef", struct.pack(f">H{len(numbers)}H", len(entries), *numbers))


def with_code_points(primaries: int, transfer: int, **options: Any) -> bytes:
    """An AVIF file that says its samples have these primaries and transfer curve."""
    data = bytearray(saved(SOFT, "AVIF", **AVIF, **options))
    start = data.index(b"colrnclx") + 8
    data[start : start + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)
