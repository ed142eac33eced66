"""AVIF and HEIF: turned, cropped, of any depth and colours; HEIF without registering anything."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from known import AVIF, COLOURS, OPACITY, SOFT, SRGB, box, difference, refused, with_code_points
from pictures import saved
from PIL import Image, ImageOps, features

from vqcodec.errors import ImageError
from vqcodec.picture import boxes, layouts
from vqcodec.picture.reading import read_picture

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@needs_avif
@pytest.mark.parametrize(("angle", "axis"), [(a, b) for a in range(4) for b in range(2)])
def test_avif_is_turned_and_mirrored(angle: int, axis: int) -> None:
    """Anticlockwise first, then top and bottom (0) or left and right (1) exchanged."""
    data = bytearray(saved(SOFT, "AVIF", exif=turned(5), **AVIF))
    data[data.index(b"irot") + 4], data[data.index(b"imir") + 4] = angle, axis
    wanted = np.rot90(COLOURS, angle)
    wanted = wanted[::-1] if axis == 0 else wanted[:, ::-1]
    assert difference(read_picture(bytes(data)), wanted) <= 5


def with_aperture(*numbers: int, orientation: int = 1) -> bytes:
    """An AVIF file with a clean aperture, which takes the place of a profile of its size."""
    data = saved(SOFT, "AVIF", icc_profile=bytes(28), exif=turned(orientation), **AVIF)
    meta = boxes.child(data, b"meta") or b""
    properties = boxes.child(boxes.child(meta[4:], b"iprp") or b"", b"ipco") or b""
    index = [part.data[:4] for part in boxes.children(properties)].index(b"prof") + 1
    patch = bytearray(data)
    start = data.index(b"colrprof")
    patch[start : start + 36] = b"clap" + struct.pack(">IIIIiIiI", *numbers)
    entries = data.index(b"ipma") + 14
    for place in range(entries + 1, entries + 1 + data[entries]):
        if patch[place] == index:
            patch[place] |= 0x80  # essential, as libavif asks of it
    return bytes(patch)


@needs_avif
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_clean_aperture_of_avif(orientation: int) -> None:
    data = with_aperture(20, 1, 10, 1, 2, 2, -6, 2, orientation=orientation)
    wanted = COLOURS[8:18, 15:35]  # 20 x 10 around a point 1 right of and 3 above the middle
    if orientation == 6:
        wanted = np.rot90(wanted, -1)
    assert difference(read_picture(data), wanted) <= 5


@needs_avif
@pytest.mark.parametrize(
    "numbers",
    [
        (20, 1, 10, 1, 1, 2, 0, 1),  # at half a sample
        (60, 1, 10, 1, 0, 1, 0, 1),  # too wide
        (20, 1, 10, 1, 60, 1, 0, 1),  # outside
        (20, 0, 10, 1, 0, 1, 0, 1),
    ],
)
def test_a_clean_aperture_that_is_none(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ImageError):
        read_picture(with_aperture(*numbers))


@needs_avif
@pytest.mark.parametrize("premultiplied", [False, True])
def test_opacity_of_avif(premultiplied: bool) -> None:
    source = Image.fromarray(np.dstack([COLOURS, OPACITY]))
    picture = read_picture(saved(source, "AVIF", alpha_premultiplied=premultiplied, **AVIF))
    assert difference(picture, COLOURS) <= (12 if premultiplied else 6)
    assert picture.alpha is not None and np.abs(picture.alpha.astype(int) - OPACITY).max() <= 2


@needs_avif
@pytest.mark.parametrize("signal_range", ["full", "limited"])
def test_range_and_grey_of_avif(signal_range: str) -> None:
    colour = read_picture(saved(SOFT, "AVIF", range=signal_range, **AVIF))
    assert difference(colour, COLOURS) <= 6 and colour.notes == () and colour.icc is None
    grey = read_picture(saved(SOFT.convert("L"), "AVIF", range=signal_range, quality=97))
    assert grey.grey and difference(grey, np.asarray(SOFT.convert("L"))) <= 4


@needs_avif
def test_colours_of_avif() -> None:
    plain, p3 = read_picture(with_code_points(1, 1)), read_picture(with_code_points(12, 13))
    assert plain.icc is None and plain.notes == ()
    assert p3.icc is not None and p3.notes == () and difference(p3, COLOURS) <= 5
    pq = read_picture(with_code_points(9, 16))
    assert pq.icc is None and pq.notes == ("samples are BT.2020 PQ: taken as sRGB",)
    kept = read_picture(with_code_points(9, 16, icc_profile=SRGB))  # which overrules them
    assert kept.icc == SRGB and kept.notes == ()
    assert read_picture(with_code_points(12, 13), strip=True).icc is None


@pytest.mark.parametrize(
    ("properties", "notes"),
    [
        ([box(b"pixi", b"\0\0\0\0\3\x0a\x0a\x0a")], ("10-bit samples reduced to 8",)),
        ([box(b"av1C", b"\x81\0\x60\0")], ("12-bit samples reduced to 8",)),
        ([box(b"av1C", b"\x81\0\x40\0")], ("10-bit samples reduced to 8",)),
        ([box(b"av1C", b"\x81\0\0\0"), box(b"pixi", b"\0\0\0\0\1\x08")], ()),
    ],
)
@pytest.mark.parametrize(("version", "wide"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_depth_of_avif(
    properties: list[bytes], notes: tuple[str, ...], version: int, wide: int
) -> None:
    """Of the primary picture, 7, and not of another one."""
    other = box(b"av1C", b"\x81\0\x60\0")
    item, index = ">I" if version else ">H", ">H" if wide else ">B"
    entries = struct.pack(item, 3) + b"\1" + struct.pack(index, 1)
    entries += struct.pack(item, 7) + bytes([len(properties)])
    entries += b"".join(struct.pack(index, 2 + k) for k in range(len(properties)))
    ipma = box(b"ipma", bytes([version, 0, 0, wide]) + struct.pack(">I", 2) + entries)
    ipco = box(b"ipco", other + b"".join(properties))
    pitm = box(b"pitm", bytes([version, 0, 0, 0]) + struct.pack(item, 7))
    meta = box(b"meta", bytes(4) + pitm + box(b"iprp", ipco + ipma))
    assert layouts.facts_of("AVIF", box(b"ftyp", b"avif" + bytes(4)) + meta).notes == notes


@needs_avif
def test_damaged_boxes() -> None:
    data = saved(SOFT, "AVIF")
    for size in range(0, len(data), 7):
        with pytest.raises(ImageError):
            read_picture(data[:size])
    refused(data.replace(b"pitm", b"none"), "the file has no primary picture")
    refused(data.replace(b"ftypavif", b"ftypavis"), "animated pictures are not supported")


# --- HEIF -------------------------------------------------------------------------------------


def heif(source: Image.Image, **options: Any) -> bytes:
    plugin = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    plugin.from_pillow(source).save(buffer, quality=-1, chroma=444, **options)
    return buffer.getvalue()


def test_heif_is_read_and_registered_nowhere() -> None:
    picture = read_picture(heif(SOFT))
    assert difference(picture, COLOURS) <= 2 and picture.notes == () and picture.icc is None
    assert "HEIF" not in Image.OPEN and ".heic" not in Image.registered_extensions()
    with pytest.raises(ImageError, match="48 x 32 is over the limit of 100 pixels"):
        read_picture(heif(SOFT), max_pixels=100)


def test_opacity_and_grey_of_heif() -> None:
    source = Image.fromarray(np.dstack([COLOURS, OPACITY]))
    picture = read_picture(heif(source))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, OPACITY)
    assert difference(picture, COLOURS) <= 2
    grey = SOFT.convert("L")
    assert read_picture(heif(grey)).grey
    assert difference(read_picture(heif(grey)), np.asarray(grey)) <= 1


def test_depth_and_colours_of_heif() -> None:
    plugin = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    deep = (COLOURS.astype(np.uint16) * 257).tobytes()
    plugin.encode("RGB;16", (48, 32), deep, buffer, quality=-1, chroma=444)
    picture = read_picture(buffer.getvalue())
    assert picture.notes == ("10-bit samples reduced to 8",) and difference(picture, COLOURS) <= 2
    p3 = read_picture(heif(SOFT, color_primaries=12, transfer_characteristics=13))
    assert p3.icc is not None and p3.notes == ()
    hlg = heif(SOFT, color_primaries=9, transfer_characteristics=18, matrix_coefficients=9)
    assert read_picture(hlg).notes == ("samples are BT.2020 HLG: taken as sRGB",)
    kept = read_picture(heif(SOFT, icc_profile=SRGB))
    assert kept.icc == SRGB and kept.notes == ()
    for options in ({"matrix_coefficients": 0}, {"full_range_flag": 0}):
        assert difference(read_picture(heif(SOFT, **options)), COLOURS) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_heif(orientation: int) -> None:
    plugin = pytest.importorskip("pillow_heif.as_plugin")
    source, buffer = SOFT.copy(), io.BytesIO()
    source.encoderinfo = {"quality": -1, "chroma": 444, "exif": turned(orientation).tobytes()}
    plugin._save_heif(source, buffer, "")
    lying = SOFT.copy()
    lying.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(lying))
    assert difference(read_picture(buffer.getvalue()), wanted) <= 2


def test_heif_of_several_pictures() -> None:
    plugin = pytest.importorskip("pillow_heif")
    several, buffer = plugin.from_pillow(SOFT), io.BytesIO()
    several.add_from_pillow(SOFT.rotate(180))
    several.save(buffer, primary_index=1, quality=-1, chroma=444)
    picture = read_picture(buffer.getvalue())
    assert picture.notes == ("only the primary picture of the file kept",)
    assert difference(picture, COLOURS[::-1, ::-1]) <= 2


def test_damaged_heif() -> None:
    data = heif(SOFT)
    for size in (*range(0, 400, 13), len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError):
            read_picture(data[:size])


def test_heif_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    head = struct.pack(">I", 16) + b"ftypheic" + bytes(4)
    pitm = box(b"pitm", bytes(4) + b"\0\1")
    data = head + box(b"meta", bytes(4) + pitm + box(b"iprp", box(b"ipco", b"")))
    refused(data, "HEIC and HEIF need the package pillow-heif: install vqcodec[heif]")
