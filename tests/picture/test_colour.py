"""colour.py: what files declare of their colours, against LittleCMS and arithmetic."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from pictures import noise, saved
from PIL import Image, ImageCms, PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture import layouts, png
from vqcodec.picture.colour import SRGB_PRIMARIES, Colours, from_code_points, from_png
from vqcodec.picture.reading import from_pil, read_picture

Array = np.ndarray[Any, Any]
SRGB = ImageCms.createProfile("sRGB")
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def to_srgb(samples: Array, icc: bytes) -> Array:
    source = Image.fromarray(samples)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    mode = "L" if samples.ndim == 2 else "RGB"
    target = ImageCms.profileToProfile(source, profile, SRGB, intent, outputMode="RGB")
    assert target is not None and source.mode == mode
    return np.asarray(target).astype(int)


def decoded(levels: Array) -> Array:
    """Light of sRGB samples in 0..1. Source: IEC 61966-2-1."""
    return np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)


def encoded(light: Array) -> Array:
    light = np.clip(light, 0, 1)
    curve = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.asarray(255 * curve)


def to_xyz(primaries: tuple[float, ...]) -> Array:
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    xyz = np.stack([x, y, 1 - x - y]) / y
    return np.asarray(xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0]))


@pytest.mark.parametrize("primaries", [P3, ADOBE, SRGB_PRIMARIES])
@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, 2.2, 2.8])
def test_profiles_say_what_was_declared(primaries: tuple[float, ...], gamma: float | None) -> None:
    samples = noise(16, 16, 3) // 2 + 64
    icc = Colours(primaries, gamma).profile(grey=False)
    if icc is None:
        assert primaries == SRGB_PRIMARIES and gamma is None
        return
    light = decoded(samples / 255) if gamma is None else (samples / 255) ** gamma
    matrix = np.linalg.solve(to_xyz(SRGB_PRIMARIES), to_xyz(primaries))  # all of white D65
    wanted = encoded(light @ matrix.T)
    inside = ((wanted > 3) & (wanted < 252)).all(axis=2)
    assert inside.sum() > 50
    assert np.abs(to_srgb(samples, icc) - wanted)[inside].max() <= 2.5


@pytest.mark.parametrize("gamma", [1.0, 2.2, 2.8])
def test_profiles_of_grey(gamma: float) -> None:
    samples = np.arange(16, 256, dtype=np.uint8).reshape(15, 16)
    icc = Colours(P3, gamma).profile(grey=True)
    assert icc is not None and icc[16:20] == b"GRAY"
    wanted = encoded((samples / 255) ** gamma)[..., None]
    assert np.abs(to_srgb(samples, icc) - wanted).max() <= 2.5
    assert Colours(P3).profile(grey=True) is None  # a curve as of sRGB, and no colours


def test_white_stays_white_under_another_illuminant() -> None:
    dci = from_code_points(11, 13)
    icc = dci.profile(grey=False)
    assert icc is not None
    white = np.full((2, 2, 3), 255, np.uint8)
    assert to_srgb(white, icc).min() >= 254


@pytest.mark.parametrize("primaries", [1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 22])
@pytest.mark.parametrize("transfer", [1, 2, 4, 5, 6, 8, 13, 14, 15])
def test_code_points(primaries: int, transfer: int) -> None:
    colours = from_code_points(primaries, transfer)
    assert colours.note == ""
    icc = colours.profile(grey=False)
    plain = primaries in (1, 2) and transfer not in (4, 5, 8)
    assert (icc is None) == plain
    if icc is not None:
        assert int.from_bytes(icc[:4], "big") == len(icc) and icc[16:20] == b"RGB "
        ImageCms.ImageCmsProfile(io.BytesIO(icc))  # LittleCMS reads it


@pytest.mark.parametrize(
    ("primaries", "transfer", "told"),
    [
        (9, 16, "samples are BT.2020 PQ: taken as sRGB"),
        (9, 18, "samples are BT.2020 HLG: taken as sRGB"),
        (1, 9, "samples are BT.709 logarithmic: taken as sRGB"),
        (10, 13, "samples are primaries 10 sRGB: taken as sRGB"),
        (12, 77, "samples are Display P3 curve 77: taken as sRGB"),
    ],
)
def test_what_no_profile_says_is_a_note(primaries: int, transfer: int, told: str) -> None:
    colours = from_code_points(primaries, transfer)
    assert colours.note == told
    assert colours.profile(grey=False) is None and colours.profile(grey=True) is None


def png_with(*chunks: tuple[bytes, bytes], mode: str = "RGB", **options: Any) -> bytes:
    info = PngImagePlugin.PngInfo()
    for kind, data in chunks:
        info.add(kind, data)
    return saved(Image.fromarray(noise(4, 5, 3)).convert(mode), "PNG", pnginfo=info, **options)


def gama(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def chrm(primaries: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries))


def cicp(*numbers: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(numbers)


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([gama(45455)], Colours()),
        ([gama(46000)], Colours()),  # 2.17, which is sRGB's as other programs write it
        ([gama(100_000)], Colours(gamma=1.0)),
        ([gama(55556)], Colours(gamma=1 / 0.55556)),
        ([gama(45455), chrm(SRGB_PRIMARIES)], Colours()),
        ([gama(45455), chrm(ADOBE)], Colours(ADOBE, 1 / 0.45455)),
        ([chrm(P3)], Colours(P3)),
        ([cicp(12, 13, 0, 1)], Colours(P3)),
        ([cicp(1, 8, 0, 1), gama(45455)], Colours(gamma=1.0)),
        ([(b"sRGB", b"\0"), gama(100_000)], Colours()),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colours_of_png(chunks: list[tuple[bytes, bytes]], wanted: Colours, mode: str) -> None:
    data = png_with(*chunks, mode=mode)
    picture = read_picture(data)
    assert picture.icc == wanted.profile(grey=mode == "L") and picture.notes == ()
    np.testing.assert_array_equal(
        picture.rgb, np.asarray(Image.fromarray(noise(4, 5, 3)).convert(mode).convert("RGB"))
    )
    if chunks[0][0] != b"cICP":  # which Pillow does not keep
        assert from_pil(Image.open(io.BytesIO(data))).icc == picture.icc


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([cicp(9, 16, 0, 1)], "samples are BT.2020 PQ: taken as sRGB"),
        ([cicp(1, 13, 0, 0)], "samples are of narrow range: taken as of full range"),
        ([gama(0)], "gamma 0 left out: samples count as sRGB"),
        ([gama(1)], "gamma 1e-05 left out: samples count as sRGB"),
        ([chrm((0,) * 8)], "damaged chromaticities left out: samples count as sRGB"),
        ([chrm((*P3[:4], *P3[2:4], *P3[2:4]))], "damaged chromaticities left out"),
    ],
)
def test_colours_of_png_that_are_told_of(chunks: list[tuple[bytes, bytes]], told: str) -> None:
    picture = read_picture(png_with(*chunks))
    assert picture.icc is None and len(picture.notes) == 1 and picture.notes[0].startswith(told)


def test_cicp_of_other_samples_is_refused() -> None:
    with pytest.raises(ImageError, match="cICP of other colours than RGB"):
        read_picture(png_with(cicp(1, 1, 1, 1)))


def test_an_embedded_profile_overrules_what_is_declared() -> None:
    icc = ImageCms.ImageCmsProfile(SRGB).tobytes()
    for chunk in (gama(100_000), chrm(P3)):
        picture = read_picture(png_with(chunk, icc_profile=icc))
        assert picture.icc == icc and picture.notes == ()


def test_a_chunk_of_another_size_is_damage() -> None:
    with pytest.raises(ImageError, match="damaged: what it says of its samples cannot be read"):
        layouts.facts_of("PNG", png.MAGIC + struct.pack(">I4sB", 1, b"cICP", 9))


def test_gamma_as_pillow_has_it() -> None:
    assert from_png({}) == Colours()
    assert from_png({"gamma": "junk", "chromaticity": None}) == Colours()
