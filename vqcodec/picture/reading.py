"""Picture files and Pillow images -> `Picture`.

Pillow decodes the file formats; `samples.py` turns its modes into 8-bit samples.
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from vqcodec.errors import ImageError
from vqcodec.limits import MAX_METADATA_BYTES, MAX_PIXELS, MAX_SIDE
from vqcodec.picture import exif, metadata, opening, pillow, png, samples
from vqcodec.picture.colour import from_png
from vqcodec.picture.layouts import Crop, Facts
from vqcodec.picture.picture import Picture, UInt8Array

__all__ = ["from_pil", "read_picture"]

_PAGED_FORMATS: Final = {"TIFF", "DCX"}
_MAIN_PICTURE_FORMATS: Final = {"HEIF", "PSD"}  # these say which picture is the main one
_NUMBER_OF_PICTURES: Final = 0xB001  # tag in the index of an MPO file


def read_picture(
    source: bytes | str | os.PathLike[str],
    *,
    strip: bool = False,
    max_pixels: int = MAX_PIXELS,
    any_format: bool = False,
) -> Picture:
    """Read a picture file of one of the formats in `formats.py`; `write_picture` writes one.

    The EXIF orientation is applied. CMYK is converted to sRGB through its colour profile, and
    samples of more than 8 bits are reduced to 8; a note says so. Grey stays grey, and opacity is
    kept exactly.

    Args:
        source: the file's bytes, or its path.
        strip: leave out ICC, EXIF and XMP.
        max_pixels: refuse larger pictures before their samples are decoded.
        any_format: also take formats and layouts that no test covers, as Pillow reads them; a
            note says so.
    Raises:
        ImageError: the file cannot be read, is of another format or an untested layout, is
            truncated, is animated, has several pages, or is too large.
    """
    name = "picture" if isinstance(source, bytes) else os.fspath(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    with pillow.errors(name):
        aside: dict[str, bytes | str] = {}
        if data.startswith(png.MAGIC):
            data, aside = png.split(data)
        image, facts = opening.open_picture(data, any_format)
        with image:
            _check_frames(image)
            _check_size(image, max_pixels)
            raw = samples.raw_mode(image)
            pillow.load(image)
            image.info.update(aside)
            return _from_loaded(image, raw, strip, max_pixels, facts)


def from_pil(image: Image.Image, *, strip: bool = False, max_pixels: int = MAX_PIXELS) -> Picture:
    """A Pillow image of any mode as a Picture; `to_pil` is the inverse for 8-bit modes.

    Raises:
        ImageError: it has no pixels or too many, or Pillow cannot load or convert it.
        TypeError: it is not a Pillow image.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"a path, bytes or a Pillow image, not {type(image).__name__}")
    with pillow.errors("picture"):
        _check_size(image, max_pixels)
        raw = samples.raw_mode(image)
        image.load()
        return _from_loaded(image, raw, strip, max_pixels, Facts())


def _check_frames(image: Image.Image) -> None:
    # Not `n_frames`, for which Pillow reads through all frames or pages.
    if image.format not in _MAIN_PICTURE_FORMATS and getattr(image, "is_animated", False):
        what = "files with several pages" if image.format in _PAGED_FORMATS else "animated pictures"
        raise ImageError(f"{what} are not supported")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} has no pixels")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} is over the limit of {max_pixels} pixels")


def _from_loaded(
    image: Image.Image, raw: str, strip: bool, max_pixels: int, facts: Facts
) -> Picture:
    _check_size(image, max_pixels)  # again: icon formats choose their size on loading
    found = metadata.read(image)
    icc, notes = found.icc, [*facts.notes, *found.notes]
    colour, alpha, more_notes = samples.convert(image, raw, icc)
    notes += more_notes
    grey = colour.ndim == 2
    if image.mode in ("CMYK", "LAB"):
        icc = None  # it described the samples before the conversion
    elif icc and not strip and icc[16:20] not in ((b"GRAY", b"RGB ") if grey else (b"RGB ",)):
        space = icc[16:20].decode("latin-1").strip()
        known = space.isascii() and space.isalnum()
        notes.append(f"colour profile left out: it is {f'for {space}' if known else 'damaged'}")
        icc = None
    elif not icc:
        colours = facts.colours or from_png(image.info)
        icc = colours.profile(grey)
        notes += [colours.note] if colours.note else []
    colour = samples.orient(_cropped(colour, facts.crop), found.orientation)
    if alpha is not None:
        alpha = samples.orient(_cropped(alpha, facts.crop), found.orientation)
        alpha = np.ascontiguousarray(alpha)
    rgb = np.repeat(colour[..., None], 3, axis=2) if grey else np.ascontiguousarray(colour)
    if image.format == "PSD" and getattr(image, "is_animated", False):
        notes.append("layers merged")
    elif image.format == "HEIF" and getattr(image, "n_frames", 1) > 1:
        notes.append("only the primary picture of the file kept")
    elif _number_of_pictures(image) > 1:
        notes.append("only the first picture of the file kept")
    icc, tiff, xmp = (None, None, None) if strip else (icc, found.exif, found.xmp)
    for kind, part in (("ICC", icc), ("EXIF", tiff), ("XMP", xmp)):
        if part and len(part) > MAX_METADATA_BYTES:
            raise ImageError(f"{kind} of {len(part)} bytes is over the limit; leave it out (strip)")
    opaque = alpha is None or bool((alpha == 255).all())
    return Picture(rgb, grey, None if opaque else alpha, icc, tiff, xmp, tuple(notes))


def _cropped(array: UInt8Array, crop: Crop | None) -> UInt8Array:
    """The clean aperture of an (H, W) or (H, W, 3) array, which must begin on whole samples."""
    if crop is None:
        return array
    slices = []
    for whole, side, offset in zip(array.shape[1::-1], crop[:2], crop[2:], strict=False):
        start = offset + Fraction(whole - 1, 2) - (side - 1) / 2
        inside = 0 <= start <= whole - side < whole
        if side.denominator != 1 or start.denominator != 1 or not inside:
            raise ImageError("damaged: its clean aperture is no part of its samples")
        slices.append(slice(int(start), int(start + side)))
    return array[slices[1], slices[0]]


def _number_of_pictures(image: Image.Image) -> int:
    """How many pictures a JPEG file holds. Phones and stereo cameras write several (MPO)."""
    index = image.info.get("mp")
    try:
        return (isinstance(index, bytes) and exif.number(index, _NUMBER_OF_PICTURES)) or 1
    except (ValueError, struct.error):
        return 1
