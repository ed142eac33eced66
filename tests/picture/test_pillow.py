"""pillow.py: what a process has set for Pillow is neither changed nor obeyed."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import needs_pillow_13, noise, saved, tiff
from PIL import Image, ImageFile, PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture.picture import Picture
from vqcodec.picture.reading import read_picture
from vqcodec.picture.writing import write_picture

KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "TGA", "SGI"]
Image.init()
KINDS += ["AVIF"] if "AVIF" in Image.SAVE else []  # which not every Pillow has
ROOT = Path(__file__).parents[2]


def settings() -> tuple[Any, ...]:
    return (
        Image.MAX_IMAGE_PIXELS,
        PngImagePlugin.MAX_TEXT_CHUNK,
        PngImagePlugin.MAX_TEXT_MEMORY,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        tuple(warnings.filters),
    )


def test_threads_that_read_and_write_change_no_setting_of_the_process() -> None:
    before = settings()
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "x" * 2**21, zip=True)
    cut = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x010E, 2, 400, 9999)
    files = [saved(Image.fromarray(noise(50, 50, 3)), kind) for kind in KINDS]
    files.append(saved(Image.new("L", (2, 2)), "PNG", pnginfo=text, exif=cut))
    failures: list[BaseException] = []

    def read_all() -> None:
        try:
            for data in files * 4:
                read = read_picture(data, any_format=True)
                write_picture(Picture(read.rgb, exif=cut), "tif")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert settings() == before
        threads[0].join(1e-4)
    assert failures == []


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
def test_a_process_forked_while_threads_read_can_read_too() -> None:
    code = """
import io, os, signal, threading
from PIL import Image
from vqcodec.picture.reading import read_picture

buffer = io.BytesIO()
Image.effect_noise((400, 400), 60).save(buffer, "PNG")
data, over = buffer.getvalue(), threading.Event()
read_picture(data)

def read():
    while not over.is_set():
        read_picture(data)

threads = [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(20):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that waits for ever
            os._exit(0 if read_picture(data).grey else 1)
        assert os.waitpid(child, 0)[1] == 0
finally:
    over.set()
"""
    command = [sys.executable, "-W", "ignore", "-c", code]  # newer Pythons warn of such forks
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("truncated_are_loaded", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "ICO"])
def test_cut_files(kind: str, truncated_are_loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), kind)
    read_picture(data, any_format=True)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated_are_loaded)
    if kind != "ICO":
        read_picture(data, any_format=True)
    for size in (*range(0, 40, 3), *range(40, len(data) - len(data) // 32, len(data) // 9)):
        with pytest.raises(ImageError) as caught:
            read_picture(data[:size], any_format=True)
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    if kind in ("PNG", "JPEG"):
        with pytest.raises(ImageError, match="truncated"):
            read_picture(data[:-2])


def test_icons_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes the picture files in them by itself."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("ICO", "ICNS"):
        told = f"{kind} files cannot be checked for truncation while .* is set"
        with pytest.raises(ImageError, match=told):
            read_picture(saved(Image.new("RGB", (64, 64)), kind), any_format=True)


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "PNG", "TIFF"])
def test_damaged_samples(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    if kind == "PNG":  # with checksums that fit
        packed = zlib.compress(bytes(65 * 64))
        data = saved(Image.new("L", (64, 64)), "PNG")
        start = data.index(b"IDAT")
        chunk = b"IDAT" + packed[:10] + b"\xff" * 20
        damaged = data[: start - 4] + struct.pack(">I", 30) + chunk
        damaged += struct.pack(">I", zlib.crc32(chunk)) + data[-12:]
    elif kind == "TIFF":
        damaged = tiff(
            bytes(40),
            {256: [64], 257: [64], 258: [8], 259: [8], 262: [1], 273: [8], 278: [64], 279: [40]},
        )
    else:
        data = saved(Image.fromarray(noise(64, 64)), kind)
        middle = len(data) // 2
        damaged = data[:middle] + b"\xff" * (len(data) - middle)
    with pytest.raises(ImageError):
        read_picture(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_of_pixels_of_the_process_does_not_count(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns of pictures over its limit, which fails here, and refuses those over twice it.

    Only its reader of WebP checks by itself.
    """
    data = saved(Image.new("L", (30, 20)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert read_picture(data, any_format=True).width == 30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    try:
        assert read_picture(data, any_format=True).width == 30
    except ImageError as error:
        assert kind == "WEBP" and "over twice PIL.Image.MAX_IMAGE_PIXELS = 100" in str(error)


def test_tiles_of_tiff_over_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(32, 32)
    tags = {256: 20, 257: 30, 258: 8, 259: 1, 262: 1, 277: 1, 322: 32, 323: 32, 324: 8, 325: 1024}
    data = tiff(pixels.tobytes(), {tag: [value] for tag, value in tags.items()})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_picture(data).rgb[..., 0], pixels[:30, :20])


def test_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("1", (300, 300)), "PNG")
    for limit in (89_999, 10):
        with pytest.raises(ImageError, match=f"300 x 300 is over the limit of {limit} pixels"):
            read_picture(data, max_pixels=limit)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("tag", [0x010E, 0x0112, 0x0128])
def test_damaged_exif_brings_no_warning(kind: str, tag: int) -> None:
    for values, offset in ((400, 9999), (2**31, 8), (3, 8)):
        exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, tag, 3, values, offset, 0)
        picture = read_picture(saved(Image.new("RGB", (3, 2)), kind, exif=b"Exif\0\0" + exif))
        for suffix in ("png", "jpg", "webp", "tif"):
            read_picture(write_picture(picture, suffix))


def test_a_malformed_index_of_several_pictures_brings_no_warning() -> None:
    data = saved(Image.new("RGB", (8, 8)), "JPEG")
    for index in (b"junk", b"II*\0\x08\0\0\0\1\0"):
        segment = b"\xff\xe2" + struct.pack(">H", 6 + len(index)) + b"MPF\0" + index
        assert read_picture(data[:2] + segment + data[2:]).notes == ()


def test_an_invalid_number_of_frames_brings_no_warning() -> None:
    data = saved(Image.new("RGB", (8, 8)), "PNG")
    for frames in (0, 2**31 + 1):
        chunk = b"acTL" + struct.pack(">II", frames, 0)
        control = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
        assert read_picture(data[:33] + control + data[33:]).width == 8


def test_no_warning_of_a_palette_with_opacities() -> None:
    source = Image.fromarray(noise(4, 4) % 2).convert("P")
    data = saved(source, "PNG", transparency=bytes([0, 128]))
    assert read_picture(data).alpha is not None


def test_a_program_may_take_its_own_truncated_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that the caller opened is loaded as the caller has set; a file never is."""
    from vqcodec.picture.reading import from_pil

    data = saved(Image.fromarray(noise(64, 64, 3)), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert from_pil(Image.open(io.BytesIO(data[: len(data) // 2]))).width == 64


@needs_pillow_13  # it looks for a second page behind the damaged tag
def test_the_command_shows_no_warning_of_pillow(tmp_path: Path) -> None:
    """Of damaged tags in a TIFF file, Pillow warns whoever reads it."""
    tags = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    entries += struct.pack("<HHII", 0x010E, 2, 400, 9999)  # a text outside the file
    page = struct.pack("<H", len(tags) + 1) + entries
    following = 16 + len(page) + 4
    data = b"II*\0" + struct.pack("<IQ", 16, 0) + page + struct.pack("<I", following)
    (tmp_path / "a.tif").write_bytes(data + page + bytes(4))
    command = [sys.executable, "-m", "vqcodec", "compress", str(tmp_path / "a.tif")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("a.tif: files with several pages are not supported")
