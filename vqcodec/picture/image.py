"""Pictures as uint8 arrays: read, write, pad, crop; opacity planes as bytes.

Pillow does the file formats, `samples.py` its modes. No Pillow exception or warning leaves this
file: what cannot be read, converted or written is an `ImageError` of one line.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from vqcodec.errors import CorruptChunk, ImageError
from vqcodec.limits import MAX_METADATA_BYTES, MAX_PIXELS, MAX_SIDE
from vqcodec.picture import samples
from vqcodec.picture.samples import UInt8Array

__all__ = [
    "OUTPUT_EXTENSIONS",
    "Picture",
    "crop",
    "decode_alpha",
    "encode_alpha",
    "from_pil",
    "left_out",
    "pad",
    "read_picture",
    "to_pil",
    "write_picture",
]

_MAX_WEBP_SIDE: Final = 16383
_MAX_WEBP_PIXELS: Final = 2**22  # of an opacity plane: its decoder takes 20 bytes each
_MAX_SIDES: Final = {"JPEG": 65500, "WEBP": _MAX_WEBP_SIDE}  # of a picture file

_VECTOR_FORMATS: Final = {"EPS", "WMF"}  # Pillow would start Ghostscript or ask Windows
_PAGED_FORMATS: Final = {"TIFF", "DCX"}
_FIRST_FRAME_FORMATS: Final = {"MPO", "PSD"}  # the first frame is the picture: phones, layers
_FORMATS: Final = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
    "ppm": "PPM",
    "pgm": "PPM",
    "pnm": "PPM",
}
OUTPUT_EXTENSIONS: Final = tuple(f".{name}" for name in _FORMATS)
_NO_ALPHA: Final = {"JPEG", "BMP", "PPM"}
_NO_METADATA: Final = {"BMP", "PPM"}
# Decoding has lost enough: every format is told to lose nothing more, JPEG as little as sensible.
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}


@dataclass(frozen=True, eq=False)  # arrays have no truth value, so no generated ==
class Picture:
    """One upright picture.

    Attributes:
        rgb: (H, W, 3) uint8, C-contiguous and writable; three equal channels when grey.
        grey: the picture is greyscale.
        alpha: (H, W) uint8 opacity, 255 opaque; None when all opaque.
        icc: ICC colour profile of the samples.
        exif: EXIF data as a bare TIFF structure (no `Exif` prefix), orientation 1.
        xmp: XMP packet.
        notes: one line for each conversion that changed samples or dropped something.
    """

    rgb: UInt8Array
    grey: bool = False
    alpha: UInt8Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


def read_picture(
    source: bytes | str | os.PathLike[str], *, strip: bool = False, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Read a picture file of any format and mode that Pillow reads; `write_picture` writes one.

    EXIF orientation is applied. CMYK goes through its colour profile to sRGB; samples of more than
    8 bits are scaled to 8; a note tells. Grey stays grey, opacity is kept exactly.

    Args:
        source: the file's bytes, or its path.
        strip: leave out ICC, EXIF and XMP.
        max_pixels: refuse larger pictures, before their samples are decoded.
    Raises:
        ImageError: unreadable, truncated, animated, several pages, too large.
    """
    name = "picture" if isinstance(source, bytes) else os.fspath(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    with _pillow(name, max_pixels), Image.open(io.BytesIO(data)) as image:
        _check_kind(image)
        _check_size(image, max_pixels)
        if image.format == "PNG":
            _check_png(data)
        return _from_pil(image, strip, max_pixels)


def from_pil(image: Image.Image, *, strip: bool = False, max_pixels: int = MAX_PIXELS) -> Picture:
    """A Pillow image of any mode as a Picture; `to_pil` is the inverse for 8-bit modes.

    Raises:
        ImageError: no pixels, too many, or Pillow cannot load or convert it.
        TypeError: it is something else.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"a path, bytes or a Pillow image, not {type(image).__name__}")
    with _pillow("picture", max_pixels):
        return _from_pil(image, strip, max_pixels)


def _check_kind(image: Image.Image) -> None:
    if image.format in _VECTOR_FORMATS:
        raise ImageError("vector pictures are not supported")
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


def _from_pil(image: Image.Image, strip: bool, max_pixels: int) -> Picture:
    _check_size(image, max_pixels)
    raw = samples.raw_mode(image)
    image.load()
    _check_size(image, max_pixels)  # icon formats choose their size on loading
    icc, exif, xmp, orientation, notes = samples.metadata(image)
    colour, alpha, more_notes = samples.convert(image, raw, icc)
    notes += more_notes
    if image.mode in ("CMYK", "LAB"):
        icc = None  # it described the samples before the conversion
    elif icc and not strip and colour.ndim == 3 and icc[16:20] != b"RGB ":
        space = icc[16:20].decode("latin-1").strip()
        known = space.isascii() and space.isalnum()
        notes.append(f"colour profile left out: it is {f'for {space}' if known else 'damaged'}")
        icc = None
    colour = samples.orient(colour, orientation)
    if alpha is not None:
        alpha = np.ascontiguousarray(samples.orient(alpha, orientation))
    grey = colour.ndim == 2
    rgb = np.repeat(colour[..., None], 3, axis=2) if grey else np.ascontiguousarray(colour)
    if image.format == "PSD" and getattr(image, "n_frames", 1) > 1:
        notes.append("layers merged")
    elif image.format == "MPO":
        notes.append("only the first picture of the file kept")
    if strip:
        icc = exif = xmp = None
    for kind, part in (("ICC", icc), ("EXIF", exif), ("XMP", xmp)):
        if part and len(part) > MAX_METADATA_BYTES:
            raise ImageError(f"{kind} of {len(part)} bytes is over the limit; --strip drops it")
    opaque = alpha is None or bool((alpha == 255).all())
    return Picture(rgb, grey, None if opaque else alpha, icc, exif, xmp, tuple(notes))


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a Pillow image of mode L, LA, RGB or RGBA, metadata in `info`.

    `info["exif"]` has the `Exif` prefix that Pillow's readers put there.
    """
    planes = picture.rgb[..., :1] if picture.grey else picture.rgb
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[..., None]], axis=2)
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image


def write_picture(picture: Picture, path_format: str) -> bytes:
    """A picture file's bytes; `read_picture` reads them.

    PNG, WebP and TIFF are written lossless, JPEG at quality 95 without chroma subsampling. BMP and
    PPM have no place for metadata and leave it out.

    Args:
        path_format: a file name, extension or format: `out.png`, `.png` or `png`.
    Raises:
        ImageError: unknown extension, opacity that the format cannot hold, over a format's limits.
    """
    extension = path_format.rpartition(".")[2].lower()
    if extension not in _FORMATS:
        known = " ".join(OUTPUT_EXTENSIONS)
        raise ImageError(f"cannot write .{extension} files; known: {known}")
    kind = _FORMATS[extension]
    if picture.alpha is not None and kind in _NO_ALPHA:
        raise ImageError(f"{kind} cannot hold the picture's transparency; write PNG instead")
    if (side := max(picture.width, picture.height)) > _MAX_SIDES.get(kind, side):
        raise ImageError(f"{kind} cannot hold a side of {side} pixels; write PNG instead")
    with _pillow(f"cannot write {kind}", MAX_PIXELS):  # which parses EXIF data for TIFF
        options = _metadata_options(picture, kind) | _OPTIONS.get(kind, {})
    if kind == "TIFF" and picture.exif:
        # Compressed, it is written by libtiff, which fails on camera settings, and crashes on tags
        # that were made to.
        del options["compression"]
    return _saved(to_pil(picture), kind, **options)


def left_out(picture: Picture, path_format: str) -> str | None:
    """Which of ICC, EXIF and XMP `write_picture` has no place for, in a sentence; None if none."""
    kind = _FORMATS.get(path_format.rpartition(".")[2].lower())
    parts = [("ICC", picture.icc), ("EXIF", picture.exif), ("XMP", picture.xmp)]
    lost = [name for name, part in parts if part and kind in _NO_METADATA]
    if kind == "WEBP" and _for_grey(picture.icc):
        lost = ["grey, nor for its ICC profile"]
    return f"{kind} has no place for {', '.join(lost)}" if lost else None


def _for_grey(icc: bytes | None) -> bool:
    return icc is not None and icc[16:20] == b"GRAY"


def _metadata_options(picture: Picture, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if kind in _NO_METADATA:
        return options
    if picture.icc and not (kind == "WEBP" and _for_grey(picture.icc)):  # WebP has no grey
        options["icc_profile"] = picture.icc
    if kind == "TIFF":  # one directory holds both, and what TIFF says of the samples
        tags = samples.descriptive_exif(picture.exif)
        if picture.xmp:
            tags[700] = picture.xmp
        return options | ({"exif": tags} if len(tags) else {})
    if picture.exif:
        options["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp and kind == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    elif picture.xmp:
        options["xmp"] = picture.xmp
    return options


def pad(array: UInt8Array, multiple: int) -> UInt8Array:
    """Extend an (H, W, C) array below and to the right to multiples of `multiple`.

    Edge samples are repeated: the coder spends next to nothing on what a smooth border predicts.
    """
    height, width = array.shape[:2]
    margins = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.pad(array, margins, mode="edge")


def crop(array: UInt8Array, height: int, width: int) -> UInt8Array:
    """Undo `pad`: the upper left (height, width, C) part, C-contiguous."""
    return np.ascontiguousarray(array[:height, :width])


def encode_alpha(alpha: UInt8Array) -> bytes:
    """An (H, W) opacity plane as a lossless WebP or PNG file, whichever is smaller."""
    plane = Image.fromarray(alpha)
    bilevel = bool(((alpha == 0) | (alpha == 255)).all())
    files = [_saved(plane.convert("1") if bilevel else plane, "PNG", optimize=True)]
    small = max(plane.size) <= _MAX_WEBP_SIDE and alpha.size <= _MAX_WEBP_PIXELS
    if small and features.check("webp"):
        files.append(_saved(plane, "WEBP", lossless=True))
    return min(files, key=len)


def decode_alpha(data: bytes, width: int, height: int) -> UInt8Array:
    """The (height, width) opacity plane that `encode_alpha` wrote.

    Raises:
        CorruptChunk: no such file, another size, damaged; the size is checked before decoding.
    """
    try:
        with (
            _pillow("opacity plane", width * height),
            Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image,
        ):
            if image.size != (width, height):
                raise ImageError(f"{image.size} samples instead of {(width, height)}")
            if image.mode not in ("1", "L", "RGB"):
                raise ImageError(f"mode {image.mode} instead of grey")
            image.load()
            return np.array(image.convert("L") if image.mode == "1" else image.getchannel(0))
    except ImageError as error:
        raise CorruptChunk(b"ALPHA", 0, str(error)) from error


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with _pillow(f"cannot write {kind}", MAX_PIXELS):
        image.save(buffer, kind, **options)
    return buffer.getvalue()


_lock = threading.RLock()
# Some of Pillow's plug-ins log an error besides raising it; unhandled, it would reach stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def _pillow(name: str, max_pixels: int) -> Iterator[None]:
    """Run Pillow with our pixel limit, without warnings, its exceptions as `ImageError`."""
    # The limits and the warning filter are global to the process, hence the lock.
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        previous = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = max_pixels, MAX_METADATA_BYTES
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except Image.DecompressionBombError as error:  # its text names twice our limit
            raise ImageError(f"{name}: it is over the limit of {max_pixels} pixels") from error
        except UnidentifiedImageError as error:  # its text names a BytesIO object
            raise ImageError(f"{name}: not a picture in a format that Pillow reads") from error
        except Exception as error:  # plug-ins raise nearly anything for a damaged file
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ImageError(f"{name}: {reason}") from error
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = previous
