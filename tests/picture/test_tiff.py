"""tiff.py: every layout is read rightly, against samples that are known, or refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pictures import PILLOW_13, needs_pillow_13, noise, saved
from PIL import Image
from tiff_files import DEFLATE, LZW, NO_COMPRESSION, PACKBITS, Layout, tiff_file

from vqcodec.errors import ImageError
from vqcodec.picture.picture import Picture
from vqcodec.picture.reading import read_picture

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 18, 21  # neither strips nor tiles of 16 fill them
CHANNELS = {2: 3, 5: 4, 6: 3, 8: 3}  # of a photometric interpretation; else 1
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
TYPES: dict[int, dict[int, Any]] = {
    UNSIGNED: {
        **dict.fromkeys((1, 2, 4, 8), np.uint8),
        12: np.uint16,
        16: np.uint16,
        32: np.uint32,
    },
    SIGNED: {8: np.int8, 16: np.int16, 32: np.int32},
    FLOAT: {32: np.float32},
}
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3))
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def ramps(layout: Layout) -> Array:
    """Samples (H, W, C) that use the range of their type, other ones in each channel."""
    count = CHANNELS.get(layout.photometric, 1) + len(layout.extra)
    wave = np.stack([X * 7 * (k + 2) + Y * 11 * (k + 1) for k in range(count)], 2)
    if layout.sample_format == FLOAT:
        return ((wave % 256) / 255).astype(np.float32)
    kind = TYPES[layout.sample_format][layout.bits]
    if layout.sample_format == SIGNED or layout.bits == 32:  # a range that is kept as it is
        return np.array(wave % (100 if layout.bits == 8 else 256)).astype(kind)
    if layout.bits == 16:
        wave = wave * 197
    return np.array(wave % 2**layout.bits).astype(kind)


def shown(samples: Array, layout: Layout) -> tuple[Array, Array | None]:
    """What a viewer shows, in 0..255: samples (H, W, 1 or 3); opacity."""
    levels = samples.astype(np.float64)
    if layout.sample_format == FLOAT:
        levels = levels * 255
    elif layout.sample_format == UNSIGNED and layout.bits != 32:
        levels = levels * 255 / (2**layout.bits - 1)
    count = CHANNELS.get(layout.photometric, 1)
    colours = levels[..., :count]
    alpha = levels[..., count] if layout.extra[:1] in ((1,), (2,)) else None
    if layout.photometric == 0:
        colours = 255 - colours
    if layout.photometric == 3:
        colours = PALETTE[samples[..., 0]].astype(np.float64)
        alpha = None if alpha is None else samples[..., 1].astype(np.float64)
    if layout.photometric == 5:
        colours = (255 - colours[..., :3]) * (255 - colours[..., 3:]) / 255
    if layout.extra[:1] == (1,):
        assert alpha is not None
        colours = np.clip(colours * 255 / np.maximum(alpha, 0.5)[..., None], 0, 255)
    return colours, alpha


def is_right(picture: Picture, layout: Layout, samples: Array) -> bool:
    colours, alpha = shown(samples, layout)
    found = picture.rgb[..., : colours.shape[2]].astype(np.float64)
    difference = np.abs(found - colours)
    if layout.extra[:1] == (1,):
        # Colours of 8 bits that were divided by the opacity: roundings of both count.
        assert alpha is not None
        difference = np.where(alpha[..., None] > 180, difference - 2, 0)
    if layout.photometric == 5 and layout.bits == 16:
        difference = difference - 1  # of which the upper halves count, before inks are mixed
    opacity = picture.alpha if picture.alpha is not None else np.full((1, 1), 255, np.uint8)
    return bool(
        difference.max() <= 1.01
        and (colours.shape[2] == 1) == picture.grey
        and np.abs(opacity - (255 if alpha is None else alpha)).max() <= 1.01
    )


def layouts(photometric: int, bits: int, sample_format: int, planar: int) -> Iterator[Layout]:
    extras: list[tuple[int, ...]] = [(), (0,), (1,), (2,), (0, 0), (1, 0), (2, 0)]
    if planar == 2 and photometric in (0, 1, 3):
        del extras[0]
    compressions = (NO_COMPRESSION, LZW, DEFLATE, PACKBITS)
    for extra, compression, order, tile in itertools.product(extras, compressions, "<>", (0, 16)):
        layout = Layout(
            photometric,
            bits,
            sample_format,
            extra,
            planar,
            compression,
            tile_width=tile,
            order=order,
        )
        if photometric == 3:
            colours = PALETTE[: 2**bits].T.ravel() * 257
            layout = replace(layout, tags={320: colours.tolist()})
        yield layout
        if bits < 8:
            yield replace(layout, fill_order=2)
        if compression in (LZW, DEFLATE) and bits in (8, 16, 32):
            yield replace(layout, predictor=3 if sample_format == FLOAT else 2)


KINDS = [
    *itertools.product((0, 1), (1, 2, 4, 8, 12, 16, 32), (UNSIGNED,)),
    *itertools.product((0, 1), (8, 16, 32), (SIGNED,)),
    *((photometric, 32, FLOAT) for photometric in (0, 1, 2)),
    *itertools.product((2, 5), (8, 16), (UNSIGNED,)),
    *itertools.product((3,), (1, 2, 4, 8), (UNSIGNED,)),
]
READ = {  # of (photometric, bits, sample format), without extra channels: how many layouts
    (0, 1, 1): 32, (0, 2, 1): 16, (0, 4, 1): 16, (0, 8, 1): 24, (0, 16, 1): 12, (0, 32, 3): 14,
    (1, 1, 1): 32, (1, 2, 1): 16, (1, 4, 1): 16, (1, 8, 1): 24, (1, 12, 1): 8, (1, 16, 1): 24,
    (1, 32, 1): 12, (1, 16, 2): 14, (1, 32, 2): 14, (1, 32, 3): 14, (2, 8, 1): 48, (2, 16, 1): 44,
    (3, 1, 1): 16, (3, 2, 1): 16, (3, 4, 1): 16, (3, 8, 1): 24, (5, 8, 1): 48, (5, 16, 1): 44,
}  # fmt: skip


@pytest.mark.parametrize(
    ("photometric", "bits", "sample_format"),
    [pytest.param(*kind, marks=[pytest.mark.slow] * (kind[1] == 32)) for kind in KINDS],
)
def test_every_layout_is_read_rightly_or_refused(
    photometric: int, bits: int, sample_format: int
) -> None:
    read = 0
    for planar in (1, 2):
        for layout in layouts(photometric, bits, sample_format, planar):
            samples = ramps(layout)
            try:
                picture = read_picture(tiff_file(samples, layout))
            except ImageError as error:
                assert "TIFF of an untested kind (" in str(error) or not PILLOW_13, layout
            else:
                assert is_right(picture, layout, samples), layout
                read += not layout.extra
    most = READ.get((photometric, bits, sample_format), 0)
    assert read == most or (read < most and not PILLOW_13)


@needs_pillow_13
@pytest.mark.parametrize(
    ("photometric", "bits", "extra"),
    [(1, 8, (1,)), (1, 8, (2,)), (2, 8, (0, 0)), (2, 8, (2, 0)), (2, 16, (2,)), (3, 8, (2,))],
)
@pytest.mark.parametrize("big", [False, True])
def test_extra_channels(photometric: int, bits: int, extra: tuple[int, ...], big: bool) -> None:
    tags = {320: (PALETTE.T.ravel() * 257).tolist()} if photometric == 3 else {}
    layout = Layout(photometric, bits, extra=extra, tags=tags, big=big)
    samples = ramps(layout)
    assert is_right(read_picture(tiff_file(samples, layout)), layout, samples)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("compression", [NO_COMPRESSION, LZW])
def test_palettes_of_8_bits_in_16(bits: int, compression: int) -> None:
    """As scanners write them: libtiff takes entries for 8 bits if all are below 256."""
    samples = ((X + Y) % 2**bits)[..., None].astype(np.uint8)
    colours = PALETTE[: 2**bits]
    tags = {320: colours.T.ravel().tolist()}
    layout = Layout(3, bits, compression=compression, tags=tags)
    np.testing.assert_array_equal(
        read_picture(tiff_file(samples, layout)).rgb, colours[samples[..., 0]]
    )


def test_a_palette_that_does_not_fit_is_refused() -> None:
    layout = Layout(3, 8, tags={320: [0] * 48})
    with pytest.raises(ImageError, match="a palette of another size"):
        read_picture(tiff_file(ramps(layout), layout))


SOFT = np.stack([X * 4 + 20, Y * 8 + 20, (X + Y) * 3 + 30], 2).astype(np.uint8)


@pytest.mark.parametrize("photometric", [1, 2, 6])
@pytest.mark.parametrize("tile_width", [0, 16])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_jpeg_in_tiff(photometric: int, tile_width: int, order: str, big: bool) -> None:
    layout = Layout(photometric, compression=7, tile_width=tile_width, order=order, big=big)
    samples = SOFT[..., :1] if photometric == 1 else SOFT
    found = read_picture(tiff_file(samples, layout)).rgb[..., : samples.shape[2]]
    assert np.abs(found.astype(int) - samples).max() <= 4


def test_jpeg_in_tiff_with_fewer_samples_of_colour() -> None:
    layout = Layout(6, compression=7, tags={530: [2, 2]})
    assert np.abs(read_picture(tiff_file(SOFT, layout)).rgb.astype(int) - SOFT).max() <= 12


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_fax(compression: str, white_is_zero: bool) -> None:
    dark = noise(HEIGHT, WIDTH) > 128
    info = {262: 0} if white_is_zero else {262: 1}
    source = Image.fromarray(dark)
    data = saved(source, "TIFF", compression=compression, tiffinfo=info)
    np.testing.assert_array_equal(read_picture(data).rgb[..., 0], np.where(dark, 255, 0))


def lab(rgb: Array) -> Array:
    """8-bit CIE Lab as TIFF has it, under D50. Source: CIE 15; IEC 61966-2-1."""
    light = rgb / 255.0
    light = np.where(light > 0.04045, ((light + 0.055) / 1.055) ** 2.4, light / 12.92)
    rows = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169]]
    matrix = np.array([*rows, [0.0139322, 0.0971045, 0.7141733]])
    xyz = light @ matrix.T / np.array([0.96422, 1, 0.82521])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    a, b = 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    channels = [np.rint((116 * f[..., 1] - 16) * 2.55), np.rint(a) % 256, np.rint(b) % 256]
    return np.stack(channels, 2).astype(np.uint8)


@pytest.mark.parametrize("compression", [NO_COMPRESSION, LZW, DEFLATE, PACKBITS])
@pytest.mark.parametrize("order", ["<", ">"])
def test_lab(compression: int, order: str) -> None:
    layout = Layout(8, compression=compression, order=order)
    picture = read_picture(tiff_file(lab(SOFT), layout))
    # A step of 8-bit Lab is several steps of a dark, saturated sRGB colour.
    difference = np.abs(picture.rgb.astype(int) - SOFT)
    assert difference.mean() < 2 and difference.max() <= 20
    assert picture.notes == ("LAB converted to RGB",)
    with pytest.raises(ImageError, match="CIE Lab, 3 x 8 bits, .*separate planes"):
        read_picture(tiff_file(lab(SOFT), replace(layout, planar=2)))


def ycbcr(rgb: Array) -> Array:
    r, g, b = np.moveaxis(rgb.astype(np.float64), 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    channels = np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], 2)
    return np.asarray(np.clip(np.rint(channels), 0, 255), np.uint8)


@needs_pillow_13
@pytest.mark.parametrize("compression", [NO_COMPRESSION, LZW, DEFLATE, PACKBITS])
@pytest.mark.parametrize("order", ["<", ">"])
def test_ycbcr(compression: int, order: str) -> None:
    layout = Layout(6, compression=compression, order=order, tags={530: [1, 1]})
    samples = ycbcr(SOFT)
    found = read_picture(tiff_file(samples, layout)).rgb
    assert np.abs(found.astype(int) - SOFT).max() <= 2
    for tags in ({}, {530: [2, 2]}, {530: [2, 1]}):  # without the tag, it is 2, 2
        with pytest.raises(ImageError, match="YCbCr with fewer samples of colour"):
            read_picture(tiff_file(samples, replace(layout, tags=tags)))
    other = {530: [1, 1], 532: [16, 1, 235, 1, 128, 1]}
    with pytest.raises(ImageError, match="YCbCr"):
        read_picture(tiff_file(samples, replace(layout, tags=other)))


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (Layout(1, order=">", big=True), "big-endian BigTIFF"),
        (Layout(drop=(262,)), "photometric -1, 1 x 8 bits, not compressed"),
        (Layout(2, 8, sample_format=4), "undefined samples"),
        (Layout(2, compression=6), "RGB, 3 x 8 bits, old JPEG"),
        (Layout(compression=50000), "grey, 1 x 8 bits, Zstandard"),
        (Layout(4, 1), "mask, 1 x 1 bits"),
        (Layout(10), "ITU Lab"),
        (Layout(32803), "colour filter array"),
        (Layout(5, tags={332: [2]}), "inks that are not CMYK"),
        (Layout(tags={254: [1]}), "a preview, as in raw files of cameras"),
        (Layout(tags={255: [2]}), "a preview"),
        (Layout(tags={254: [4]}), "a transparency mask"),
        (Layout(tags={50706: [1, 4]}), "DNG, a camera's raw data"),
        (Layout(tags={32997: [2]}), "a volume"),
        (Layout(2, tags={258: [5, 6, 5]}), "3 x 5/6 bits"),
        (Layout(predictor=2), "grey, 1 x 8 bits, not compressed, predictor 2"),
    ],
)
def test_other_layouts_are_refused_by_name(layout: Layout, told: str) -> None:
    count = CHANNELS.get(layout.photometric, 1)
    samples = np.zeros((HEIGHT, WIDTH, count), np.uint8)
    with pytest.raises(ImageError) as caught:
        read_picture(tiff_file(samples, layout))
    assert told in str(caught.value)
    assert str(caught.value).endswith("; convert it to PNG or use any_format")


def test_a_fourth_channel_of_which_nothing_is_said() -> None:
    samples = noise(HEIGHT, WIDTH, 4)
    picture = read_picture(tiff_file(samples, Layout(2)))
    assert picture.notes == ("fourth channel, of which nothing is said, taken as opacity",)
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.rgb, samples[..., :3])
    np.testing.assert_array_equal(picture.alpha, samples[..., 3])


def test_colours_that_only_tiff_tags_say_are_told_of() -> None:
    layout = Layout(tags={301: list(range(256))})
    assert read_picture(tiff_file(noise(HEIGHT, WIDTH), layout)).notes == (
        "chromaticities and transfer function left out: samples count as sRGB",
    )


def test_an_untested_layout_can_be_taken_at_pillows_word() -> None:
    samples = noise(HEIGHT, WIDTH)
    data = tiff_file(samples, Layout(tags={254: [1]}))
    picture = read_picture(data, any_format=True)
    np.testing.assert_array_equal(picture.rgb[..., 0], samples)
    assert len(picture.notes) == 1 and "taken as Pillow reads it" in picture.notes[0]
