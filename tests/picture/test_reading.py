"""vqcodec.picture: every picture a user has, and every file that is none."""

from __future__ import annotations

import cProfile
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import cmyk_profile, noise, png, saved, tiff
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture import samples
from vqcodec.picture.picture import Picture, to_pil
from vqcodec.picture.reading import from_pil, read_picture
from vqcodec.picture.writing import write_picture


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


# --- samples that Pillow takes for others, and inks ---------------------------------------------


def opened(data: bytes) -> Picture:
    """As a program gives it, which no list of formats limits; what is known to be wrong is."""
    with Image.open(io.BytesIO(data)) as image:
        return from_pil(image)


@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (32, 2), (32, 3)])
def test_tiff_samples_that_pillow_reads_wrongly_are_refused(bits: int, sample_format: int) -> None:
    """Signed bytes; and in big-endian files that libtiff decodes, which swaps them already."""
    values = np.arange(-6, 6, dtype=f">{'f' if sample_format == 3 else 'i'}{bits // 8}")
    data = zlib.compress(values.tobytes())
    tags = {256: 4, 257: 3, 258: bits, 259: 8, 262: 1, 273: 8, 277: 1, 278: 3}
    tags |= {279: len(data), 339: sample_format}
    with pytest.raises(ImageError, match="read wrongly by Pillow"):
        opened(tiff(data, {tag: [value] for tag, value in tags.items()}, ">"))


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
        np.testing.assert_array_equal(opened(data).rgb, values.transpose(1, 2, 0))
    else:
        with pytest.raises(ImageError, match="TIFF samples .* are read wrongly by Pillow"):
            opened(data)


@pytest.mark.parametrize(
    ("mode", "depths"), [("RGB", (7, 7, 11)), ("LA", (7, 15)), ("RGB", (135, 7, 7)), ("L", (143,))]
)
def test_deep_or_signed_jpeg2000_is_refused(mode: str, depths: tuple[int, ...]) -> None:
    data = bytearray(saved(Image.new(mode, (16, 16)), "JPEG2000"))
    assert opened(bytes(data)).notes == ()
    start = data.index(b"\xff\x4f\xff\x51") + 42
    data[start : start + 3 * len(depths) : 3] = bytes(depths)
    with pytest.raises(ImageError, match="JPEG2000 samples .* are read wrongly by Pillow"):
        opened(bytes(data))


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
    deep = opened(saved(Image.new("RGB", (3, 2), (7, 8, 9)), "SGI", bpc=2))
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


@pytest.mark.parametrize("truncated_are_loaded", [False, True])
def test_every_damage_to_a_png_file_is_found(
    truncated_are_loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated_are_loaded)
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


def test_pictures_without_pixels() -> None:
    with pytest.raises(ImageError, match="0 x 5 has no pixels"):
        from_pil(Image.new("RGB", (0, 5)))


# --- time and memory --------------------------------------------------------------------------


def pages_of_tiff(count: int) -> bytes:
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    page, data = struct.pack("<H", len(tags)) + entries, b"II*\0" + struct.pack("<IQ", 16, 0)
    for k in range(1, count + 1):
        following = 16 + k * (len(page) + 4) if k < count else 0
        data += page + struct.pack("<I", following)
    return data


def frames_of_gif(count: int) -> bytes:
    data = saved(Image.new("P", (8, 8)), "GIF")
    start = data.index(b"\x2c\0\0\0\0\x08\0\x08")
    return data[:start] + data[start:-1] * count + b";"


@pytest.mark.parametrize("made", [pages_of_tiff, frames_of_gif])
def test_pages_and_frames_are_not_counted(made: Callable[[int], bytes]) -> None:
    """Pillow looks for them in time that grows with their number, in TIFF with its square."""
    calls = []
    for count in (1, 3, 300):
        data, profile = made(count), cProfile.Profile()
        with profile, pytest.raises(ImageError) if count > 1 else nullcontext():
            read_picture(data)
        calls.append(sum(entry.callcount for entry in profile.getstats()))
    assert calls[2] < 1.2 * calls[1]


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"]
    + ["I", "F", "I;16", "I;16B", "I;16L", "I;16N"],
)
def test_bands_of_rows_make_no_difference(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Image.fromarray(noise(11, 7, 4))
    if mode[0] in "IF":
        kind = np.float32 if mode == "F" else np.int32 if mode == "I" else np.uint16
        values = (noise(11, 7).astype(kind) * 200).tobytes()
        source = Image.frombytes(mode, (7, 11), values)
    elif mode in ("LA", "La", "RGBA", "RGBa"):
        source = base.convert("LA" if mode[0] == "L" else "RGBA").convert(mode)
    else:
        source = base.convert("RGB").convert("P" if mode == "PA" else mode).convert(mode)
    if mode in ("L", "I;16", "P"):
        source.info["transparency"] = source.getpixel((3, 9))
    if mode == "RGB":
        source.info["transparency"] = source.getpixel((3, 9))
    whole = from_pil(source)
    for pixels in (1, 14, 20):
        monkeypatch.setattr(samples, "_BAND", pixels)
        parts = from_pil(source)
        np.testing.assert_array_equal(parts.rgb, whole.rgb)
        assert parts.grey == whole.grey and parts.notes == whole.notes
        assert (parts.alpha is None) == (whole.alpha is None)
        if parts.alpha is not None and whole.alpha is not None:
            np.testing.assert_array_equal(parts.alpha, whole.alpha)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"])
def test_memory_of_reading(mode: str) -> None:
    """A few bytes a pixel beside Pillow's own image, which is up to 4 bytes a pixel."""
    deep = mode in ("I;16", "F")
    grey = Image.new("L", (2000, 2000), 70)
    if deep:
        source = Image.fromarray(np.asarray(grey).astype(np.float32 if mode == "F" else np.uint16))
    else:
        source = grey.convert("RGBA" if mode == "RGBA" else "RGB").convert(mode)
    source.putpixel((5, 5), 9 if deep or mode in ("L", "P") else (9, 9, 9, 9)[: len(mode)])
    from_pil(source)  # imports
    tracemalloc.start()
    from_pil(source)
    peak = tracemalloc.get_traced_memory()[1] / (2000 * 2000)
    tracemalloc.stop()
    assert peak < 6.1
