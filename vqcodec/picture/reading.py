"""Any picture that a user has, as a `Picture`. Pillow does the formats, `samples.py` its modes."""

from __future__ import annotations

import os
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from vqcodec.errors import ImageError
from vqcodec.limits import MAX_METADATA_BYTES, MAX_PIXELS, MAX_SIDE
from vqcodec.picture import metadata, opening, pillow, samples
from vqcodec.picture.colour import from_png
from vqcodec.picture.layouts import Crop, Facts
from vqcodec.picture.picture import Picture, UInt8Array

__all__ = ["from_pil", "read_picture"]

_PAGED_FORMATS: Final = {"TIFF", "DCX"}
# Their first frame, or the one that they call primary, is the picture: phones, layers.
_FIRST_FRAME_FORMATS: Final = {"MPO", "HEIF", "PSD"}


def read_picture(
    source: bytes | str | os.PathLike[str],
    *,
    strip: bool = False,
    max_pixels: int = MAX_PIXELS,
    any_format: bool = False,
) -> Picture:
    """Read a picture file of a format in `formats.py`; `write_picture` writes one.

    EXIF orientation is applied. CMYK goes through its colour profile to sRGB; samples of more than
    8 bits are scaled to 8; a note tells. Grey stays grey, opacity is kept exactly.

    Args:
        source: the file's bytes, or its path.
        strip: leave out ICC, EXIF and XMP.
        max_pixels: refuse larger pictures, before their samples are decoded.
        any_format: take other formats too, and layouts that no test covers, as Pillow reads them;
            a note tells.
    Raises:
        ImageError: unreadable, truncated, animated, several pages, too large, untested.
    """
    name = "picture" if isinstance(source, bytes) else os.fspath(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    with pillow.guard(name, max_pixels):
        image, facts = opening.open_picture(data, any_format)
        with image:
            _check_frames(image)
            _check_size(image, max_pixels)
            if image.format == "PNG":
                _check_png(data)
            return _from_pil(image, strip, max_pixels, facts)


def from_pil(image: Image.Image, *, strip: bool = False, max_pixels: int = MAX_PIXELS) -> Picture:
    """A Pillow image of any mode as a Picture; `to_pil` is the inverse for 8-bit modes.

    Raises:
        ImageError: no pixels, too many, or Pillow cannot load or convert it.
        TypeError: it is something else.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"a path, bytes or a Pillow image, not {type(image).__name__}")
    with pillow.guard("picture", max_pixels):
        return _from_pil(image, strip, max_pixels, Facts())


def _check_frames(image: Image.Image) -> None:
    if image.format not in _FIRST_FRAME_FORMATS and getattr(image, "n_frames", 1) > 1:
        what = "files with several pages" if image.format in _PAGED_FORMATS else "animated pictures"
        raise ImageError(f"{what} are not supported")


def _check_png(data: bytes) -> None:
    """Check that all chunks are there and undamaged: Pillow looks only at those before samples.

    Source: PNG specification, third edition, section 5.3.
    """
    offset, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        end = offset + 8 + size
        if len(data) < end + 4:
            raise ImageError("image file is truncated")
        crc = int.from_bytes(data[end : end + 4], "big")
        if zlib.crc32(memoryview(data)[offset + 4 : end]) != crc:
            raise ImageError(f"damaged: the checksum of its chunk {kind!r} is wrong")
        offset = end + 4


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} has no pixels")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} is over the limit of {max_pixels} pixels")


def _from_pil(image: Image.Image, strip: bool, max_pixels: int, facts: Facts) -> Picture:
    _check_size(image, max_pixels)
    raw = samples.raw_mode(image)
    image.load()
    _check_size(image, max_pixels)  # icon formats choose their size on loading
    icc, exif, xmp, orientation, notes = metadata.read(image)
    colour, alpha, more_notes = samples.convert(image, raw, icc)
    notes = [*facts.notes, *notes, *more_notes]
    if image.mode in ("CMYK", "LAB"):
        icc = None  # it described the samples before the conversion
    elif icc and not strip and colour.ndim == 3 and icc[16:20] != b"RGB ":
        space = icc[16:20].decode("latin-1").strip()
        known = space.isascii() and space.isalnum()
        notes.append(f"colour profile left out: it is {f'for {space}' if known else 'damaged'}")
        icc = None
    elif not icc:
        colours = facts.colours or from_png(image.info)
        icc = colours.profile(grey=colour.ndim == 2)
        notes += [colours.note] if colours.note else []
    colour = samples.orient(_cropped(colour, facts.crop), orientation)
    if alpha is not None:
        alpha = samples.orient(_cropped(alpha, facts.crop), orientation)
        alpha = np.ascontiguousarray(alpha)
    grey = colour.ndim == 2
    rgb = np.repeat(colour[..., None], 3, axis=2) if grey else np.ascontiguousarray(colour)
    if image.format == "PSD" and getattr(image, "n_frames", 1) > 1:
        notes.append("layers merged")
    elif image.format == "MPO" or image.format == "HEIF" and getattr(image, "n_frames", 1) > 1:
        notes.append("only the first picture of the file kept")
    if strip:
        icc = exif = xmp = None
    for kind, part in (("ICC", icc), ("EXIF", exif), ("XMP", xmp)):
        if part and len(part) > MAX_METADATA_BYTES:
            raise ImageError(f"{kind} of {len(part)} bytes is over the limit; --strip drops it")
    opaque = alpha is None or bool((alpha == 255).all())
    return Picture(rgb, grey, None if opaque else alpha, icc, exif, xmp, tuple(notes))


def _cropped(array: UInt8Array, crop: Crop | None) -> UInt8Array:
    """The clean aperture of an (H, W) or (H, W, 3) array, which must begin on whole samples."""
    if crop is None:
        return array
    sides, offsets = crop[:2], crop[2:]
    slices = []
    for whole, side, offset in zip(array.shape[1::-1], sides, offsets, strict=True):
        start = offset + Fraction(whole - 1, 2) - (side - 1) / 2
        if (
            side.denominator != 1
            or start.denominator != 1
            or not 0 <= start <= whole - side < whole
        ):
            raise ImageError("damaged: its clean aperture is no part of its samples")
        slices.append(slice(int(start), int(start + side)))
    return array[slices[1], slices[0]]
