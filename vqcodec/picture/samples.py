"""Pillow images of any mode -> 8-bit grey or RGB samples, and opacity.

A picture is grey if its file says so: the modes 1, L, LA, La, I, I;16 and F, and palettes whose
used entries are all grey. An RGB picture stays RGB even if its three channels are equal.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vqcodec.picture.picture import UInt8Array

__all__ = ["convert", "orient", "raw_mode"]

_PHOTOMETRIC: Final = 0x0106  # TIFF tag
_SAMPLE_FORMAT: Final = 0x0153
_BITS: Final = 0x0102
_PLANES: Final = 0x011C  # 2: the channels are stored one after the other
# libtiff has already put these into the machine's byte order, and Pillow swaps them again.
_SWAPPED: Final = ("I;16BS", "I;32BS", "F;32BF")
_BAND: Final = 2**18  # pixels that are converted at once

_Conversion = Callable[[Image.Image], tuple[UInt8Array, UInt8Array | None]]


def raw_mode(image: Image.Image) -> str:
    """How the file stores a sample, such as `RGB;16B`; empty once the image is loaded.

    Pillow forgets this when it loads the image, and reduces some samples without telling.

    Raises:
        ValueError: Pillow reads such samples wrongly.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    decoder, *_, arguments = image.tile[0]
    name = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    if _is_misread(image, decoder, name):
        raise ValueError(f"{image.format} samples of this kind ({name}) are read wrongly by Pillow")
    # Pillow scales any 9- to 16-bit PGM to the full 16 bits when it loads it, a PPM to 8.
    deep = image.format == "PPM" and isinstance(arguments, tuple) and arguments[-1] > 255
    deep = deep or (image.format, image.mode) == ("PPM", "I") or decoder == "SGI16"
    return f"{image.mode};16" if deep else name


def _is_misread(image: ImageFile.ImageFile, decoder: str, raw: str) -> bool:
    """Whether Pillow reads these samples wrongly, and without an error."""
    if image.format == "JPEG2000":  # rounding to 8 bits wraps white around to black
        return _jpeg2000_depth(image) > (16 if image.mode == "I;16" else 8)
    if image.format == "PNG":  # 8 of 16 bits are left to compare
        return raw == "RGB;16B" and "transparency" in image.info
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and len(image.getbands()) > 1:
        deep = max(tags.get(_BITS) or (8,)) > 8
        if decoder == "raw" and deep or image.mode == "LA":
            return True
    signed = 2 in (tags.get(_SAMPLE_FORMAT) or ())
    return decoder == "libtiff" and raw in _SWAPPED or signed and image.mode not in ("I", "F")


def _jpeg2000_depth(image: ImageFile.ImageFile) -> int:
    """Bits per sample of the deepest channel, plus 128 if one is signed.

    Source: ISO/IEC 15444-1, A.5.1: `SIZ`, the first marker segment of the codestream.
    """
    file = image.fp
    assert file is not None  # which is closed by loading
    position = file.tell()
    file.seek(0)
    _, _, sizes = file.read().partition(b"\xff\x4f\xff\x51")
    file.seek(position)
    count = int.from_bytes(sizes[36:38], "big")
    return max(sizes[38 : 38 + 3 * count : 3], default=-1) + 1


def convert(
    image: Image.Image, raw: str, icc: bytes | None
) -> tuple[UInt8Array, UInt8Array | None, list[str]]:
    """The samples of a loaded image.

    Args:
        image: any mode.
        raw: what `raw_mode` said before the image was loaded.
        icc: its colour profile.
    Returns:
        Samples, (H, W) of a grey or (H, W, 3) of a colour picture; opacity (H, W) or None; notes.
    Raises:
        Whatever Pillow raises for a mode that it cannot convert.
    """
    # In `BGR;16`, a pixel has 16 bits, not a sample.
    deep = ";16" in raw and raw != "BGR;16" and image.mode[0] not in "IF"
    notes = ["16-bit samples reduced to 8"] if deep else []
    if image.mode[0] in "IF":
        part_of, note = _reduction(image, raw)
    elif image.mode == "CMYK":
        part_of, note = _cmyk_to_rgb(icc)
    else:
        part_of, note = (lambda band: _convert_8_bit(band, raw)), ""
        if image.mode in ("LAB", "HSV", "YCbCr"):
            note = f"{image.mode} converted to RGB"
    samples, alpha = _joined(image, part_of)
    # With a profile for RGB, the file says that it is colour.
    may_be_grey = image.mode in ("P", "PA") and not _is_rgb_profile(icc)
    if may_be_grey and bool((samples == samples[..., :1]).all()):
        samples = samples[..., 0]
    if raw.startswith("LA;"):  # Pillow opens 16-bit grey with alpha as RGBA
        samples = samples[..., 0]
    return samples, alpha, [*notes, note] if note else notes


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image in bands of rows: converted whole, it would take several times its memory."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        # Not by `crop`, which checks the size against `Image.MAX_IMAGE_PIXELS`.
        box = (0, top, image.width, bottom)
        size = (image.width, bottom - top)
        yield slice(top, bottom), image.resize(size, Image.Resampling.NEAREST, box)


def _joined(image: Image.Image, part_of: _Conversion) -> tuple[UInt8Array, UInt8Array | None]:
    samples, alpha = np.empty(0, np.uint8), None
    for rows, band in _bands(image):
        part, opacity = part_of(band)
        if rows.start == 0:
            samples = np.empty((image.height, *part.shape[1:]), np.uint8)
            alpha = None if opacity is None else np.empty(samples.shape[:2], np.uint8)
        samples[rows] = part
        if alpha is not None:
            alpha[rows] = opacity
    return samples, alpha


def _convert_8_bit(image: Image.Image, raw: str) -> tuple[UInt8Array, UInt8Array | None]:
    palette = image.mode in ("P", "PA")
    grey = image.mode in ("1", "L", "LA", "La")
    transparent = palette and (
        "transparency" in image.info
        or image.mode == "PA"
        or (image.palette is not None and image.palette.mode == "RGBA")
    )
    if transparent or image.mode in ("LA", "La", "RGBA", "RGBa"):
        bands = np.asarray(image.convert("LA" if grey else "RGBA"))
        return bands[..., 0] if grey else bands[..., :3], bands[..., -1]
    wanted = "L" if grey else "RGB"
    samples = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return samples, _keyed_alpha(samples, image, {"L;2": 85, "L;4": 17}.get(raw, 1))


def _keyed_alpha(samples: NDArray[Any], image: Image.Image, scale: int) -> UInt8Array | None:
    """Opacity of a picture with one transparent colour; None without one.

    Args:
        scale: what to multiply that colour by, which Pillow leaves at the file's depth.
    """
    key = image.info.get("transparency")
    if image.mode in ("P", "PA") or not isinstance(key, (int, tuple)):
        return None
    wanted = np.atleast_1d(np.asarray(key, dtype=np.int64)) * scale
    if image.mode == "1":  # 255 since Pillow 13, 1 before
        wanted = np.where(wanted > 0, 255, 0)
    planes = samples.reshape(*samples.shape[:2], -1)
    if len(wanted) != planes.shape[2]:
        return None
    hidden: NDArray[np.bool_] = (planes == wanted).all(axis=2)
    opacity: UInt8Array = np.where(hidden, np.uint8(0), np.uint8(255))
    return opacity


def _white_is_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF file. Pillow inverts such samples only up to 8 bits."""
    return bool(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0)


def _reduction(image: Image.Image, raw: str) -> tuple[_Conversion, str]:
    """How samples of more than 8 bits become 8 bits, and a note. They are scaled, not clipped.

    16-bit samples have a known white, 65535. Integers and floats of other kinds do not: ranges
    that are customary (0..1, 0..255, 0..65535) are taken as such, others are stretched.
    """
    mode, low, high = image.mode, 0.0, 65535.0
    signed = raw in ("I;16S", "I;16BS", "I;16NS")
    if "I;12" in raw:
        high, note = 4095.0, "12-bit samples reduced to 8"
    elif mode.startswith("I;16") or raw.startswith("I;16") and not signed:
        note = "16-bit samples reduced to 8"
    else:
        least, most, whole = _range(image, raw)
        if mode == "F" and least >= 0 and most <= 1:
            high, note = 1.0, "float samples 0..1 scaled to 0..255"
        elif least >= 0 and most <= 255 and whole:
            high, note = 255.0, ""
        elif mode == "I" and least >= 0 and most <= 65535 and not signed:
            note = "16-bit samples reduced to 8"
        else:
            low, high = least, most if most > least else least + abs(least) + 1
            note = f"samples {least:.6g}..{most:.6g} stretched to 0..255"
    black, white = (high, low) if _white_is_zero(image) else (low, high)

    def part_of(band: Image.Image) -> tuple[UInt8Array, UInt8Array | None]:
        values = _values(band, raw)
        # float32 keeps 16-bit samples far closer than the 1/514 that could change a rounding.
        wide: NDArray[Any] = values.astype(np.float32 if mode.startswith("I;16") else np.float64)
        if mode == "F":
            wide = np.nan_to_num(wide, nan=low, posinf=high, neginf=low)
        scaled = np.rint(np.clip((wide - black) * (255.0 / (white - black)), 0, 255))
        return scaled.astype(np.uint8), _keyed_alpha(np.asarray(band), band, 1)

    return part_of, note


def _values(image: Image.Image, raw: str) -> NDArray[Any]:
    values = np.asarray(image)
    return values.view(np.uint32) if raw == "I;32N" else values  # of TIFF; no mode is


def _range(image: Image.Image, raw: str) -> tuple[float, float, bool]:
    """Least and largest of the finite samples, 0 if there are none; whether all are integers."""
    ends, whole = list[float](), True
    for _, band in _bands(image):
        values = _values(band, raw)
        finite = values[np.isfinite(values)]
        if finite.size:
            ends += [float(finite.min()), float(finite.max())]
            whole = whole and bool((finite == np.rint(finite)).all())
    return min(ends, default=0.0), max(ends, default=0.0), whole


def _cmyk_to_rgb(icc: bytes | None) -> tuple[_Conversion, str]:
    if icc:
        try:
            from PIL import ImageCms

            transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                "CMYK",
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            note = "CMYK converted to sRGB through its colour profile"
            return (lambda band: (np.asarray(transform.apply(band)), None)), note
        except Exception:  # a damaged profile: convert without it
            pass
    note = "CMYK converted to RGB without a colour profile"
    return (lambda band: (np.asarray(band.convert("RGB")), None)), note


def _is_rgb_profile(icc: bytes | None) -> bool:
    return icc is not None and icc[16:20] == b"RGB "


def orient(array: UInt8Array, orientation: int) -> UInt8Array:
    """Turn an (H, W) or (H, W, C) array as EXIF orientation 1..8 asks, so that it is upright."""
    if orientation in (5, 7):
        array = array.swapaxes(0, 1)
    elif orientation in (6, 8):
        array = np.rot90(array, -1 if orientation == 6 else 1)
    if orientation in (3, 4, 7):
        array = array[::-1]
    if orientation in (2, 3, 7):
        array = array[:, ::-1]
    return array
