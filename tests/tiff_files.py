"""TIFF files of any layout, written byte by byte, whose samples are therefore known.

Source: TIFF 6.0 (Adobe, 1992); technical note 3 for the predictor of floats; BigTIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from pictures import saved

__all__ = ["DEFLATE", "LZW", "NO_COMPRESSION", "PACKBITS", "Layout", "tiff_file"]

NO_COMPRESSION: Final = 1
LZW: Final = 5
DEFLATE: Final = 8
PACKBITS: Final = 32773
_SHORT, _LONG, _LONG8 = 3, 4, 16
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layout:
    """How the samples of a TIFF file are stored.

    Attributes:
        photometric, compression, planar, predictor, fill_order: values of these tags.
        bits: of a sample.
        sample_format: 1 unsigned, 2 signed, 3 float.
        extra: values of ExtraSamples.
        rows: of a strip, or of a tile.
        tile_width: tiles of this width in place of strips.
        order: `<` or `>`.
        big: BigTIFF.
        tags: further ones, as tag -> values, all SHORT.
        drop: tags that are left out.
    """

    photometric: int = 1
    bits: int = 8
    sample_format: int = 1
    extra: tuple[int, ...] = ()
    planar: int = 1
    compression: int = NO_COMPRESSION
    predictor: int = 1
    fill_order: int = 1
    rows: int = 16
    tile_width: int = 0
    order: str = "<"
    big: bool = False
    tags: Mapping[int, Sequence[int]] = field(default_factory=dict)
    drop: tuple[int, ...] = ()


def packed(row: Array, bits: int, order: str) -> bytes:
    """Samples of a row (n,) as a whole number of bytes."""
    if bits >= 8 and bits != 12:
        return row.astype(row.dtype.newbyteorder(order)).tobytes()
    levels = row.astype(np.uint16)
    planes = (levels[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.astype(np.uint8).ravel()).tobytes()


def packbits(data: bytes) -> bytes:
    """PackBits: runs of 3 bytes and more, and literals."""
    out, start = bytearray(), 0
    while start < len(data):
        run = 1
        while run < 128 and data[start : start + 1] == data[start + run : start + run + 1]:
            run += 1
        if run >= 3:
            out += bytes([257 - run, data[start]])
        else:
            run = min(2, len(data) - start)
            out += bytes([run - 1]) + data[start : start + run]
        start += run
    return bytes(out)


def lzw(data: bytes) -> bytes:
    """LZW as TIFF has it: codes of 9 to 12 bits, the highest bit first."""
    table = {bytes([k]): k for k in range(256)}
    codes, width, string = [(256, 9)], 9, b""
    for byte in data:
        longer = string + bytes([byte])
        if longer in table:
            string = longer
            continue
        codes.append((table[string], width))
        table[longer] = len(table) + 2
        string = bytes([byte])
        width = len(table) + 2 and (len(table) + 2).bit_length()
        if len(table) + 2 == 4094:
            codes.append((256, width))
            table, width = {bytes([k]): k for k in range(256)}, 9
    if string:
        codes.append((table[string], width))
        width = max(width, (len(table) + 3).bit_length())
    codes.append((257, width))
    bits = "".join(f"{code:0{size}b}" for code, size in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _differences(rows: Array, layout: Layout) -> bytes:
    """The rows (h, w, c) as what the predictor makes of them, packed."""
    if layout.predictor == 3:  # bytes by significance, the highest first
        height, width, count = rows.shape
        raw = rows.astype(">f4").view(np.uint8).reshape(height, width * count, 4)
        planes = raw.transpose(0, 2, 1).reshape(height, -1)
        planes[:, count:] -= planes[:, :-count].copy()
        return bytes(planes.tobytes())
    if layout.predictor == 2:
        rows = rows.copy()
        rows[:, 1:] -= rows[:, :-1].copy()
    return b"".join(packed(row.ravel(), layout.bits, layout.order) for row in rows)


def _compressed(rows: Array, layout: Layout) -> bytes:
    if layout.compression == 7:
        from PIL import Image

        part = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)
        steps = 2 if layout.tags.get(530) == [2, 2] else 0
        rgb = layout.photometric == 2
        return saved(part, "JPEG", quality=100, subsampling=steps, keep_rgb=rgb)
    data = _differences(rows, layout)
    if layout.compression in (DEFLATE, 32946):
        data = zlib.compress(data)
    elif layout.compression == LZW:
        data = lzw(data)
    elif layout.compression == PACKBITS:
        data = packbits(data)
    if layout.fill_order == 2:
        bits = np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, 1), axis=1)
        data = np.packbits(bits[:, ::-1]).tobytes()
    return data


def _parts(samples: Array, layout: Layout) -> list[bytes]:
    planes = [samples]
    if layout.planar == 2:
        planes = [samples[..., k : k + 1] for k in range(samples.shape[2])]
    parts = []
    for plane in planes:
        for top in range(0, plane.shape[0], layout.rows):
            strip = plane[top : top + layout.rows]
            if not layout.tile_width:
                parts.append(_compressed(strip, layout))
                continue
            strip = np.pad(strip, [(0, layout.rows - len(strip)), (0, 0), (0, 0)], mode="edge")
            for left in range(0, plane.shape[1], layout.tile_width):
                tile = strip[:, left : left + layout.tile_width]
                margin = layout.tile_width - tile.shape[1]
                parts.append(
                    _compressed(np.pad(tile, [(0, 0), (0, margin), (0, 0)], mode="edge"), layout)
                )
    return parts


def tiff_file(samples: Array, layout: Layout) -> bytes:
    """The file of samples (H, W) or (H, W, C) of the type that the layout says."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, count = samples.shape
    parts = _parts(samples, layout)
    head = 16 if layout.big else 8
    starts = [head + sum(map(len, parts[:k])) for k in range(len(parts))]
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [layout.bits] * count),
        259: (_SHORT, [layout.compression]),
        262: (_SHORT, [layout.photometric]),
        277: (_SHORT, [count]),
        284: (_SHORT, [layout.planar]),
        317: (_SHORT, [layout.predictor]),
        339: (_SHORT, [layout.sample_format] * count),
        266: (_SHORT, [layout.fill_order]),
    }
    if layout.tile_width:
        tags |= {322: (_LONG, [layout.tile_width]), 323: (_LONG, [layout.rows])}
        tags |= {324: (_LONG, starts), 325: (_LONG, [len(part) for part in parts])}
    else:
        tags |= {273: (_LONG, starts), 278: (_LONG, [layout.rows])}
        tags |= {279: (_LONG, [len(part) for part in parts])}
    if layout.extra:
        tags[338] = (_SHORT, layout.extra)
    tags |= {tag: (_SHORT, values) for tag, values in layout.tags.items()}
    for tag in layout.drop:
        del tags[tag]
    return _assembled(b"".join(parts), dict(sorted(tags.items())), layout)


def _assembled(data: bytes, tags: Mapping[int, tuple[int, Sequence[int]]], layout: Layout) -> bytes:
    order, big = layout.order, layout.big
    head, inline, word = (16, 8, "Q") if big else (8, 4, "I")
    entries = b""
    for tag, (kind, values) in tags.items():
        value = struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(value) > inline:
            data, value = data + value, struct.pack(f"{order}{word}", head + len(data))
        entries += struct.pack(f"{order}HH{word}", tag, kind, len(values)) + value.ljust(
            inline, b"\0"
        )
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(
        f"{order}2s{'HHHQ' if big else 'HI'}",
        mark,
        *((43, 8, 0) if big else (42,)),
        head + len(data),
    )
    return start + data + count + entries + bytes(inline)
