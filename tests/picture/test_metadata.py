"""ICC, EXIF and XMP: kept, dropped with a note, or put upright."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from pictures import UPRIGHT_XMP, XMP, noise, profile, saved
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture import png, reading
from vqcodec.picture.picture import Picture, to_pil
from vqcodec.picture.reading import from_pil, read_picture
from vqcodec.picture.writing import write_picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_neutralised(orientation: int, kind: str) -> None:
    source = Image.fromarray(noise(4, 7, 4))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    options = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    with Image.open(io.BytesIO(saved(source, kind, exif=exif, **options))) as opened:
        expected = ImageOps.exif_transpose(opened)
        picture = read_picture(saved(source, kind, exif=exif, **options))
    assert expected is not None and to_pil(picture).tobytes() == expected.tobytes()
    assert picture.exif is not None
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept.get(0x0112, 1) == 1 and kept[0x010F] == "maker"
    assert read_picture(write_picture(picture, "png")).exif == picture.exif


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_patched_in_place(order: str) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}IHHHIII", 8, 1, 0x0112, 4, 1, 3, 0)  # 32-bit field
    source = saved(Image.new("RGB", (3, 2)), "JPEG", exif=b"Exif\0\0" + mark + directory + b"tail")
    picture = read_picture(source)
    assert picture.exif is not None
    assert picture.exif.startswith(mark) and picture.exif.endswith(b"tail")
    assert struct.unpack_from(f"{order}HIH", picture.exif, 12) == (3, 1, 1)


def test_damaged_exif_costs_the_exif_only() -> None:
    for exif in (
        b"Exif\0\0junk",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09",
    ):
        picture = read_picture(saved(Image.new("RGB", (3, 2)), "JPEG", exif=exif))
        assert picture.exif is None and picture.notes == ("damaged EXIF data left out",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_metadata_is_kept_or_stripped(kind: str) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    bare = from_pil(Image.fromarray(noise(4, 5, 3)))
    full = Picture(bare.rgb, False, None, icc, exif.tobytes()[6:], UPRIGHT_XMP)
    data = write_picture(full, kind)
    found = read_picture(data)
    assert found.icc == icc and found.xmp == UPRIGHT_XMP and found.exif is not None
    kept = Image.Exif()
    kept.load(found.exif)
    assert kept[0x010F] == "maker"
    info = to_pil(found).info
    assert (info["icc_profile"], info["xmp"]) == (icc, UPRIGHT_XMP)
    stripped = read_picture(data, strip=True)
    assert (stripped.icc, stripped.exif, stripped.xmp) == (None, None, None)
    np.testing.assert_array_equal(stripped.rgb, found.rgb)


def test_orientation_in_xmp() -> None:
    picture = read_picture(saved(Image.new("RGB", (3, 2)), "WEBP", xmp=XMP))
    assert (picture.width, picture.height) == (2, 3) and picture.xmp == UPRIGHT_XMP


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7, 12, 13])
def test_exif_says_nothing_of_the_samples_of_a_tiff_file(kind: int) -> None:
    """Tags of camera files that contradict the samples, and one that crashes libtiff (269)."""
    samples = noise(4, 5, 3)
    for tag in (*range(254, 350), 0x8769, 0x8825, 0xA005, 34377):
        exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, tag, kind, 1, 1, 0)
        written = write_picture(Picture(samples, exif=exif), "tif")
        np.testing.assert_array_equal(read_picture(written).rgb, samples)
    junk = write_picture(Picture(samples, exif=b"junk", xmp=UPRIGHT_XMP), "tif")
    assert read_picture(junk).xmp == UPRIGHT_XMP


def test_a_thumbnail_stays_with_a_picture_that_is_upright() -> None:
    def kept(orientation: int, rest: bytes) -> tuple[bytes | None, tuple[str, ...]]:
        exif = b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0) + rest
        read = read_picture(saved(Image.new("RGB", (3, 2)), "PNG", exif=b"Exif\0\0" + exif))
        return read.exif and read.exif[22:], read.notes

    following = struct.pack("<IHI", 26, 0, 0)  # a directory for the thumbnail, empty
    for orientation in (0, 1, 9):
        assert kept(orientation, following) == (following, ())
    assert kept(6, following) == (bytes(4) + following[4:], ())
    assert kept(6, b"") == (b"", ())  # the pointer to it may be missing


NUMBERS = {1: "B", 2: "2s", 3: "H", 4: "I", 5: "2I", 6: "b", 7: "B", 8: "h", 9: "i"}
NUMBERS |= {10: "2i", 11: "f", 12: "d", 13: "I"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_of_any_kind_of_number_counts(kind: str, number: int, order: str) -> None:
    """EXIF asks for 16 bits, kind 3; other programs read the other kinds too."""
    value = {2: (b"6\0",), 5: (6, 1), 10: (6, 1)}.get(number, (6,))
    packed = struct.pack(order + NUMBERS[number], *value)
    count = 2 if number == 2 else 1
    inline = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", 38)
    exif = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, 2)
    exif += struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"ABC\0")
    exif += struct.pack(f"{order}HHI4sI", 0x0112, number, count, inline, 0) + packed
    if kind == "TIFF":
        lying = tiff_with_orientation(number, count, packed, order)
    else:
        lying = saved(Image.new("RGB", (3, 2)), kind, exif=b"Exif\0\0" + exif)
    picture = read_picture(lying)
    assert (picture.width, picture.height) == (2, 3) and picture.notes == ()
    if kind != "TIFF":
        assert picture.exif is not None and picture.exif[:18] == exif[:18]
        kept = Image.Exif()
        kept.load(picture.exif)
        assert kept[0x0112] == 1 and kept[0x010F] == "ABC"


def tiff_with_orientation(number: int, count: int, value: bytes, order: str) -> bytes:
    """A grey TIFF file, 3 x 2, whose orientation is a number of some kind."""
    entries = {256: 3, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: 6}
    body, rows = bytes(8), b""
    for tag, field in sorted({**entries, 274: 0}.items()):
        if tag == 274:
            inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", 16)
            rows += struct.pack(f"{order}HHI", tag, number, count) + inline
        else:
            rows += struct.pack(f"{order}HHII", tag, 4, 1, field)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 24)
    return head + body + value.ljust(8, b"\0") + struct.pack(f"{order}H", 10) + rows + bytes(4)


def test_exif_that_imagemagick_writes_into_text() -> None:
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    digits = (b"Exif\0\0" + exif).hex()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(digits) // 2:8}\n{digits}\n", zip=True)
    picture = read_picture(saved(Image.new("RGB", (3, 2)), "PNG", pnginfo=text))
    assert (picture.width, picture.height) == (2, 3)
    assert picture.exif == exif[:18] + b"\1" + exif[19:]


def test_text_of_a_png_file_is_no_fact_about_its_samples() -> None:
    source = Image.fromarray(noise(4, 5) % 2).convert("P")
    text = PngImagePlugin.PngInfo()
    for keyword in ("transparency", "icc_profile", "gamma", "exif", "xmp", "srgb"):
        text.add_text(keyword, "junk")
        text.add_itxt(keyword, "junk", zip=True)
    found = read_picture(saved(source, "PNG", pnginfo=text))
    np.testing.assert_array_equal(found.rgb, np.asarray(source.convert("RGB")))
    assert (found.alpha, found.icc, found.exif, found.xmp, found.notes) == (None,) * 4 + ((),)


def test_a_damaged_profile_of_png_is_left_out_with_a_note() -> None:
    data = saved(Image.new("RGB", (3, 2)), "PNG")
    body = b"iCCPname\0\0not deflated"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    picture = read_picture(data[:33] + chunk + data[33:])
    assert picture.icc is None
    assert picture.notes == ("colour profile left out: it is damaged",)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_metadata_over_the_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (png, reading):
        monkeypatch.setattr(module, "MAX_METADATA_BYTES", 1000)
    icc, text = profile(b"RGB ", 1001), PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "x" * 1001, zip=True)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("ICC", {"icc_profile": icc}),
        ("XMP", {"pnginfo": text} if kind == "PNG" else {"xmp": b"x" * 1001}),
    ]
    for name, options in cases:
        if (kind, name) == ("TIFF", "XMP"):
            options = {"tiffinfo": {700: b"x" * 1001}}
        data = saved(Image.new("RGB", (3, 2)), kind, **options)
        with pytest.raises(ImageError, match=f"{name} of 1001 bytes is over the limit; leave it"):
            read_picture(data)
        assert read_picture(data, strip=True).width == 3


def test_several_pictures_in_a_jpeg_file() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(pages[0], "MPO", save_all=True, append_images=pages[1:])
    told = ("only the first picture of the file kept",)
    for picture in (read_picture(data), from_pil(Image.open(io.BytesIO(data)))):
        assert picture.notes == told and picture.rgb[..., 0].min() > 200
