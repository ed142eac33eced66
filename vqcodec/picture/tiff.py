"""Which layouts of TIFF files are read rightly: those that tests compare with known samples.

TIFF is thousands of incompatible formats, and Pillow reads some of them wrongly without a word.
The list below is what was found right, for every compression, byte order and tiling it allows; the
rest is refused, by name. Source: TIFF 6.0 (Adobe, 1992), and its supplements.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image, ImagePalette, TiffImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture.formats import Untested

__all__ = ["check_layout", "mend_palette"]

_NONE: Final = 1
_LZW_DEFLATE: Final = {5, 8, 32946}
_PACKBITS: Final = 32773
_FAX: Final = {2, 3, 4}
_JPEG: Final = 7
_COMPRESSIONS: Final = {
    _NONE: "not compressed",
    2: "CCITT RLE",
    3: "CCITT Group 3",
    4: "CCITT Group 4",
    5: "LZW",
    6: "old JPEG",
    _JPEG: "JPEG",
    8: "Deflate",
    32946: "Deflate",
    _PACKBITS: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRIC: Final = {
    _WHITE_IS_ZERO: "grey in which 0 is white",
    _BLACK_IS_ZERO: "grey",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    _LAB: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
_CHANNELS: Final = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_SAMPLE_FORMAT: Final = {_UNSIGNED: "", _SIGNED: "signed ", _FLOAT: "float "}
_BARE: Final[frozenset[tuple[int, ...]]] = frozenset({()})
_WITH_EXTRA: Final = _BARE | {(0,), (1,), (2,)}  # something, opacity: premultiplied, or not
# (photometric, sample format) -> bits -> extra channels
_TESTED: Final[dict[tuple[int, int], dict[int, frozenset[tuple[int, ...]]]]] = {
    (_WHITE_IS_ZERO, _UNSIGNED): dict.fromkeys((1, 2, 4, 8, 16), _BARE),
    (_WHITE_IS_ZERO, _FLOAT): {32: _BARE},
    (_BLACK_IS_ZERO, _UNSIGNED): dict.fromkeys((1, 2, 4, 12, 16, 32), _BARE) | {8: _WITH_EXTRA},
    (_BLACK_IS_ZERO, _SIGNED): dict.fromkeys((16, 32), _BARE),
    (_BLACK_IS_ZERO, _FLOAT): {32: _BARE},
    (_RGB, _UNSIGNED): {
        8: _WITH_EXTRA | {(0, 0), (1, 0), (2, 0)},
        16: _WITH_EXTRA,
    },
    (_PALETTE, _UNSIGNED): dict.fromkeys((1, 2, 4), _BARE) | {8: _BARE | {(0,), (2,)}},
    (_CMYK, _UNSIGNED): {8: _BARE | {(0,)}, 16: _BARE},
    (_YCBCR, _UNSIGNED): {8: _BARE},
    (_LAB, _UNSIGNED): {8: _BARE},
}
_BT601: Final = (0.299, 0.587, 0.114)
_FULL_RANGE: Final = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
Tags = Mapping[int, Any]


@dataclass(frozen=True)
class _Layout:
    """How samples are stored: the values of the tags of these names."""

    photometric: int
    bits: tuple[int, ...]
    sample_format: int
    extra: tuple[int, ...]
    compression: int
    planar: int
    predictor: int
    fill_order: int
    big_endian: bool

    def __str__(self) -> str:
        depth = "/".join(map(str, sorted(set(self.bits))))
        parts = [
            _PHOTOMETRIC.get(self.photometric, f"photometric {self.photometric}"),
            f"{len(self.bits)} x {depth} bits",
            _SAMPLE_FORMAT.get(self.sample_format, "undefined samples").strip(),
            _COMPRESSIONS.get(self.compression, f"compression {self.compression}"),
            "separate planes" if self.planar == 2 else "",
            f"extra channels {self.extra}" if self.extra else "",
            f"predictor {self.predictor}" if self.predictor != 1 else "",
            "reversed bits" if self.fill_order == 2 else "",
            "big-endian" if self.big_endian else "",
        ]
        return ", ".join(part for part in parts if part)


def check_layout(file: bytes) -> list[str]:
    """Refuse a TIFF file that is of no layout known to be read rightly.

    Returns:
        Notes.
    Raises:
        ImageError: it is not; the line names the layout.
    """
    if file.startswith(b"MM\0+"):
        raise Untested("TIFF", "big-endian BigTIFF")
    tags = _tags(file)
    layout = _layout(tags, file.startswith(b"MM"))
    notes = []
    if layout.photometric == _RGB and len(layout.bits) == 4 and not layout.extra:
        notes.append("fourth channel, of which nothing is said, taken as opacity")
        channels = 4
    else:
        channels = _CHANNELS.get(layout.photometric, 1) + len(layout.extra)
    reason = _misled(tags, layout)
    if not reason and not (len(layout.bits) == channels and _is_tested(layout)):
        reason = str(layout)
    if reason:
        raise Untested("TIFF", reason)
    if 34675 not in tags and {301, 318, 319} & set(tags):
        notes.append("chromaticities and transfer function left out: samples count as sRGB")
    return notes


def mend_palette(image: Image.Image) -> None:
    """Take a palette of entries below 256 for one of 8 bits, as scanners write and libtiff does.

    Entries have 16 bits by the standard, of which Pillow takes the upper half.
    """
    entries = getattr(image, "tag_v2", {}).get(320)
    if image.mode in ("P", "PA") and entries and max(entries) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(entries))


def _tags(file: bytes) -> Tags:
    """The tags of the first page."""
    head = file[: 16 if file[2:4] == b"+\0" else 8]
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    stream = io.BytesIO(file)
    stream.seek(tags.next)
    tags.load(stream)
    return dict(tags)


def _layout(tags: Tags, big_endian: bool) -> _Layout:
    bits = tuple(tags.get(258, (1,)))
    count = tags.get(277, 1)
    if len(bits) == 1:
        bits *= min(count, 64)
    elif len(bits) != count:
        raise ImageError(f"damaged: {count} channels, but {len(bits)} depths")
    formats = set(tags.get(339, (_UNSIGNED,)))
    return _Layout(
        photometric=tags.get(262, -1),
        bits=bits,
        sample_format=formats.pop() if len(formats) == 1 else 0,
        extra=tuple(tags.get(338, ())),
        compression=tags.get(259, _NONE),
        planar=tags.get(284, 1),
        predictor=tags.get(317, 1),
        fill_order=tags.get(266, 1),
        big_endian=big_endian,
    )


def _misled(tags: Tags, layout: _Layout) -> str:
    """Why tags that Pillow ignores make a picture wrong; empty where none does."""
    if 50706 in tags:
        return "DNG, a camera's raw data"
    if tags.get(254, 0) & 1 or tags.get(255, 1) == 2:
        return "the first page is a preview, as in raw files of cameras"
    if tags.get(254, 0) & 4:
        return "a transparency mask"
    if tags.get(32997, 1) != 1:
        return "a volume"
    if layout.photometric == _CMYK and tags.get(332, 1) != 1:
        return "inks that are not CMYK"
    if layout.photometric == _PALETTE and len(tags.get(320, ())) != 3 << layout.bits[0]:
        return "a palette of another size than its samples need"
    if layout.photometric != _YCBCR:
        return ""
    if layout.compression != _JPEG and tuple(tags.get(530, (2, 2))) != (1, 1):
        return "YCbCr with fewer samples of colour"
    coefficients = [float(value) for value in tags.get(529, _BT601)]
    levels = tuple(float(value) for value in tags.get(532, _FULL_RANGE))
    far = max(abs(one - other) for one, other in zip(coefficients, _BT601, strict=True)) > 0.001
    return "YCbCr of other colours than JPEG's" if far or levels != _FULL_RANGE else ""


def _is_tested(layout: _Layout) -> bool:
    kind, depth = (layout.photometric, layout.sample_format), layout.bits[0]
    if len(set(layout.bits)) > 1 or layout.extra not in _TESTED.get(kind, {}).get(depth, ()):
        return False
    return (
        _compression_is_tested(layout, depth)
        and (layout.planar == 1 or len(layout.bits) == 1 or _planes_are_tested(layout, depth))
        and (layout.fill_order == 1 or depth == 1 and layout.photometric != _PALETTE)
        and (not layout.big_endian or _big_endian_is_tested(layout, depth))
    )


def _compression_is_tested(layout: _Layout, depth: int) -> bool:
    differences = layout.sample_format != _FLOAT and depth in (8, 16, 32)
    predictors = {1, 2} if differences else {1, 3} if layout.sample_format == _FLOAT else {1}
    if layout.compression in _LZW_DEFLATE:
        return layout.predictor in predictors
    if layout.compression in _FAX:
        return depth == 1 and layout.photometric != _PALETTE
    if layout.compression == _JPEG:
        kinds = (_BLACK_IS_ZERO, _RGB, _YCBCR)
        return depth == 8 and layout.photometric in kinds and not layout.extra
    return layout.compression in (_NONE, _PACKBITS) and layout.predictor == 1


def _planes_are_tested(layout: _Layout, depth: int) -> bool:
    if layout.photometric not in (_RGB, _CMYK) or layout.compression == _JPEG:
        return False
    if len(layout.extra) > 1:
        return False
    return layout.compression != _NONE or depth == 8 and layout.extra in ((), (2,))


def _big_endian_is_tested(layout: _Layout, depth: int) -> bool:
    """Whether Pillow swaps the bytes that need it, and only these."""
    if depth == 32 and layout.sample_format == _UNSIGNED or depth == 12:
        return False
    if depth == 16 and layout.photometric == _WHITE_IS_ZERO:
        return False
    swapped_twice = depth == 32 or layout.sample_format == _SIGNED
    return layout.compression == _NONE or not swapped_twice
