"""ICC profile, EXIF and XMP of a Pillow image; the part of EXIF that a TIFF file can hold."""

from __future__ import annotations

import re
import struct
from typing import Final

from PIL import Image

__all__ = ["descriptive_exif", "read"]

_ORIENTATION: Final = 0x0112  # EXIF tag
_INTEROPERABILITY: Final = 0xA005
_EXIF_PREFIX: Final = b"Exif\0\0"
_SUB_DIRECTORIES: Final = (0x8769, 0x8825)  # camera settings, position
# What a TIFF file says about the picture and not about its own strips of bytes: description, make,
# model, resolution (3 tags), software, date, artist, copyright.
_DESCRIPTIVE: Final = (0x10E, 0x10F, 0x110, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x8298)
_XMP_ORIENTATION: Final = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)([2-8])")


def read(
    image: Image.Image,
) -> tuple[bytes | None, bytes | None, bytes | None, int, list[str]]:
    """What a loaded image says about itself.

    Returns:
        ICC profile; EXIF as a bare TIFF structure with orientation 1; XMP packet with orientation
        1; the orientation (1..8) that the samples still need; notes.
    """
    notes = []
    icc = image.info.get("icc_profile")
    if "icc_profile" in image.info and not icc:  # Pillow could not put it together
        notes.append("damaged colour profile left out")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    exif, orientation = None, 1
    if isinstance(xmp, bytes) and (found := _XMP_ORIENTATION.search(xmp)):
        orientation = int(found[2])
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    try:
        orientation = int(image.getexif().get(_ORIENTATION, orientation))  # EXIF takes precedence
        orientation = orientation if 1 <= orientation <= 8 else 1
        exif = image.info.get("exif")
        if not exif and len(own := _descriptive(image.getexif())):
            exif = own.tobytes()
        exif = _set_upright(exif.removeprefix(_EXIF_PREFIX), orientation) if exif else None
    except Exception:  # Pillow meets damaged EXIF with many kinds of exceptions
        exif = None
        notes.append("damaged EXIF data left out")
    keep = [part if isinstance(part, bytes) and part else None for part in (icc, exif, xmp)]
    return keep[0], keep[1], keep[2], orientation, notes


def descriptive_exif(exif: bytes | None) -> Image.Exif:
    """The part of EXIF data (a bare TIFF structure) that is about the picture as a whole.

    What else a directory may say would contradict the samples of a TIFF file that it is written
    into. Nothing where it is damaged.
    """
    whole, part = Image.Exif(), Image.Exif()
    try:
        whole.load(_EXIF_PREFIX + exif if exif else b"")
        # Through bytes, which fails where values are of other types than their tags have; and only
        # of what was read can directories be written.
        part.load(_descriptive(whole).tobytes())
        return part
    except Exception:  # Pillow meets damaged EXIF with many kinds of exceptions
        return Image.Exif()


def _descriptive(own: Image.Exif) -> Image.Exif:
    wanted = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in own:
            wanted[tag] = own[tag]
    for directory in _SUB_DIRECTORIES:
        # Without the offset of the directory for interoperability, which would point nowhere.
        if fields := {t: v for t, v in own.get_ifd(directory).items() if t != _INTEROPERABILITY}:
            wanted[directory] = fields
    return wanted


def _set_upright(tiff: bytes, orientation: int) -> bytes:
    """The EXIF structure with orientation 1, patched in place.

    Writing it anew through Pillow would move what maker notes point at by byte offset. Of a
    picture that is turned, the thumbnail, which is not, is unlinked.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
    patched = bytearray(tiff)
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", tiff, entry)
        if tag == _ORIENTATION:  # type 3 (16-bit), one value, value 1, filler
            struct.pack_into(f"{order}HIHH", patched, entry + 2, 3, 1, 1, 0)
    if orientation != 1 and len(patched) >= start + 6 + 12 * count:
        struct.pack_into(f"{order}I", patched, start + 2 + 12 * count, 0)  # no next directory
    return bytes(patched)
