"""Reads and patches EXIF data in place.

Pillow's own reader warns about damaged data, and warning filters belong to the whole process.
Source: TIFF 6.0, section 2; Exif 2.32, section 4.6.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from PIL import TiffTags

__all__ = ["ORIENTATION", "first_number", "number", "upright", "without_damage"]

ORIENTATION: Final = 0x0112
_DIRECTORIES: Final = (0x8769, 0x8825)  # camera settings, position
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBERS: Final = dict(zip((1, 3, 4, 6, 7, 8, 9, 11, 12, 13), "BHIbBhifdI", strict=True))
_FRACTIONS: Final = {5: "II", 10: "ii"}
_ASCII: Final = 2
_SINGLE: Final = {1, _ASCII, 7}  # kinds of which many are one value: bytes, characters


class _Entry(NamedTuple):
    position: int  # of its 12 bytes: tag, kind, number of values, and these or where they are
    tag: int
    kind: int
    values: int

    def size(self) -> int:
        return self.values * _SIZES.get(self.kind, 0)


def _order(tiff: bytes) -> str:
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("not a TIFF structure")
    return "<" if tiff[:1] == b"I" else ">"


def _start(tiff: bytes) -> int:
    (start,) = struct.unpack_from(f"{_order(tiff)}I", tiff, 4)
    return int(start)


def _entries(tiff: bytes, start: int) -> Iterator[_Entry]:
    """The entries of the directory at byte `start`; raises `struct.error` if it is truncated."""
    order = _order(tiff)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        yield _Entry(position, *struct.unpack_from(f"{order}HHI4x", tiff, position)[:3])


def number(tiff: bytes, tag: int) -> int | None:
    """The value of a tag in the first directory as an integer; None if there is none.

    Any numeric type will do: an orientation should have 16 bits, but some programs write 8 or 32.

    Raises:
        ValueError, struct.error: damaged.
    """
    for entry in _entries(tiff, _start(tiff)):
        if entry.tag == tag and entry.values:
            return _number(tiff, entry)
    return None


def _number(tiff: bytes, entry: _Entry) -> int | None:
    order, value = _order(tiff), entry.position + 8
    if entry.size() > 4:
        (value,) = struct.unpack_from(f"{order}I", tiff, value)
    if entry.kind == _ASCII:
        return first_number(tiff[value : value + entry.values].rstrip(b"\0").decode("latin-1"))
    if entry.kind in _FRACTIONS:
        above, below = struct.unpack_from(order + _FRACTIONS[entry.kind], tiff, value)
        return int(above // below) if below else None
    if entry.kind in _NUMBERS:
        return first_number(struct.unpack_from(order + _NUMBERS[entry.kind], tiff, value)[0])
    return None


def first_number(value: object) -> int | None:
    """An EXIF value as an integer: the first of several, or digits in a text; else None."""
    if isinstance(value, bytes | tuple):
        return first_number(value[0]) if value else None
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else None
    try:
        number = float(value)  # type: ignore[arg-type]  # a number of any kind
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return int(number) if math.isfinite(number) else None


def upright(tiff: bytes, turned: bool) -> bytes:
    """A TIFF structure with orientation 1. All else stays at its byte: maker notes hold offsets.

    Args:
        turned: the picture was turned; its thumbnail was not, so it is unlinked.
    Raises:
        ValueError, struct.error: damaged.
    """
    order, start, patched = _order(tiff), _start(tiff), bytearray(tiff)
    end = start + 2
    for entry in _entries(tiff, start):
        if entry.tag == ORIENTATION:  # kind 3 (16-bit), one value, value 1, filler
            struct.pack_into(f"{order}HIHH", patched, entry.position + 2, 3, 1, 1, 0)
        end = entry.position + 12
    if turned and len(patched) >= end + 4:
        struct.pack_into(f"{order}I", patched, end, 0)  # no next directory
    return bytes(patched)


def without_damage(tiff: bytes) -> bytes:
    """A TIFF structure that Pillow reads without a warning.

    Damaged entries get kind 0, which readers skip: their value lies outside the data, their tag
    has one value and they have several, or they point at a directory that is truncated.

    Raises:
        ValueError, struct.error: the first directory is damaged.
    """
    patched = bytearray(tiff)
    for pointer in _void_damaged(patched, tiff, _start(tiff), None):
        if pointer.tag in _DIRECTORIES:
            try:
                _void_damaged(patched, tiff, _number(tiff, pointer) or 0, pointer.tag)
            except struct.error:
                struct.pack_into("H", patched, pointer.position + 2, 0)
    return bytes(patched) + bytes(4)  # the pointer to the next directory may be missing


def _void_damaged(patched: bytearray, tiff: bytes, start: int, group: int | None) -> list[_Entry]:
    """Give damaged entries of one directory kind 0; return the others."""
    sound, total = [], 0
    for entry in _entries(tiff, start):
        (offset,) = struct.unpack_from(f"{_order(tiff)}I", tiff, entry.position + 8)
        outside = entry.size() > 4 and offset + entry.size() > len(tiff)
        several = entry.values > 1 and entry.kind not in _SINGLE
        wrong = several and TiffTags.lookup(entry.tag, group).length == 1
        total += entry.size() if entry.size() > 4 else 0
        if outside or wrong or total > len(tiff):  # overlaps: Pillow suspects an attack
            struct.pack_into("H", patched, entry.position + 2, 0)
        else:
            sound.append(entry)
    return sound
