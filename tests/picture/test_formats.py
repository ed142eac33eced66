"""formats.py, layouts.py, opening.py: a picture file is read rightly, with a note, or refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from known import (
    COLOURS,
    OPACITY,
    SOFT,
    SRGB,
    X,
    Y,
    cdef,
    difference,
    jp2,
    refused,
    with_box,
    with_code_points,
)
from pictures import noise, png, saved
from PIL import Image, features
from tiff_files import Layout, tiff_file

from vqcodec import files
from vqcodec.errors import ImageError
from vqcodec.picture import formats
from vqcodec.picture.reading import from_pil, read_picture

Array = np.ndarray[Any, Any]
ADVICE = "; convert it to PNG or use any_format"


# --- which formats ----------------------------------------------------------------------------

OTHERS = ["DDS", "DIB", "ICNS", "ICO", "PCX", "SGI", "TGA"]  # which Pillow writes


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_refused_by_name_or_taken_at_pillows_word(kind: str) -> None:
    source = Image.fromarray(noise(16, 16, 3))
    data = saved(source, kind, **({"sizes": [(16, 16)]} if kind == "ICO" else {}))
    refused(data, f"{kind} files are not read{ADVICE}")
    picture = read_picture(data, any_format=True)
    assert picture.notes[0] == f"{kind} taken as Pillow reads it"
    if kind != "ICNS":  # which has sizes of its own
        np.testing.assert_array_equal(picture.rgb, noise(16, 16, 3))
    with Image.open(io.BytesIO(data)) as image:  # a program's own image is its own affair
        assert from_pil(image).rgb.shape == picture.rgb.shape


def test_vector_pictures_are_refused_always() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    for any_format in (False, True):
        with pytest.raises(ImageError, match="vector pictures are not supported"):
            read_picture(eps, any_format=any_format)


def test_suffixes_come_from_the_formats_that_are_read() -> None:
    assert files.PICTURES == formats.SUFFIXES
    assert {".jpg", ".heic", ".jp2"} <= formats.SUFFIXES
    assert not {".psd", ".tga", ".pcx", ".ico", ".svg"} & formats.SUFFIXES
    code = (
        "import sys, vqcodec.picture.formats, vqcodec.files;"
        "sys.exit(bool({'numpy', 'PIL', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"]
)
def test_formats_are_told_by_their_first_bytes(kind: str) -> None:
    assert formats.identify(saved(SOFT, kind)) == kind
    assert kind in formats.FORMATS


@pytest.mark.parametrize(
    "start", [b"", b"P", b"P7\n", b"PF\n", b"Pf\n", b"RIFF....WAVE", b"\0\0\0\x18ftypqt  "]
)
def test_other_first_bytes(start: bytes) -> None:
    assert formats.identify(start + bytes(64)) is None


def test_brands_of_heif_and_avif() -> None:
    def head(*brands: bytes) -> bytes:
        return (
            struct.pack(">I", 16 + 4 * len(brands[1:]))
            + b"ftyp"
            + brands[0]
            + bytes(4)
            + b"".join(brands[1:])
        )

    assert formats.identify(head(b"mif1", b"mif1", b"heic")) == "HEIF"
    assert formats.identify(head(b"mif1", b"avif", b"miaf")) == "AVIF"
    assert formats.identify(head(b"heic")) == "HEIF"
    assert formats.identify(head(b"mif1", b"mif1")) is None
    assert formats.identify(head(b"mif1") + b"avif") is None  # behind the box


# --- BMP --------------------------------------------------------------------------------------


def bmp(
    rows: Sequence[bytes],
    width: int,
    bits: int,
    *,
    header: int = 40,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: bytes = b"",
    colours: int = 0,
    top_down: bool = False,
    space: bytes = b"sRGB",
) -> bytes:
    """A BMP file of rows from top to bottom."""
    data = b"".join(row + bytes(-len(row) % 4) for row in (rows if top_down else rows[::-1]))
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, len(rows), 1, bits)
    else:
        height = -len(rows) if top_down else len(rows)
        info = struct.pack("<IiiHHI", header, width, height, 1, bits, compression)
        info += struct.pack("<IiiII", len(data), 0, 0, colours, 0)
        packed = struct.pack(f"<{len(masks)}I", *masks)
        if header > 40:
            info += packed.ljust(16, b"\0") + space[::-1]
            info = info.ljust(header, b"\0")
        else:
            info += packed
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<III", start + len(data), 0, start) + info + palette + data


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header", [12, 40, 108, 124])
def test_bmp_of_24_bits(header: int, top_down: bool) -> None:
    if header == 12 and top_down:
        return  # which cannot say so
    colours = noise(5, 7, 3)
    rows = [row[:, ::-1].tobytes() for row in colours]
    data = bmp(rows, 7, 24, header=header, top_down=top_down)
    np.testing.assert_array_equal(read_picture(data).rgb, colours)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("header", [12, 40])
def test_bmp_with_a_palette(bits: int, header: int) -> None:
    count = 2**bits
    palette = np.random.default_rng(3).integers(0, 256, (count, 3)).astype(np.uint8)
    index = noise(5, 7) % np.uint8(min(count, 255))
    planes = (index[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    rows = [np.packbits(row.ravel()).tobytes() for row in planes]
    entries = [colour[::-1].tobytes() + bytes(header == 40) for colour in palette]
    data = bmp(rows, 7, bits, header=header, palette=b"".join(entries))
    np.testing.assert_array_equal(read_picture(data).rgb, palette[index])


MASKS: list[tuple[int, ...]] = [
    (0xFF0000, 0xFF00, 0xFF, 0),
    (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    (0xFF000000, 0xFF0000, 0xFF00, 0),
    (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
    (0xFF000000, 0xFF00, 0xFF, 0),
    (0xFF0000, 0xFF, 0xFF00, 0),
    (0x3FF00000, 0xFFC00, 0x3FF, 0),
    (0, 0, 0, 0),
]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("header", [40, 124])
def test_bmp_of_32_bits_with_masks(masks: tuple[int, ...], header: int) -> None:
    if header == 40 and masks[3]:
        return  # which has three masks
    colours = noise(5, 7, 4)
    pixels = np.zeros((5, 7), np.uint32)
    for channel, mask in zip(np.moveaxis(colours, 2, 0), masks, strict=True):
        shift = (mask & -mask).bit_length() - 1 if mask else 0
        pixels |= (channel.astype(np.uint32) << np.uint32(shift)) & np.uint32(mask)
    used = masks if header > 40 else masks[:3]
    data = bmp([row.tobytes() for row in pixels], 7, 32, header=header, compression=3, masks=used)
    try:
        picture = read_picture(data)
    except ImageError as error:
        assert MASKS.index(masks) >= 7, error  # Pillow has no such masks
        return
    np.testing.assert_array_equal(picture.rgb, colours[..., :3])
    if masks[3]:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, colours[..., 3])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("masks", [(), (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)])
def test_bmp_of_16_bits(masks: tuple[int, ...]) -> None:
    green = 6 if masks[:1] == (0xF800,) else 5
    values = noise(5, 7, 3) >> np.uint8(3)
    values[..., 1] = noise(5, 7) >> np.uint8(8 - green)
    wide = values.astype(np.uint16)
    pixels = wide[..., 0] << (5 + green) | wide[..., 1] << 5 | wide[..., 2]
    rows = [row.astype("<u2").tobytes() for row in pixels]
    data = bmp(rows, 7, 16, compression=3 if masks else 0, masks=masks)
    wanted = values * 255.0 / [31, 2**green - 1, 31]
    assert np.abs(read_picture(data).rgb - wanted).max() <= 1


def test_bmp_of_32_bits_without_masks_has_no_opacity() -> None:
    colours = noise(5, 7, 4)
    picture = read_picture(bmp([row[:, [2, 1, 0, 3]].tobytes() for row in colours], 7, 32))
    np.testing.assert_array_equal(picture.rgb, colours[..., :3])
    assert picture.alpha is None


GREYS = b"".join(bytes([level, level, level, 0]) for level in range(16))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (bmp([bytes(4)], 4, 8, compression=1), "BMP of an untested kind (RLE8)"),
        (bmp([bytes(4)], 4, 4, compression=2), "RLE4"),
        (bmp([bytes(8)], 4, 16, compression=6), "masks with opacity"),
        (bmp([bytes(8)], 4, 16, header=64), "16 bits, a header of 64 bytes"),
        (bmp([bytes(1)], 4, 2, palette=bytes(16)), "2 bits, a header of 40 bytes"),
        # Palettes of greys, for which Pillow takes the samples to have 1 and 8 bits.
        (bmp([bytes(7)], 7, 8, palette=b"\0\0\0\0\xff\xff\xff\0", colours=2), "read wrongly"),
        (bmp([bytes(4)], 7, 4, palette=GREYS), "read wrongly"),
    ],
)  # fmt: skip
def test_other_bmp_layouts_are_refused(data: bytes, told: str) -> None:
    refused(data, told)
    refused(data, ADVICE)


def test_bmp_profile_is_told_of() -> None:
    data = bmp([bytes(3)], 1, 24, header=124, space=b"MBED")
    assert read_picture(data).notes == ("colour profile left out: samples count as sRGB",)


# --- PNM, GIF, JPEG ---------------------------------------------------------------------------


@pytest.mark.parametrize("greatest", [1, 15, 100, 255, 256, 1023, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_pnm_of_any_greatest_value(kind: int, greatest: int) -> None:
    values = np.arange(24).reshape(2, 4, 3) * greatest // 23
    values = values if kind in (3, 6) else values[..., 0]
    data = b"P%d # comment\n4 2\n%d\n" % (kind, greatest)
    if kind < 4:
        data += " ".join(map(str, values.ravel().tolist())).encode()
    else:
        data += values.astype(np.uint8 if greatest < 256 else ">u2").tobytes()
    picture = read_picture(data)
    wanted = values * 255 / greatest
    found = picture.rgb if kind in (3, 6) else picture.rgb[..., 0]
    assert np.abs(found - wanted).max() <= (1 if kind in (3, 6) else 0.51)
    assert picture.grey == (kind in (2, 5))


def test_pbm() -> None:
    dark = noise(3, 11) > 128
    for data in (
        b"P4 11 3\n" + np.packbits(dark, axis=1).tobytes(),
        b"P1 11 3\n" + b" ".join(b"1" if bit else b"0" for bit in dark.ravel()),
    ):
        np.testing.assert_array_equal(read_picture(data).rgb[..., 0], np.where(dark, 0, 255))


def test_other_pnm_is_refused() -> None:
    refused(b"Pf 1 1 -1.0\n" + bytes(4), f"PPM files are not read{ADVICE}")
    refused(b"P6X 1 1 255\n" + bytes(3), "not a PBM, PGM or PPM file")


def test_gif_frame_smaller_than_its_screen_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(noise(4, 4) % 3).convert("P"), "GIF"))
    assert read_picture(bytes(data)).width == 4
    data[6:10] = struct.pack("<HH", 6, 5)
    refused(bytes(data), "a frame that does not fill its screen")


def test_the_profile_of_a_gif_is_told_of() -> None:
    data = saved(SOFT.convert("P"), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    blocks = b"!\xff\x0bICCRGBG1012\x04ABCD\0"
    picture = read_picture(data[:start] + blocks + data[start:])
    assert picture.notes == ("colour profile left out: samples count as sRGB",)


def test_gif_with_a_transparent_colour() -> None:
    index = noise(4, 4) % 3
    source = Image.fromarray(index).convert("P")
    source.putpalette([10, 20, 30, 200, 100, 0, 90, 90, 91])
    picture = read_picture(saved(source, "GIF", transparency=1))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, np.where(index == 1, 0, 255))


INKS = np.dstack([COLOURS, Y * 4]).astype(np.uint8)
MIXED = (255 - INKS[..., :3].astype(int)) * (255 - INKS[..., 3:].astype(int)) / 255


def marker(data: bytes, name: bytes) -> int:
    return data.index(name) - 4


def test_cmyk_jpeg_with_and_without_adobes_marker() -> None:
    data = saved(Image.fromarray(INKS, "CMYK"), "JPEG", quality=98)
    assert np.abs(read_picture(data).rgb - MIXED).max() <= 12
    start = marker(data, b"Adobe")
    bare = data[:start] + data[start + 16 :]
    refused(bare, f"CMYK that does not say whether 0 is no ink or all of it){ADVICE}")


def test_ycck_jpeg() -> None:
    r, g, b, k = np.moveaxis(INKS.astype(float), 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    channels = np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402, 255 - k], 2)
    stored = 255 - np.clip(np.rint(channels), 0, 255).astype(np.uint8)  # which Pillow inverts
    data = bytearray(saved(Image.fromarray(stored, "CMYK"), "JPEG", quality=98))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    assert np.abs(read_picture(bytes(data)).rgb - MIXED).max() <= 12


def test_rgb_jpeg() -> None:
    data = saved(SOFT, "JPEG", quality=98, subsampling=0, keep_rgb=True)
    assert difference(read_picture(data), COLOURS) <= 4
    assert b"Adobe" in data or b"JFIF" not in data


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_jpeg_subsampling(subsampling: str) -> None:
    data = saved(SOFT, "JPEG", quality=98, subsampling=subsampling)
    assert difference(read_picture(data), COLOURS) <= 16


def test_the_gain_map_of_a_jpeg_is_told_of() -> None:
    pictures = saved(SOFT, "MPO", save_all=True, append_images=[SOFT])
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>'
    data = pictures[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(xmp)) + xmp + pictures[2:]
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert read_picture(data).notes == ("only the first picture of the file kept",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_damaged_profile_is_told_of(kind: str) -> None:
    data = bytearray(saved(SOFT, kind, icc_profile=SRGB))
    if kind == "JPEG":
        data[data.index(b"ICC_PROFILE") + 13] = 2  # of two parts, one is there
    else:
        start = data.index(b"iCCP")
        size = int.from_bytes(data[start - 4 : start], "big")
        data[start + 20] ^= 255
        data[start + 4 + size : start + 8 + size] = struct.pack(
            ">I", zlib.crc32(bytes(data[start : start + 4 + size]))
        )
    picture = read_picture(bytes(data))
    assert picture.icc is None and picture.notes == ("colour profile left out: it is damaged",)


# --- kinds that were read wrongly without a word ----------------------------------------------


def psd(channels: list[Array]) -> bytes:
    """A Photoshop file of RGB and channels beyond, PackBits in literal runs."""
    rows = [bytes([len(row) - 1]) + row.tobytes() for plane in channels for row in plane]
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", len(channels), 32, 48, 8, 3) + bytes(12)
    return head + b"\0\1" + b"".join(struct.pack(">H", len(row)) for row in rows) + b"".join(rows)


def pcx() -> bytes:
    """One bit, with a palette in which 0 is white."""
    rows = np.packbits(COLOURS[..., 0] < 100, axis=1)
    head = bytes([10, 5, 1, 1]) + struct.pack("<6H", 0, 0, 47, 31, 72, 72) + b"\xff" * 3
    head += bytes(46) + bytes([1]) + struct.pack("<HH", 6, 1) + bytes(58)
    return head + b"".join(bytes([0xC1, value]) for value in rows.ravel())


def test_no_kind_is_silently_wrong() -> None:
    planes = [COLOURS[..., k] for k in range(3)]
    for extra in (1, 2):
        refused(psd([*planes, *[OPACITY] * extra]), f"PSD files are not read{ADVICE}")
    refused(pcx(), f"PCX files are not read{ADVICE}")
    swapped = jp2(Image.fromarray(COLOURS[..., ::-1].copy()))
    refused(with_box(swapped, cdef((0, 0, 3), (1, 0, 2), (2, 0, 1))), "channels in an order")
    index = (X * 5).astype(np.uint8)
    scan = tiff_file(index, Layout(3, tags={320: [*range(256)] * 3}))
    assert difference(read_picture(scan), index) == 0
    if features.check("avif"):
        assert read_picture(with_code_points(9, 16)).notes
    # EXIF whose orientation is of another type: see test_metadata.py


def test_a_16_bit_png_with_a_transparent_colour() -> None:
    data = png(2, 1, 16, 2, b"\0\1\2\3\4\5\6\7\2\3\4\5\6", b"\1\2\3\4\5\6")
    refused(data, "are read wrongly by Pillow")
