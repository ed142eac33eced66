"""What the layouts of picture files say that Pillow does not, and which of them it reads wrongly.

Every format has a function from the file's bytes to `Facts`; what is not known to be read rightly
is refused there, in a line that names it. TIFF has a file of its own, `tiff.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from PIL import Image

from vqcodec.errors import ImageError
from vqcodec.picture import boxes, tiff
from vqcodec.picture.colour import Colours, from_code_points
from vqcodec.picture.formats import Untested

__all__ = ["Facts", "check_opened", "facts_of"]

_PROFILE_LEFT_OUT: Final = "colour profile left out: samples count as sRGB"
Crop = tuple[Fraction, Fraction, Fraction, Fraction]  # width, height; offset of its centre: x, y


@dataclass(frozen=True)
class Facts:
    """What a file says about its picture.

    Attributes:
        colours: the meaning of the samples, if there is no ICC profile; None: look in Pillow's.
        icc: an ICC profile that Pillow does not read.
        crop: the part that is shown, before the picture is turned (a clean aperture).
        notes: one line each.
    """

    colours: Colours | None = None
    icc: bytes | None = None
    crop: Crop | None = None
    notes: tuple[str, ...] = ()


def facts_of(kind: str, file: bytes) -> Facts:
    """What the file says.

    Args:
        kind: as from `formats.identify`.
    Raises:
        ImageError: it is of a layout that is not known to be read rightly; or damaged.
    """
    try:
        return _READERS[kind](file) if kind in _READERS else Facts()
    except (struct.error, LookupError, SyntaxError, TypeError, ValueError) as error:
        raise ImageError("damaged: what it says of its samples cannot be read") from error


def check_opened(kind: str, image: Image.Image, file: bytes) -> list[str]:
    """Refuse what shows only once Pillow has opened a file; notes."""
    if kind == "TIFF":
        tiff.mend_palette(image)
    tile = getattr(image, "tile", None)
    if kind == "GIF" and tile and tuple(tile[0][1]) != (0, 0, *image.size):
        raise Untested("GIF", "a frame that does not fill its screen")
    if kind == "BMP" and tile and tile[0][3][0] not in _BMP_RAW_MODES[_bmp_bits(file)]:
        raise Untested("BMP", "grey in a palette that is read wrongly")
    if kind == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise Untested("JPEG", "CMYK that does not say whether 0 is no ink or all of it")
    if kind == "HEIF":
        depth = int(image.info.get("bit_depth", 8))
        return [f"{depth}-bit samples reduced to 8"] if depth > 8 else []
    return []


# --- TIFF, BMP, PNM, PNG ----------------------------------------------------------------------


def _tiff(file: bytes) -> Facts:
    return Facts(notes=tuple(tiff.check_layout(file)))


_BMP_HEADERS: Final = {12, 40, 52, 56, 108, 124}
_BMP_RAW_MODES: Final = {
    1: ("1", "P;1"),
    4: ("P;4",),
    8: ("L", "P"),
    16: ("BGR;15", "BGR;16"),
    24: ("BGR",),
    32: ("BGRX", "XBGR", "BGXR", "ABGR", "RGBA", "BGRA", "BGAR"),
}
_BMP_PLAIN, _BMP_MASKS = 0, 3
_BMP_COMPRESSIONS: Final = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG", 6: "masks with opacity"}


def _bmp_bits(file: bytes) -> int:
    short = int.from_bytes(file[14:18], "little") == 12
    return int.from_bytes(file[24:26] if short else file[28:30], "little")


def _bmp(file: bytes) -> Facts:
    """Source: Microsoft, Bitmap Storage; BITMAPV5HEADER."""
    header, bits = int.from_bytes(file[14:18], "little"), _bmp_bits(file)
    if header not in _BMP_HEADERS or bits not in _BMP_RAW_MODES:
        raise Untested("BMP", f"{bits} bits, a header of {header} bytes")
    compression = struct.unpack_from("<I", file, 30)[0] if header > 12 else _BMP_PLAIN
    if compression not in (_BMP_PLAIN, _BMP_MASKS):
        raise Untested("BMP", _BMP_COMPRESSIONS.get(compression, f"compression {compression}"))
    if compression == _BMP_MASKS and (bits not in (16, 32) or not any(file[54:66])):
        raise Untested("BMP", f"masks for {bits} bits")
    if header == 124 and file[70:74] in (b"DEBM", b"KNIL"):  # MBED, LINK
        return Facts(notes=(_PROFILE_LEFT_OUT,))
    return Facts()


def _gif(file: bytes) -> Facts:
    return Facts(notes=(_PROFILE_LEFT_OUT,) if b"!\xff\x0bICCRGBG1012" in file else ())


def _ppm(file: bytes) -> Facts:
    if not file[2:3].isspace() and file[2:3] != b"#":
        raise ImageError("not a PBM, PGM or PPM file")
    return Facts()


def _png(file: bytes) -> Facts:
    """Colours of `cICP`, which overrules all others. Source: PNG, third edition, 11.3.2.6."""
    offset = 8
    while (kind := file[offset + 4 : offset + 8]) not in (b"IDAT", b""):
        if kind == b"cICP":
            primaries, transfer, matrix, full = file[offset + 8 : offset + 12]
            if matrix:
                raise Untested("PNG", "cICP of other colours than RGB")
            return Facts(from_code_points(primaries, transfer, bool(full)))
        offset += 12 + int.from_bytes(file[offset : offset + 4], "big")
    return Facts()


# --- AVIF, HEIF, JPEG 2000 --------------------------------------------------------------------


def _avif(file: bytes) -> Facts:
    if file[8:12] == b"avis":
        raise ImageError("animated pictures are not supported")
    colours, crop, depth = None, None, 8
    for kind, data in boxes.primary_properties(file):
        if kind == b"colr" and data[:4] == b"nclx":
            colours = from_code_points(*struct.unpack_from(">HH", data, 4))
        elif kind == b"clap":
            crop = _clean_aperture(data)
        elif kind == b"pixi":
            depth = max(data[5 : 5 + data[4]])
        elif kind == b"av1C":
            depth = max(depth, (8, 10, 10, 12)[data[2] >> 5 & 3])
    notes = (f"{depth}-bit samples reduced to 8",) if depth > 8 else ()
    return Facts(colours or Colours(), crop=crop, notes=notes)


def _clean_aperture(data: bytes) -> Crop:
    """Source: ISO/IEC 14496-12, 12.1.4."""
    numbers = struct.unpack(">IIIIiIiI", data[:32])
    try:
        width, height, x, y = (Fraction(*numbers[k : k + 2]) for k in (0, 2, 4, 6))
    except ZeroDivisionError as error:
        raise ImageError("damaged: its clean aperture is no rectangle") from error
    return width, height, x, y


def _heif(file: bytes) -> Facts:
    """Clean aperture, mirror and rotation are applied by libheif."""
    if file[8:12] in (b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"):
        raise ImageError("animated pictures are not supported")
    colours = Colours()
    for kind, data in boxes.primary_properties(file):
        if kind == b"colr" and data[:4] == b"nclx":
            colours = from_code_points(*struct.unpack_from(">HH", data, 4))
    return Facts(colours)


_JP2_CHANNELS: Final = {16: 3, 17: 1}  # enumerated colour space: sRGB, grey
_JP2_SPACES: Final = {b"RGB ": 3, b"GRAY": 1}


def _jpeg2000(file: bytes) -> Facts:
    """Source: ISO/IEC 15444-1, annexes A.5.1 (SIZ) and I (JP2)."""
    if file.startswith(b"\xff\x4f"):
        _check_codestream(file, (1, 3))
        return Facts()
    if b"jp2 " not in (boxes.child(file, b"ftyp") or b""):
        raise Untested("JPEG 2000", "not JP2")
    codestream = boxes.child(file, b"jp2c") or b""
    header = list(boxes.children(boxes.child(file, b"jp2h") or b""))
    found = {box.kind: box.data for box in reversed(header)}  # the first of each
    if unknown := {b"pclr", b"cmap", b"bpcc"} & set(found):
        raise Untested("JPEG 2000", f"with a box {min(unknown).decode()}")
    colours, icc = found.get(b"colr", b""), None
    if colours[:1] == b"\1":
        channels = _JP2_CHANNELS.get(int.from_bytes(colours[3:7], "big"), 0)
    else:
        icc = colours[3:] if colours[:1] == b"\2" else b""
        channels = _JP2_SPACES.get(icc[16:20], 0)
    if not channels:
        raise Untested("JPEG 2000", "other colours than grey and RGB")
    if definition := found.get(b"cdef"):
        channels = _defined(definition, channels)
    if _check_codestream(codestream, (channels,)) != found.get(b"ihdr", b"")[:8]:
        raise ImageError("damaged: it has two sizes")
    return Facts(icc=icc)


def _defined(definition: bytes, colours: int) -> int:
    """The number of channels, where a box `cdef` lists them in their order, opacity last."""
    count = int.from_bytes(definition[:2], "big")
    entries = list(struct.iter_unpack(">3H", definition[2 : 2 + 6 * count]))
    plain = [(k, 0, k + 1) for k in range(colours)]
    if sorted(entries) not in (plain, [*plain, (colours, 1, 0)]):
        raise Untested("JPEG 2000", "channels in an order of their own")
    return count


def _check_codestream(codestream: bytes, channels: tuple[int, ...]) -> bytes:
    """The height and width, as a box `ihdr` has them."""
    (width, height, left, top), count = (
        struct.unpack_from(">4I", codestream, 8),
        struct.unpack_from(">H", codestream, 40)[0],
    )
    parts = list(struct.iter_unpack("3B", codestream[42 : 42 + 3 * count]))
    if codestream[2:4] != b"\xff\x51" or count not in channels or len(parts) != count:
        raise Untested("JPEG 2000", f"{count} channels")
    depths = {depth & 127 for depth, _, _ in parts}
    deep = depths - {7} and not (count == 1 and max(depths) in range(7, 16))
    if deep or any(depth > 127 for depth, _, _ in parts):
        raise Untested("JPEG 2000", "signed samples, or colours that have not 8 bits")
    if left or top or any(steps != [1, 1] for _, *steps in parts):
        raise Untested("JPEG 2000", "subsampled, or with an offset")
    return struct.pack(">II", height, width)


_READERS: Final[dict[str, Callable[[bytes], Facts]]] = {
    "AVIF": _avif,
    "BMP": _bmp,
    "GIF": _gif,
    "HEIF": _heif,
    "JPEG2000": _jpeg2000,
    "PNG": _png,
    "PPM": _ppm,
    "TIFF": _tiff,
}
