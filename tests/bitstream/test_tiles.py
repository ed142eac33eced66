"""tiles.py: pictures are cut without gaps, and windows hold what they must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqcodec.bitstream import container
from vqcodec.bitstream.tiles import Tile, split
from vqcodec.limits import MAX_SIDE, TILE

sides = st.one_of(st.integers(1, 4 * TILE), st.integers(-2, 2).map(lambda d: 3 * TILE + d))
strides = st.sampled_from([2, 4, 8, 16, 32, 64])


def box_of(tile: Tile) -> tuple[slice, slice]:
    return slice(tile.top, tile.bottom), slice(tile.left, tile.right)


def check(height: int, width: int, stride: int) -> list[Tile]:
    """All that is promised of the tiles of a picture."""
    tiles = split(height, width, stride)
    assert len(tiles) == container.tile_count(width, height)
    assert [tile.number for tile in tiles] == list(range(len(tiles)))
    corners = [(tile.top, tile.left) for tile in tiles]
    assert corners == sorted(corners)  # row by row
    padded = (-(-height // stride) * stride, -(-width // stride) * stride)
    assert (tiles[-1].bottom, tiles[-1].right) == padded
    for edges in zip(*((t.top, t.left, t.bottom, t.right) for t in tiles), strict=True):
        assert not any(edge % stride for edge in edges)
    for sizes in ({t.bottom - t.top for t in tiles}, {t.right - t.left for t in tiles}):
        assert stride <= min(sizes) and max(sizes) <= min(TILE, min(sizes) + stride)
    assert all(tile.top < height and tile.left < width for tile in tiles)  # none is all padding
    return tiles


@given(height=sides, width=sides, stride=strides)
def test_tiles_cover_a_picture_once(height: int, width: int, stride: int) -> None:
    tiles = check(height, width, stride)
    counts = np.zeros((-(-height // stride), -(-width // stride)), np.int32)
    for tile in tiles:
        cells = Tile(
            0, *(edge // stride for edge in (tile.top, tile.left, tile.bottom, tile.right))
        )
        counts[box_of(cells)] += 1
    assert (counts == 1).all()


@pytest.mark.parametrize("stride", [2, 16, 64])
def test_tiles_of_panoramas(stride: int) -> None:
    assert len(check(1, 30000, stride)) == len(check(30000, 1, stride)) == 30
    assert len(check(1, MAX_SIDE, stride)) == MAX_SIDE // TILE


@pytest.mark.parametrize(("side", "count"), [(1, 1), (TILE, 1), (TILE + 1, 2), (2 * TILE, 2)])
def test_no_more_tiles_than_must_be(side: int, count: int) -> None:
    assert len(split(side, 5, 16)) == len(split(5, side, 16)) == count
    assert len(split(side, side, 16)) == count**2


@given(data=st.data(), height=sides, width=sides, stride=strides)
def test_windows(data: st.DataObject, height: int, width: int, stride: int) -> None:
    tile = data.draw(st.sampled_from(split(height, width, stride)))
    reach, step = data.draw(st.integers(0, 2 * TILE)), stride * data.draw(st.sampled_from([1, 2]))
    padded = -(-height // stride) * stride, -(-width // stride) * stride
    window = tile.window(reach, step, *padded)
    assert window.number == tile.number
    assert 0 <= window.top <= max(0, tile.top - reach) <= tile.top
    assert 0 <= window.left <= max(0, tile.left - reach) <= tile.left
    assert tile.bottom <= min(padded[0], tile.bottom + reach) <= window.bottom <= padded[0]
    assert tile.right <= min(padded[1], tile.right + reach) <= window.right <= padded[1]
    assert window.top % step == window.left % step == 0
    assert window.bottom % step == 0 or window.bottom == padded[0]
    assert window.right % step == 0 or window.right == padded[1]
    # No larger than it must be.
    assert tile.top - window.top < reach + step and window.bottom - tile.bottom < reach + step
    assert tile.left - window.left < reach + step and window.right - tile.right < reach + step


edges = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda e: (e[0], e[0] + e[1]))
boxes = st.builds(lambda rows, cols: Tile(0, rows[0], cols[0], rows[1], cols[1]), edges, edges)


@given(one=boxes, other=boxes)
def test_tiles_meet_where_they_share_a_pixel(one: Tile, other: Tile) -> None:
    plane = np.zeros((18, 18), np.int32)
    plane[box_of(one)] += 1
    plane[box_of(other)] += 1
    assert one.meets(other) == other.meets(one) == bool((plane == 2).any())
    assert one.meets(one)
