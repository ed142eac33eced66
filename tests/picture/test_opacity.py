"""Opacity planes <-> bytes, and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import noise, saved
from PIL import Image

from vqcodec.errors import CorruptChunk
from vqcodec.picture import opacity
from vqcodec.picture.padding import pad


def uint8_arrays(*tail: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    sides = st.tuples(st.integers(1, 20), st.integers(1, 20))
    return sides.flatmap(lambda side: hnp.arrays(np.uint8, (*side, *tail)))


@settings(deadline=None)
@given(array=uint8_arrays(3), multiple=st.integers(1, 32))
def test_padding_repeats_the_edge(array: np.ndarray[Any, Any], multiple: int) -> None:
    padded = pad(array, multiple)
    height, width = array.shape[:2]
    assert padded.shape[0] % multiple == 0 and padded.shape[0] - height < multiple
    assert padded.shape[1] % multiple == 0 and padded.shape[1] - width < multiple
    np.testing.assert_array_equal(padded[:height, :width], array)
    np.testing.assert_array_equal(padded[-1, -1], array[-1, -1])


@settings(deadline=None)
@given(alpha=uint8_arrays(), bilevel=st.booleans())
def test_opacity_round_trip(alpha: np.ndarray[Any, Any], bilevel: bool) -> None:
    if bilevel:
        alpha = np.where(alpha < 128, 0, 255).astype(np.uint8)
    height, width = alpha.shape
    decoded = opacity.decode(opacity.encode(alpha), width, height)
    np.testing.assert_array_equal(decoded, alpha)


def test_opacity_wider_than_webp() -> None:
    alpha = np.repeat(noise(1, 1), 17_000, axis=1)
    np.testing.assert_array_equal(opacity.decode(opacity.encode(alpha), 17_000, 1), alpha)


def test_damaged_opacity() -> None:
    good = opacity.encode(noise(8, 9))
    bad = [b"", b"junk", good[: len(good) // 2], saved(Image.new("RGBA", (9, 8)), "PNG")]
    bad.append(saved(Image.new("L", (9, 8)), "GIF"))
    for data in bad:
        with pytest.raises(CorruptChunk, match="ALPHA"):
            opacity.decode(data, 9, 8)
    for size in ((8, 9), (1, 1), (10**4, 10**4)):
        with pytest.raises(CorruptChunk, match="ALPHA"):
            opacity.decode(good, *size)
