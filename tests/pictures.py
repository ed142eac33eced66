"""Picture files that several test modules write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

# Older ones cannot read some of the files that 13 reads; what they read, they read rightly.
PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
needs_pillow_13 = pytest.mark.skipif(not PILLOW_13, reason="an older Pillow cannot read the file")

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="\xc3\xa9"/></x:xmpmeta>'


UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')


def noise(height: int, width: int, *bands: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, *bands), dtype=np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, key: bytes = b"") -> bytes:
    """A PNG file of any depth, with a transparent colour: Pillow cannot write all of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    keyed = chunk(b"tRNS", key) if key else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + keyed + data + chunk(b"IEND", b"")


def tiff(data: bytes, tags: dict[int, Sequence[int]], order: str = "<") -> bytes:
    """A TIFF file of samples, which begin at byte 8; Pillow cannot write all of them."""
    entries = b""
    for tag, numbers in tags.items():
        field = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            data, field = data + field, struct.pack(f"{order}I", 8 + len(data))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + field
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def profile(space: bytes, size: int = 200) -> bytes:
    """The head of an ICC profile for a colour space, such as `GRAY`; zeros follow."""
    return bytes(16) + space + bytes(size - 20)


def cmyk_profile() -> bytes:
    """A printer's ICC profile by hand: no ink is white, all else falls off to black."""
    ramp = bytes(range(256))
    corners = [(255 if corner == 0 else 0, 128, 128) for corner in range(16)]  # 8-bit Lab
    matrix = struct.pack(">9i", *(65536 if cell % 4 == 0 else 0 for cell in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4
    table += b"".join(bytes(corner) for corner in corners) + ramp * 3
    size = 128 + 4 + 12 + len(table)
    header = struct.pack(">III4s4s4s", size, 0, 0x02100000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s28x3i48x", 2026, 1, 1, 0, 0, 0, b"acsp", 0xF6D6, 0x10000, 0xD32D)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
