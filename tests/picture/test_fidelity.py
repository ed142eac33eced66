"""The whole way, file -> .vqc -> file, around the pixels: what docs/fidelity.md says in tables."""

import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import DOCS
from pictures import UPRIGHT_XMP, XMP, cmyk_profile, noise, png, profile, saved, tiff
from PIL import Image, ImageCms, PngImagePlugin

import vqcodec
from vqcodec import codec
from vqcodec.errors import ImageError
from vqcodec.options import DecodeOptions
from vqcodec.picture import colour, layouts, metadata, opening, pillow, reading, samples, writing
from vqcodec.picture import png as png_file
from vqcodec.picture import tiff as tiff_layouts
from vqcodec.picture.picture import Picture

Sides = tuple[tuple[int, ...], tuple[int, ...]]  # colours of the two halves of a picture
Weights = dict[str, Path]
Files = tuple[Sequence[Image.Image], list[str]]  # as written; notes
LEFT, RIGHT = (40, 60, 90), (220, 180, 40)
RGB, GREY, INK = (LEFT, RIGHT), ((57,), (176,)), ((0,), (255,))
TOLERANCE = 20  # a mix-up of channels or halves, or an inversion, is 50 and more off
NOISE = noise(32, 48)  # an opacity that no loss would leave as it is
KEYED = np.array([[0] * 24 + [255] * 24], np.uint8).repeat(32, axis=0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def plain(mode: str = "RGB") -> Image.Image:
    picture = Image.new("RGB", (48, 32), RIGHT)
    picture.paste(LEFT, (0, 0, 24, 32))
    return picture.quantize(4) if mode == "P" else picture.convert(mode)


def clear(mode: str = "RGBA") -> Image.Image:
    picture = plain()
    picture.putalpha(Image.fromarray(NOISE))
    return picture.convert("LA").convert(mode) if mode == "La" else picture.convert(mode)


def deep(picture: Image.Image, colour: int) -> bytes:
    """The picture as a 16-bit PNG file of a PNG colour type; Pillow writes no such files."""
    rows = np.asarray(picture).reshape(32, -1).astype(">u2") * 257
    return png(48, 32, 16, colour, b"".join(b"\0" + row.tobytes() for row in rows))


def grey_tiff(values: np.ndarray[Any, Any], sample_format: int) -> bytes:
    """A grey TIFF file of samples that Pillow has no mode for; formats are 1 unsigned, 2 signed."""
    tags = {256: 48, 257: 32, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: 32}
    tags |= {279: values.nbytes, 339: sample_format}
    return tiff(values.tobytes(), {tag: [value] for tag, value in tags.items()})


def gamma(value: int) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", value))
    return chunks


def pages(kind: str) -> bytes:
    return saved(plain(), kind, save_all=True, append_images=[plain().rotate(180)])


class Kept(NamedTuple):
    source: bytes | Image.Image
    mode: str  # of the picture that comes back
    told: str = ""
    sides: Sides = RGB
    alpha: np.ndarray[Any, Any] | None = None


GREYS = np.asarray(plain("L"))
BLACK_WHITE = Image.fromarray(GREYS > 100)
INKS = Image.merge("CMYK", [Image.fromarray(255 - np.uint8(255) * (GREYS > 100))] * 4)
PRINT = saved(INKS, "TIFF", icc_profile=cmyk_profile())
WIDE, FLOATS = GREYS.astype(np.uint16) * 257, GREYS.astype(np.float32)
DEEP, FAR = "16-bit samples reduced to 8", "samples {} stretched to 0..255"
NO_PROFILE = "colour profile left out: it is for CMYK"
GAMMA = "gamma 0 left out: samples count as sRGB"
PLAIN = np.asarray(plain())
CMYK = "CMYK converted to {} colour profile"
SETTINGS = Image.Exif()
SETTINGS.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
KEPT = {
    "RGB": Kept(saved(plain(), "PNG"), "RGB"),
    "L": Kept(saved(plain("L"), "JPEG"), "L", "", GREY),
    "LA": Kept(saved(clear("LA"), "PNG"), "LA", "", GREY, NOISE),
    "RGBA": Kept(saved(clear(), "PNG"), "RGBA", alpha=NOISE),
    "RGBA opaque": Kept(saved(plain("RGBA"), "PNG"), "RGB"),
    "RGBa": Kept(clear("RGBa"), "RGBA", alpha=NOISE),
    "La": Kept(clear("La"), "LA", "", GREY, NOISE),
    "1": Kept(saved(BLACK_WHITE, "PNG"), "L", "", INK),
    "P": Kept(saved(plain("P"), "GIF"), "RGB"),
    "P grey": Kept(saved(plain("L").convert("P"), "PNG"), "L", "", GREY),
    "P key": Kept(saved(plain("P"), "PNG", transparency=bytes([255, 0])), "RGBA", alpha=KEYED),
    "RGB key": Kept(saved(plain(), "PNG", transparency=LEFT), "RGBA", alpha=KEYED),
    "L key": Kept(saved(plain("L"), "PNG", transparency=57), "LA", "", GREY, KEYED),
    "CMYK": Kept(saved(plain("CMYK"), "TIFF"), "RGB", CMYK.format("RGB without a")),
    "CMYK profile": Kept(PRINT, "RGB", CMYK.format("sRGB through its"), ((0,) * 3, (255,) * 3)),
    **{n: Kept(plain(n), "RGB", f"{n} converted to RGB") for n in ("YCbCr", "LAB", "HSV")},
    "L 16": Kept(saved(Image.fromarray(WIDE), "PNG"), "L", DEEP, GREY),
    "RGB 16": Kept(deep(plain(), 2), "RGB", DEEP),
    "RGBA 16": Kept(deep(clear(), 6), "RGBA", DEEP, RGB, NOISE),
    "LA 16": Kept(deep(clear("LA"), 4), "LA", DEEP, GREY, NOISE),
    "I far": Kept(Image.fromarray(WIDE * 5.0).convert("I"), "L", FAR.format("73245..226160"), INK),
    **{n: Kept(saved(plain("L").convert(n), "TIFF"), "L", "", GREY) for n in ("I", "F")},
    "F 1": Kept(Image.fromarray(FLOATS / 255), "L", "float samples 0..1 scaled to 0..255", GREY),
    "F far": Kept(Image.fromarray(FLOATS / 2 - 88), "L", FAR.format("-59.5..0"), INK),
    "MPO": Kept(pages("MPO"), "RGB", "only the first picture of the file kept"),
    "EXIF": Kept(saved(plain(), "PNG", exif=b"junk"), "RGB", "damaged EXIF data left out"),
    "LAB file": Kept(saved(plain("LAB"), "TIFF"), "RGB", "LAB converted to RGB"),
    "white 0": Kept(saved(Image.fromarray(~WIDE), "TIFF", tiffinfo={262: 0}), "L", DEEP, GREY),
    "RGB 16 PPM": Kept(b"P6 48 32 65535\n" + np.repeat(PLAIN, 2).tobytes(), "RGB", DEEP),
    "I 32": Kept(
        grey_tiff(GREYS * np.uint32(2**24), 1), "L", FAR.format("9.56301e+08..2.95279e+09"), INK
    ),
    "I 16 signed": Kept(
        grey_tiff(GREYS.astype(np.int16) * 100, 2), "L", FAR.format("5700..17600"), INK
    ),
    "camera settings": Kept(saved(plain(), "JPEG", exif=SETTINGS), "RGB"),
    "profile": Kept(saved(plain(), "PNG", icc_profile=cmyk_profile()), "RGB", NO_PROFILE),
    "gamma": Kept(saved(plain(), "PNG", pnginfo=gamma(100_000)), "RGB"),  # as an ICC profile
    "gamma 0": Kept(saved(plain(), "PNG", pnginfo=gamma(0)), "RGB", GAMMA),
}
MODULES = [colour, layouts, metadata, opening, pillow, png_file, reading, samples]
MODULES += [tiff_layouts, writing]
ELSEWHERE = {  # which test_heif.py and test_writing.py compare
    "10-bit samples reduced to 8",
    "samples are BT.2020 PQ: taken as sRGB",
    "BMP has no place for ICC, EXIF, XMP",
    "JPEG has no place for an ICC profile of 16707346 bytes",
}
WIDEST = Image.new("L", (16384, 1))
CLEAR = "{} cannot hold the picture's transparency; write PNG instead"
REFUSED: dict[str, tuple[Any, ...]] = {  # the output format; pictures
    "animated pictures are not supported": ("png", pages("GIF"), pages("WEBP"), pages("PNG")),
    "files with several pages are not supported": ("png", pages("TIFF")),
    "vector pictures are not supported": ("png", b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "not a picture in a format that Pillow reads": ("png", pages("PDF"), b"<svg/>", b"hello\n"),
    "the file is empty": ("png", b""),
    "PCX files are not read; convert it to PNG or use any_format": ("png", saved(plain(), "PCX")),
    "TIFF of an untested kind (grey, 1 x 8 bits, signed, not compressed)": (
        "png",
        grey_tiff(GREYS, 2),
    ),
    "image file is truncated": ("png", saved(clear(), "PNG")[:-40]),
    "WEBP cannot hold a side of 16384 pixels; write PNG instead": ("webp", WIDEST),
    "0 x 5 has no pixels": ("png", Image.new("RGB", (0, 5))),
    "30000 x 30000 is over the limit of 500000000 pixels": ("png", png(30_000, 30_000, 8, 2, b"")),
    **{CLEAR.format(kind): (kind, clear()) for kind in ("JPEG", "BMP", "PPM")},
    f"cannot write .gif files; known: {' '.join(writing.OUTPUT_EXTENSIONS)}": ("gif", plain()),
}


def there_and_back(weights: Weights, source: Any, *suffixes: str, strip: bool = False) -> Files:
    """What `decompress -o out.SUFFIX` writes, for each suffix; and the notes."""
    model, notes = str(weights["residual"]), list[str]()
    data = vqcodec.compress(source, 80, model=model, notes=notes.append, strip=strip)
    picture = codec.decompress_picture(data, DecodeOptions(model=model))
    files = [Image.open(io.BytesIO(writing.write_picture(picture, suffix))) for suffix in suffixes]
    for file in files:
        file.load()  # of a PNG file, some metadata lies behind the samples
    return files, notes


def check(picture: Image.Image, sides: Sides, alpha: np.ndarray[Any, Any] | None) -> None:
    planes = np.asarray(picture).reshape(32, 48, -1).astype(int)
    for half, side in zip(np.split(planes, 2, axis=1), sides, strict=True):
        assert abs(half[..., : len(side)].mean((0, 1)) - side).max() <= TOLERANCE
    if alpha is not None:
        np.testing.assert_array_equal(planes[..., -1], alpha)


@pytest.mark.parametrize("name", KEPT)
def test_what_comes_back(tiny_weights: Weights, name: str) -> None:
    kept = KEPT[name]
    written, notes = there_and_back(tiny_weights, kept.source, "png", "tiff")
    assert notes == ([kept.told] if kept.told else [])
    for picture in written:
        assert (picture.mode, picture.size) == (kept.mode, (48, 32))
        check(picture, kept.sides, kept.alpha)


@pytest.mark.parametrize("told", REFUSED)
def test_what_is_refused(tiny_weights: Weights, told: str) -> None:
    suffix, *sources = REFUSED[told]
    for source in sources:
        with pytest.raises(ImageError, match=f"^(picture: )?{re.escape(told)}"):
            there_and_back(tiny_weights, source, suffix)


def test_metadata_of_a_picture_on_its_side(tiny_weights: Weights) -> None:
    thumbnail, text = saved(plain().resize((12, 8)), "JPEG"), PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 26)  # then the thumbnail's
    exif += struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    exif += thumbnail
    upright = exif[:18] + b"\1" + exif[19:22] + bytes(4) + exif[26:]  # the thumbnail unlinked
    lying = clear().transpose(Image.Transpose.ROTATE_90)
    data = saved(lying, "PNG", exif=b"Exif\0\0" + exif, icc_profile=SRGB, pnginfo=text)
    for picture in there_and_back(tiny_weights, data, "png", "webp", "tiff")[0]:
        check(picture, RGB, NOISE)
        assert picture.info["icc_profile"] == SRGB and picture.info["xmp"] == UPRIGHT_XMP
        assert picture.getexif()[0x0112] == 1
        if picture.format != "TIFF":
            assert picture.info["exif"].removeprefix(b"Exif\0\0") == upright
    assert there_and_back(tiny_weights, data, "png", strip=True)[0][0].info == {}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_dropped_without_a_word(tiny_weights: Weights, kind: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    text.add(b"gAMA", struct.pack(">I", 45_455))
    data = saved(plain(), kind, dpi=(300, 300), comment=b"hello", pnginfo=text)
    (written,), notes = there_and_back(tiny_weights, data, "png")
    assert notes == [] and written.info == {}


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 5)])
def test_any_size_as_any_format(tiny_weights: Weights, size: tuple[int, int]) -> None:
    source = saved(plain("L").resize(size), "PNG", icc_profile=profile(b"GRAY"))
    for picture in there_and_back(tiny_weights, source, *writing.OUTPUT_EXTENSIONS)[0]:
        assert picture.size == size
        assert picture.mode == ("RGB" if picture.format == "WEBP" else "L")
        assert ("icc_profile" in picture.info) == (picture.format in ("PNG", "JPEG", "TIFF"))


def test_what_formats_have_no_place_for() -> None:
    full = Picture(PLAIN, icc=SRGB, exif=b"II", xmp=XMP)
    assert writing.caveat(full, "a.bmp") == "BMP has no place for ICC, EXIF, XMP"
    assert writing.caveat(Picture(PLAIN, xmp=XMP), "pgm") == "PPM has no place for XMP"
    assert not writing.caveat(full, "png") and not writing.caveat(Picture(PLAIN), "bmp")


def test_the_page_quotes_what_is_said() -> None:
    page = (DOCS / "fidelity.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    quoted = {text for row in rows for text in re.findall(r"`([^`]+)`", row[3])}
    said = {kept.told for kept in KEPT.values()} - {"", GAMMA} | set(REFUSED)
    assert said <= quoted
    source = "".join(Path(str(module.__file__)).read_text("utf-8") for module in MODULES)
    assert all(text in source for text in quoted - said - ELSEWHERE)
