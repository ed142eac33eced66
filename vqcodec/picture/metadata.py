"""ICC profile, EXIF and XMP of a Pillow image; the part of EXIF that a TIFF file can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from PIL import Image

from vqcodec.picture import exif, png

__all__ = ["Metadata", "descriptive_exif", "read"]

_INTEROPERABILITY: Final = 0xA005
_EXIF_PREFIX: Final = b"Exif\0\0"
_SUB_DIRECTORIES: Final = (0x8769, 0x8825)  # camera settings, position
# Tags that describe the picture, not how a TIFF file stores it: description, make, model,
# resolution (3 tags), software, date, artist, copyright.
_DESCRIPTIVE: Final = (0x10E, 0x10F, 0x110, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x8298)
_XMP_ORIENTATION: Final = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)([2-8])")


@dataclass(frozen=True)
class Metadata:
    """What a picture says about itself.

    Attributes:
        icc: ICC profile.
        exif: EXIF as a bare TIFF structure, orientation 1.
        xmp: XMP packet, orientation 1.
        orientation: 1..8, as EXIF counts, of the samples.
        notes: what was left out.
    """

    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    orientation: int
    notes: tuple[str, ...]


def read(image: Image.Image) -> Metadata:
    """The metadata of a loaded image. An orientation in EXIF overrides one in XMP."""
    notes = []
    icc = image.info.get("icc_profile")
    if "icc_profile" in image.info and not icc:
        notes.append("colour profile left out: it is damaged")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    tiff, orientation = None, 1
    if isinstance(xmp, bytes) and (found := _XMP_ORIENTATION.search(xmp)):
        orientation = int(found[2])
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    try:
        tiff, stated = _exif(image)
        orientation = orientation if stated is None else stated
        orientation = orientation if 1 <= orientation <= 8 else 1
        tiff = exif.upright(tiff, orientation != 1) if tiff else None
    except Exception:  # Pillow meets damaged EXIF with many kinds of exceptions
        tiff = None
        notes.append("damaged EXIF data left out")
    icc, tiff, xmp = (
        part if isinstance(part, bytes) and part else None for part in (icc, tiff, xmp)
    )
    return Metadata(icc, tiff, xmp, orientation, tuple(notes))


def _exif(image: Image.Image) -> tuple[bytes | None, int | None]:
    """EXIF as a bare TIFF structure; the orientation that it states."""
    tiff = image.info.get("exif")
    if not tiff and png.RAW_EXIF in image.info:  # three lines, then hexadecimal digits
        tiff = bytes.fromhex("".join(image.info[png.RAW_EXIF].split("\n")[3:]))
    if tiff:
        tiff = tiff.removeprefix(_EXIF_PREFIX)
        return tiff, exif.number(tiff, exif.ORIENTATION)
    own = image.getexif()  # a TIFF file's own tags, or what the caller has set
    described = _descriptive(own)
    tiff = described.tobytes().removeprefix(_EXIF_PREFIX) if len(described) else None
    return tiff, exif.first_number(own.get(exif.ORIENTATION))


def descriptive_exif(tiff: bytes | None) -> Image.Exif:
    """The part of EXIF data (a bare TIFF structure) that is about the picture as a whole.

    Other tags could contradict the samples of the TIFF file that they are written into. Empty if
    the data is damaged.
    """
    whole, part = Image.Exif(), Image.Exif()
    try:
        whole.load(_EXIF_PREFIX + exif.without_damage(tiff) if tiff else b"")
        # By way of bytes: this fails here, and not on saving, for values of a wrong type; and
        # Pillow writes only those sub-directories that it has read.
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
        # Without the pointer to the interoperability directory, which is not copied.
        if fields := {t: v for t, v in own.get_ifd(directory).items() if t != _INTEROPERABILITY}:
            wanted[directory] = fields
    return wanted
