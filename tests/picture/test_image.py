"""image.py and samples.py: every picture a user has, and every file that is none."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import UPRIGHT_XMP, XMP, cmyk_profile, noise, png, saved, tiff
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from vqcodec.errors import CorruptChunk, ImageError
from vqcodec.picture import image
from vqcodec.picture.image import Picture, from_pil, read_picture, to_pil, write_picture


def uint8_arrays(*tail: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    sides = st.tuples(st.integers(1, 20), st.integers(1, 20))
    return sides.flatmap(lambda side: hnp.arrays(np.uint8, (*side, *tail)))


# --- modes ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(array=uint8_arrays(3))
def test_rgb_round_trip(array: np.ndarray[Any, Any]) -> None:
    picture = read_picture(saved(Image.fromarray(array), "PNG"))
    np.testing.assert_array_equal(picture.rgb, array)
    assert picture.rgb.flags.c_contiguous and picture.rgb.flags.writeable
    assert (picture.height, picture.width) == array.shape[:2]
    assert not picture.grey and picture.alpha is None and picture.notes == ()
    np.testing.assert_array_equal(read_picture(write_picture(picture, "x.png")).rgb, array)


@settings(deadline=None)
@given(array=uint8_arrays(4), kind=st.sampled_from(["png", "webp", "tiff"]))
def test_rgba_round_trip(array: np.ndarray[Any, Any], kind: str) -> None:
    picture = from_pil(Image.fromarray(array))
    again = read_picture(write_picture(picture, kind))
    opaque = (array[..., 3] == 255).all()
    for found in (picture, again):
        np.testing.assert_array_equal(found.rgb, array[..., :3])
        assert (found.alpha is None) == opaque
        if found.alpha is not None:
            np.testing.assert_array_equal(found.alpha, array[..., 3])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 3)])
def test_to_pil_inverts_from_pil(mode: str, size: tuple[int, int]) -> None:
    source = Image.fromarray(noise(size[1], size[0], 4)).convert(mode)
    found = to_pil(from_pil(source))
    expected = source.convert("L") if mode == "1" else source
    assert found.mode == expected.mode and found.size == expected.size
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["P", "PA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "RGBa", "La"])
def test_other_8_bit_modes(mode: str) -> None:
    base = Image.fromarray(noise(6, 7, 4))
    if mode == "La":
        source = base.convert("LA").convert("La")
    elif mode == "LAB":
        source = base.convert("RGB").convert("LAB")
    elif mode == "PA":
        source = base.convert("RGB").convert("P").convert("PA")
        source.putalpha(base.getchannel("A"))
    else:
        source = base.convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    picture = from_pil(source)
    has_alpha = mode in ("PA", "RGBa", "La")
    target = "LA" if mode == "La" else "RGBA" if has_alpha else "RGB"
    assert to_pil(picture).tobytes() == source.convert(target).tobytes()
    assert picture.grey == (mode == "La")
    assert bool(picture.notes) == (mode in ("CMYK", "YCbCr", "LAB", "HSV"))


def test_palettes() -> None:
    array = noise(4, 4) % 3
    source = Image.fromarray(array).convert("P")
    source.putpalette([10, 10, 10, 200, 200, 200, 90, 90, 90, 255, 0, 0])
    greys = from_pil(source)
    assert greys.grey and set(np.unique(greys.rgb)) <= {10, 90, 200}
    source.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert not from_pil(source).grey  # an RGB profile does not fit a grey file
    source.putpalette([10, 10, 10, 200, 200, 201, 90, 90, 90])
    assert not from_pil(source).grey
    for transparency in (1, bytes([255, 0, 128])):
        found = read_picture(saved(source, "PNG", transparency=transparency))
        levels = bytes([255, 0, 255]) if transparency == 1 else bytes([255, 0, 128])
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, np.frombuffer(levels, np.uint8)[array])


@pytest.mark.parametrize(
    ("data", "alpha"),
    [
        (png(2, 1, 8, 0, b"\0\x05\x06", b"\0\x05"), [0, 255]),
        (png(2, 1, 4, 0, b"\0\x3f", b"\0\x03"), [0, 255]),  # in 4-bit units
        (png(2, 1, 2, 0, b"\0\x60", b"\0\x02"), [255, 0]),
        (png(2, 1, 1, 0, b"\0\x40", b"\0\x01"), [255, 0]),
        (png(2, 1, 16, 0, b"\0\1\2\3\4", b"\3\4"), [255, 0]),
        (png(2, 1, 8, 2, b"\0\1\2\3\1\2\4", b"\0\1\0\2\0\3"), [0, 255]),
    ],
    ids=["L8", "L4", "L2", "L1", "L16", "RGB8"],
)
def test_transparent_colours(data: bytes, alpha: list[int]) -> None:
    picture = read_picture(data)
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, [alpha])
    assert picture.grey == (data[25] == 0)


# --- deep samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bits_are_scaled(mode: str) -> None:
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65534, 65535]], dtype=np.uint16)
    data = values.astype(np.int32 if mode == "I" else ">u2" if mode.endswith("B") else "<u2")
    picture = from_pil(Image.frombytes(mode, (4, 2), data.tobytes()))
    np.testing.assert_array_equal(picture.rgb[..., 1], np.rint(values / 257))
    assert picture.grey and picture.notes == ("16-bit samples reduced to 8",)


def test_dark_16_bit_files_stay_dark() -> None:
    dark = np.full((3, 3), 200, dtype="<u2")
    source = Image.frombytes("I;16", (3, 3), dark.tobytes())
    header = b"P5 3 3 65535\n"
    for data in (
        saved(source, "PNG"),
        saved(source, "TIFF"),
        header + dark.astype(">u2").tobytes(),
    ):
        assert read_picture(data).rgb.max() == 1


def test_16_bit_colour_files_carry_a_note() -> None:
    rgb = read_picture(png(1, 1, 16, 2, b"\0\x80\0\x40\0\x20\0"))
    assert rgb.rgb.tolist() == [[[128, 64, 32]]] and rgb.notes == ("16-bit samples reduced to 8",)
    grey = read_picture(png(1, 1, 16, 4, b"\0\x80\0\x40\0"))
    assert grey.grey and grey.alpha is not None and grey.alpha.tolist() == [[64]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.25, 1.0]], [[0, 64, 255]]),
        ([[0.0, 7.0, 255.0]], [[0, 7, 255]]),
        ([[-1.0, 0.0, 3.0]], [[0, 64, 255]]),
        ([[0.0, np.nan, np.inf]], [[0, 0, 255]]),
        ([[np.nan, np.nan, np.nan]], [[0, 0, 0]]),
        ([[1e30, 1e30, 1e30]], [[0, 0, 0]]),
    ],
)
def test_floats(values: list[list[float]], expected: list[list[int]]) -> None:
    picture = from_pil(Image.fromarray(np.array(values, dtype=np.float32)))
    np.testing.assert_array_equal(picture.rgb[..., 0], expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([[0, 9, 255]], [[0, 9, 255]]), ([[-(2**31), 0, 2**31 - 1]], [[0, 128, 255]])],
)
def test_32_bit_integers(values: list[list[int]], expected: list[list[int]]) -> None:
    picture = from_pil(Image.fromarray(np.array(values, dtype=np.int32)))
    np.testing.assert_array_equal(picture.rgb[..., 0], expected)


@settings(deadline=None)
@given(array=hnp.arrays(np.float32, (2, 3)))
def test_any_floats_give_a_picture(array: np.ndarray[Any, Any]) -> None:
    assert from_pil(Image.fromarray(array)).rgb.shape == (2, 3, 3)


# --- metadata ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (32, 2), (32, 3)])
def test_tiff_samples_that_pillow_reads_wrongly_are_refused(bits: int, sample_format: int) -> None:
    """Signed bytes; and in big-endian files that libtiff decodes, which swaps them already."""
    values = np.arange(-6, 6, dtype=f">{'f' if sample_format == 3 else 'i'}{bits // 8}")
    data = zlib.compress(values.tobytes())
    tags = {256: 4, 257: 3, 258: bits, 259: 8, 262: 1, 273: 8, 277: 1, 278: 3}
    tags |= {279: len(data), 339: sample_format}
    with pytest.raises(ImageError, match="read wrongly by Pillow"):
        read_picture(tiff(data, {tag: [value] for tag, value in tags.items()}, ">"))


def planes(values: np.ndarray[Any, Any], compressed: bool) -> bytes:
    """A TIFF file of planes (C, H, W), two being grey and opacity, which Pillow does not write."""
    parts = [zlib.compress(plane.tobytes()) if compressed else plane.tobytes() for plane in values]
    count, height, width = values.shape
    sizes = [len(part) for part in parts]
    starts = [8 + sum(sizes[:k]) for k in range(count)]
    tags: dict[int, Sequence[int]] = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * count,
    }
    tags |= {259: [8 if compressed else 1], 262: [2 if count == 3 else 1], 273: starts}
    tags |= {277: [count], 278: [height], 279: sizes, 284: [2]} | ({338: [2]} if count == 2 else {})
    return tiff(b"".join(parts), tags)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("count", "bits"), [(3, 8), (3, 16), (2, 8)])
def test_planes_of_tiff_are_read_rightly_or_refused(
    count: int, bits: int, compressed: bool
) -> None:
    values = np.arange(count * 12).reshape(count, 3, 4) * 7
    data = planes(values.astype(np.uint8) if bits == 8 else np.uint16(values * 257), compressed)
    if count == 3 and (bits == 8 or compressed):
        np.testing.assert_array_equal(read_picture(data).rgb, values.transpose(1, 2, 0))
    else:
        with pytest.raises(ImageError, match="TIFF samples .* are read wrongly by Pillow"):
            read_picture(data)


@pytest.mark.parametrize(
    ("mode", "depths"), [("RGB", (7, 7, 11)), ("LA", (7, 15)), ("RGB", (135, 7, 7)), ("L", (143,))]
)
def test_deep_or_signed_jpeg2000_is_refused(mode: str, depths: tuple[int, ...]) -> None:
    data = bytearray(saved(Image.new(mode, (16, 16)), "JPEG2000"))
    assert read_picture(bytes(data)).notes == ()
    start = data.index(b"\xff\x4f\xff\x51") + 42
    data[start : start + 3 * len(depths) : 3] = bytes(depths)
    with pytest.raises(ImageError, match="JPEG2000 samples .* are read wrongly by Pillow"):
        read_picture(bytes(data))


def test_deep_grey_jpeg2000() -> None:
    values = np.array([[0, 1000] * 8, [30_000, 65_535] * 8], np.uint16).repeat(8, 0)
    data = saved(Image.fromarray(values), "JPEG2000")
    for picture in (read_picture(data), from_pil(Image.open(io.BytesIO(data)))):
        np.testing.assert_array_equal(picture.rgb[..., 0], np.rint(values / 257))
        assert picture.grey and picture.notes == ("16-bit samples reduced to 8",)


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    data = png(2, 1, 16, 2, b"\0\1\2\3\4\5\6\7\2\3\4\5\6", b"\1\2\3\4\5\6")
    with pytest.raises(ImageError, match="PNG samples .* are read wrongly by Pillow"):
        read_picture(data)


def test_bits_are_told_of_a_sample_not_of_a_pixel() -> None:
    bmp = struct.pack("<2sIII", b"BM", 70, 0, 66)
    bmp += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    bmp += struct.pack("<IIIHH", 0xF800, 0x7E0, 0x1F, 0xF800, 0)
    assert read_picture(bmp).notes == () and read_picture(bmp).rgb.tolist() == [[[255, 0, 0]]]
    deep = read_picture(saved(Image.new("RGB", (3, 2), (7, 8, 9)), "SGI", bpc=2))
    assert deep.notes == ("16-bit samples reduced to 8",)
    assert deep.rgb[0, 0].tolist() == [7, 8, 9]


def test_cmyk_goes_through_its_profile() -> None:
    inks = np.zeros((1, 2, 4), np.uint8)
    inks[0, 1] = (128, 0, 0, 0)
    data = saved(
        Image.frombytes("CMYK", (2, 1), inks.tobytes()), "TIFF", icc_profile=cmyk_profile()
    )
    picture = read_picture(data)
    assert picture.notes == ("CMYK converted to sRGB through its colour profile",)
    assert picture.icc is None and not picture.grey
    white, half = picture.rgb[0].astype(int)
    assert white.min() >= 254
    assert abs(half - 118).max() <= 3  # L* = 49.8 in sRGB; Pillow's own formula gives 127 255 255


def test_cmyk_without_a_usable_profile() -> None:
    source = Image.new("CMYK", (3, 2), 0)
    plain = read_picture(saved(source, "JPEG"))
    assert plain.notes == ("CMYK converted to RGB without a colour profile",)
    assert plain.rgb.min() > 250 and plain.icc is None
    broken = read_picture(saved(source, "JPEG", icc_profile=b"no profile"))
    assert broken.notes == plain.notes and broken.icc is None


# --- files that are refused -------------------------------------------------------------------


def frames(kind: str) -> bytes:
    pages = [Image.fromarray(noise(4, 4, 3)), Image.new("RGB", (4, 4), "red")]
    return saved(pages[0], kind, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations(kind: str) -> None:
    with pytest.raises(ImageError, match="^picture: animated pictures are not supported$"):
        read_picture(frames(kind))


def test_several_pages() -> None:
    with pytest.raises(ImageError, match="files with several pages are not supported"):
        read_picture(frames("TIFF"))
    assert read_picture(frames("MPO")).notes == ("only the first picture of the file kept",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_cut_files(kind: str) -> None:
    data = saved(Image.fromarray(noise(40, 40, 3)), kind)
    for size in (*range(0, 40, 3), len(data) // 2, len(data) - len(data) // 8):
        with pytest.raises(ImageError) as caught:
            read_picture(data[:size])
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_every_damage_to_a_png_file_is_found() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    data = saved(Image.fromarray(noise(9, 9, 3)), "PNG", exif=exif)
    assert read_picture(data + b"behind the end").exif
    for size in range(len(data)):
        with pytest.raises(ImageError):
            read_picture(data[:size])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImageError):
            read_picture(bytes(damaged))


def test_text_of_a_png_file_may_be_long() -> None:
    plain = Image.new("L", (2, 2))
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + bytes(3 * 2**20) + b"</x:xmpmeta>"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    text.add_text("Comment", "so long " * 2**19, zip=True)
    profile = bytes(16) + b"GRAY" + bytes(2 * 2**20)
    picture = read_picture(saved(plain, "PNG", pnginfo=text, icc_profile=profile))
    assert (picture.xmp, picture.icc) == (xmp, profile)
    assert PngImagePlugin.MAX_TEXT_CHUNK < 2**21  # that of the process is as it was


@pytest.mark.parametrize("other", [None, io.BytesIO(b"x"), np.zeros((4, 4, 3), np.uint8), 5])
def test_what_is_no_picture_is_the_callers_mistake(other: Any) -> None:
    with pytest.raises(TypeError, match="a path, bytes or a Pillow image, not"):
        from_pil(other)


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
def test_damaged_files_read_or_raise_ours(data: st.DataObject, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options: dict[str, Any] = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    damaged = bytearray(saved(Image.fromarray(noise(9, 9, 3)), kind, **options))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_picture(bytes(damaged), max_pixels=10_000)
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"hello, world\n", bytes(1000), b"\xff\xd8\xff"])
def test_files_that_are_no_pictures(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_picture(data)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="irectory"):
        read_picture(tmp_path)
    with pytest.raises(ImageError, match="No such file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="null"):
        read_picture("a\0b")
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png: not a picture in a format that Pillow reads"):
        read_picture(str(path))


def test_vector_pictures_are_not_handed_to_ghostscript() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(ImageError, match="vector pictures are not supported"):
        read_picture(eps)


def test_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("1", (300, 300)), "PNG")
    for limit in (89_999, 10):  # Pillow itself warns, or raises above twice the limit
        with pytest.raises(ImageError, match=f"over the limit of {limit} pixels"):
            read_picture(data, max_pixels=limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_picture(data).width == 300  # our limit counts, not the process's
    assert Image.MAX_IMAGE_PIXELS == 100
    huge = png(2**31 - 1, 2**31 - 1, 8, 2, b"")
    with pytest.raises(ImageError, match="limit"):
        read_picture(huge)


def test_pictures_without_pixels() -> None:
    with pytest.raises(ImageError, match="0 x 5 has no pixels"):
        from_pil(Image.new("RGB", (0, 5)))


def test_no_warning_leaks() -> None:
    source = Image.fromarray(noise(4, 4) % 2).convert("P")
    data = saved(source, "PNG", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(data).alpha is not None


def test_no_warning_leaks_while_exif_is_written() -> None:
    cut = b"II*\0" + struct.pack("<IHHHII", 8, 2, 0x010E, 2, 400, 9999)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        write_picture(Picture(noise(4, 5, 3), exif=cut), "tif")
    assert leaked == []


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", image.OUTPUT_EXTENSIONS)
@pytest.mark.parametrize("grey", [False, True])
def test_every_extension_is_written(extension: str, grey: bool) -> None:
    array = noise(5, 6) if grey else noise(5, 6, 3)
    picture = from_pil(Image.fromarray(array))
    found = read_picture(write_picture(picture, f"dir.v2/a{extension.upper()}"))
    if extension not in (".jpg", ".jpeg"):
        np.testing.assert_array_equal(found.rgb, picture.rgb)
    if extension != ".webp":  # WebP has no greyscale
        assert found.grey == grey


def test_what_a_format_cannot_hold() -> None:
    picture = from_pil(Image.fromarray(noise(3, 3, 4)))
    for extension in ("jpg", "bmp", "ppm"):
        with pytest.raises(ImageError, match="transparency; write PNG"):
            write_picture(picture, extension)
    with pytest.raises(ImageError, match=r"cannot write \.xyz files"):
        write_picture(picture, "a.xyz")
    wide = Picture(np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(ImageError, match="WEBP cannot hold a side of 16384"):
        write_picture(wide, "webp")
    long_exif = Picture(wide.rgb, exif=b"II*\0\x08\0\0\0\0\0" + bytes(70_000))
    with pytest.raises(ImageError, match="cannot write JPEG: EXIF data is too long"):
        write_picture(long_exif, "jpg")


# --- padding and opacity ----------------------------------------------------------------------


@settings(deadline=None)
@given(array=uint8_arrays(3), multiple=st.integers(1, 32))
def test_cropping_inverts_padding(array: np.ndarray[Any, Any], multiple: int) -> None:
    padded = image.pad(array, multiple)
    height, width = array.shape[:2]
    assert padded.shape[0] % multiple == 0 and padded.shape[0] - height < multiple
    assert padded.shape[1] % multiple == 0 and padded.shape[1] - width < multiple
    np.testing.assert_array_equal(padded[-1, -1], array[-1, -1])
    cropped = image.crop(padded, height, width)
    np.testing.assert_array_equal(cropped, array)
    assert cropped.flags.c_contiguous


@settings(deadline=None)
@given(alpha=uint8_arrays(), bilevel=st.booleans())
def test_opacity_round_trip(alpha: np.ndarray[Any, Any], bilevel: bool) -> None:
    if bilevel:
        alpha = np.where(alpha < 128, 0, 255).astype(np.uint8)
    height, width = alpha.shape
    decoded = image.decode_alpha(image.encode_alpha(alpha), width, height)
    np.testing.assert_array_equal(decoded, alpha)


def test_opacity_wider_than_webp() -> None:
    alpha = np.repeat(noise(1, 1), 17_000, axis=1)
    np.testing.assert_array_equal(image.decode_alpha(image.encode_alpha(alpha), 17_000, 1), alpha)


def test_damaged_opacity() -> None:
    good = image.encode_alpha(noise(8, 9))
    bad = [b"", b"junk", good[: len(good) // 2], saved(Image.new("RGBA", (9, 8)), "PNG")]
    bad.append(saved(Image.new("L", (9, 8)), "GIF"))
    for data in bad:
        with pytest.raises(CorruptChunk, match="ALPHA"):
            image.decode_alpha(data, 9, 8)
    for size in ((8, 9), (1, 1), (10**4, 10**4)):
        with pytest.raises(CorruptChunk, match="ALPHA"):
            image.decode_alpha(good, *size)
