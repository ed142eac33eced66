"""Picture files that are written."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pictures import noise, profile
from PIL import Image

from vqcodec.errors import ImageError
from vqcodec.picture import writing
from vqcodec.picture.picture import Picture, UInt8Array
from vqcodec.picture.reading import from_pil, read_picture
from vqcodec.picture.writing import caveat, write_picture


@pytest.mark.parametrize("extension", writing.OUTPUT_EXTENSIONS)
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


def test_damaged_exif_is_left_out_of_tiff_without_a_warning() -> None:
    """Warnings are errors here."""
    cut = b"II*\0" + struct.pack("<IHHHII", 8, 2, 0x010E, 2, 400, 9999)
    pointer = struct.pack("<IHHHIIHHIII", 8, 2, 0x8769, 4, 1, 9999, 0x010F, 2, 4, 0x434241, 0)
    for exif, maker in ((cut, None), (b"II*\0" + pointer, "ABC")):
        written = write_picture(Picture(noise(4, 5, 3), exif=exif), "tif")
        with Image.open(io.BytesIO(written)) as image:
            assert image.getexif().get(0x010F) == maker


@pytest.mark.parametrize("alpha", [None, noise(4, 5)])
@pytest.mark.parametrize("kind", ["png", "tif", "webp", "jpg"])
def test_a_profile_is_for_the_samples_of_its_file(kind: str, alpha: UInt8Array | None) -> None:
    """libpng refuses grey with a profile for RGB, and colours with one for grey."""
    if kind == "jpg":
        alpha = None
    grey = np.repeat(noise(4, 5)[..., None], 3, axis=2)
    for space, mode in {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "L"}.items():
        picture = Picture(grey, True, alpha, profile(space))
        with Image.open(io.BytesIO(write_picture(picture, kind))) as image:
            bands = "RGB" if kind == "webp" else mode
            assert image.mode == bands + ("A" if alpha is not None else "")
            fits = space == b"RGB " or (space == b"GRAY" and kind != "webp")
            assert image.info.get("icc_profile") == (picture.icc if fits else None)
            assert (caveat(picture, kind) is None) == fits
            if kind != "jpg":
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), grey)
    for space in (b"GRAY", b"CMYK", b"\0\xff\n\0"):
        picture = Picture(noise(4, 5, 3), icc=profile(space))
        with Image.open(io.BytesIO(write_picture(picture, kind))) as image:
            assert "icc_profile" not in image.info
        told = caveat(picture, kind)
        assert told == f"{image.format} has no place for an ICC profile for other samples"


def test_large_profiles() -> None:
    def written(size: int, kind: str) -> tuple[bytes | None, str | None]:
        picture = Picture(noise(4, 5, 3), icc=profile(b"RGB ", size))
        return read_picture(write_picture(picture, kind)).icc, caveat(picture, kind)

    most = 255 * 65519
    assert written(most, "jpg") == (profile(b"RGB ", most), None)
    told = "JPEG has no place for an ICC profile of 16707346 bytes"
    assert written(most + 1, "jpg") == (None, told)
    assert written(2**20, "png") == (profile(b"RGB ", 2**20), None)
    icc, note = written(2**20 + 1, "png")
    assert icc == profile(b"RGB ", 2**20 + 1)
    assert note is not None and note.startswith("PNG with an ICC profile of 1048577 bytes: Pillow")
