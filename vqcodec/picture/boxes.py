"""The boxes of AVIF, HEIF and JPEG 2000 files: what they say besides the samples.

Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items and their properties), 15444-1, annex I (JP2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vqcodec.errors import ImageError

__all__ = ["Box", "children", "primary_properties"]


class Box(NamedTuple):
    """Attributes: type, of 4 bytes; contents."""

    kind: bytes
    data: bytes


def children(data: bytes) -> Iterator[Box]:
    """The boxes that follow each other in `data`.

    Raises:
        ImageError: one reaches beyond the end.
    """
    start = 0
    while start < len(data):
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:  # up to the end
            size = len(data) - start
        if size < head or start + size > len(data):
            raise ImageError(f"damaged: its box {kind!r} is cut")
        yield Box(kind, data[start + head : start + size])
        start += size


def child(data: bytes, kind: bytes) -> bytes | None:
    """The contents of the first box of a type."""
    return next((box.data for box in children(data) if box.kind == kind), None)


def primary_properties(file: bytes) -> list[Box]:
    """The properties of the primary picture of an AVIF or HEIF file, in order.

    Raises:
        ImageError: damaged, or the file does not say which its primary picture is.
    """
    meta = child(file, b"meta")
    primary = child(meta[4:], b"pitm") if meta else None
    found = child(meta[4:], b"iprp") if meta else None
    if not primary or found is None:
        raise ImageError("damaged: the file has no primary picture")
    item = int.from_bytes(primary[4:8] if primary[0] else primary[4:6], "big")
    properties = list(children(child(found, b"ipco") or b""))
    try:
        indices = [
            index
            for box in children(found)
            if box.kind == b"ipma"
            for index in _associations(box.data, item)
        ]
        return [properties[index - 1] for index in indices if index]
    except (struct.error, IndexError) as error:
        raise ImageError("damaged: the properties of its picture are cut") from error


def _associations(data: bytes, wanted: int) -> Iterator[int]:
    """Indices, from 1, of the properties of an item in a box `ipma`."""
    version, wide = data[0], data[3] & 1
    (count,) = struct.unpack_from(">I", data, 4)
    start = 8
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", data, start)
        start += 4 if version else 2
        number, start = data[start], start + 1
        for _ in range(number):
            if wide:
                (index,) = struct.unpack_from(">H", data, start)
                start, index = start + 2, index & 0x7FFF
            else:
                start, index = start + 1, data[start] & 0x7F
            if item == wanted:
                yield index
