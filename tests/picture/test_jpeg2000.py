"""JPEG 2000: what is read rightly, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from known import COLOURS, SOFT, SRGB, box, cdef, difference, jp2, refused, with_box
from pictures import noise
from PIL import Image

from vqcodec.picture.reading import read_picture


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("mct", [0, 1])
def test_jpeg2000(mode: str, mct: int) -> None:
    source = Image.fromarray(noise(32, 48, 4)).convert(mode)
    picture = read_picture(jp2(source, mct=mct if mode[0] == "R" else 0))
    planes = np.asarray(source).reshape(32, 48, -1)
    count = 3 if mode[0] == "R" else 1
    np.testing.assert_array_equal(picture.rgb[..., :count], planes[..., :count])
    if planes.shape[2] > count:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, planes[..., count])
    assert picture.notes == () and picture.grey == (count == 1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_bare_codestream(mode: str) -> None:
    source = SOFT.convert(mode)
    data = jp2(source, no_jp2=True)
    assert data.startswith(b"\xff\x4f")
    assert difference(read_picture(data), np.asarray(source)) == 0


def test_the_profile_of_jpeg2000_is_kept() -> None:
    data = with_box(jp2(SOFT), box(b"colr", b"\2\0\0" + SRGB), instead_of=b"colr")
    picture = read_picture(data)
    assert picture.icc == SRGB and difference(picture, COLOURS) == 0


SIZ = b"\xff\x4f\xff\x51"


def patched(data: bytes, offset: int, values: bytes) -> bytes:
    """Other values at an offset of the codestream."""
    start = data.index(SIZ) + offset
    return data[:start] + values + data[start + len(values) :]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (with_box(jp2(SOFT), cdef((0, 0, 3), (1, 0, 2), (2, 0, 1))), "channels in an order"),
        (with_box(jp2(SOFT), box(b"pclr", b"\0\1\3\7\7\7\0\0\0")), "with a box pclr"),
        (with_box(jp2(SOFT), box(b"bpcc", b"\7\7\7")), "with a box bpcc"),
        (with_box(jp2(SOFT), box(b"colr", b"\1\0\0\0\0\0\x12"), b"colr"), "other colours"),
        (with_box(jp2(SOFT), box(b"colr", b"\3\0\0" + SRGB), b"colr"), "other colours"),
        (with_box(jp2(SOFT), b"", b"colr"), "other colours"),
        (with_box(jp2(SOFT), box(b"colr", b"\1\0\0\0\0\0\x11"), b"colr"), "3 channels"),
        (with_box(jp2(Image.fromarray(noise(16, 16, 4))), b"", b"cdef"), "4 channels"),
        (patched(jp2(SOFT), 43, b"\2\2"), "subsampled"),
        (patched(jp2(SOFT), 42, b"\3\1\1\3\1\1\3"), "have not 8 bits"),
        (patched(jp2(SOFT), 42, b"\x0b\1\1\x0b\1\1\x0b"), "have not 8 bits"),
        (patched(jp2(SOFT.convert("L")), 42, b"\x87"), "signed samples"),
        (patched(jp2(SOFT.convert("L")), 42, b"\3"), "have not 8 bits"),
        (patched(jp2(SOFT), 16, b"\0\0\0\1"), "an offset"),
        (patched(jp2(SOFT), 8, b"\0\0\0\x20"), "it has two sizes"),
        (jp2(SOFT).replace(b"jp2 ", b"jpx "), "not JP2"),
    ],
)  # fmt: skip
def test_other_jpeg2000_is_refused(data: bytes, told: str) -> None:
    refused(data, told)
