"""Where rows lie: each in a slot of its own, each tap at the same distance; the coding order."""

import numpy as np
import pytest

from vqcodec.prior.constants import CONTEXT_TAPS, FIRST_TAPS, LAYER_TAPS
from vqcodec.prior.wavefront_layout import Layout

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (4, 4), (7, 5), (5, 12)]
TAPS = tuple(dict.fromkeys((*FIRST_TAPS, *LAYER_TAPS, *CONTEXT_TAPS)))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_tap_is_the_same_distance_everywhere(batch: int) -> None:
    """And one outside the grid hits the slot of no position."""
    for height in range(1, 12):
        for width in range(1, 16):
            layout = Layout((height, width), batch)
            slots = layout.to_grid(layout.slots[:, None])[..., 0]  # (batch, h, w)
            assert len(np.unique(slots)) == slots.size
            assert slots.max() + max(0, *layout.offsets(TAPS)) < layout.num_slots
            assert slots.min() + min(layout.offsets(TAPS)) >= 0
            for (dy, dx), offset in zip(TAPS, layout.offsets(TAPS), strict=True):
                moved = np.full((batch, height + 4, width + 4), -1)
                moved[:, 2:-2, 2:-2] = slots
                wanted = moved[:, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
                found = np.where(np.isin(slots + offset, slots), slots + offset, -1)
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_in_coding_order(shape: tuple[int, int]) -> None:
    (height, width), batch = shape, 2
    layout = Layout(shape, batch)
    grid = np.arange(batch * height * width * 3).reshape(batch, height, width, 3)
    rows = layout.to_rows(grid)
    positions = [(i, j) for i in range(height) for j in range(width)]
    ordered = sorted(positions, key=lambda place: (place[1] + 2 * place[0], place[0]))
    wanted = [grid[b, i, j] for i, j in ordered for b in range(batch)]
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(layout.to_grid(rows), grid)
    (whole,) = layout.whole(1)
    assert layout.places(whole).tolist() == [i * width + j for i, j in ordered]
    assert (whole.level, len(rows)) == (1, layout.num_rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 3])
def test_each_level_is_seven_steps_behind_the_one_before_it(
    shape: tuple[int, int], levels: int
) -> None:
    layout, seen = Layout(shape, 2), dict[tuple[int, int], int]()
    ends = [0] * levels
    for step in range(layout.num_steps(levels)):
        spans = layout.spans(step, levels)
        assert [span.level for span in spans] == sorted(span.level for span in spans)
        for span in spans:
            assert span.first == ends[span.level] < span.end
            ends[span.level] = span.end
            places = layout.places(span).tolist()
            assert len({place % shape[1] + 2 * (place // shape[1]) for place in places}) == 1
            assert 2 * len(places) == span.end - span.first <= 2 * layout.longest
            seen.update({(span.level, place): step for place in places})
    assert ends == [layout.num_rows] * levels
    for (level, place), step in seen.items():
        assert step == seen[0, place] + 7 * level
    assert layout.spans(-1, levels) == layout.spans(layout.num_steps(levels), levels) == []


def test_rows_tell_slots_and_levels() -> None:
    layout = Layout((4, 9), 2)
    spans = layout.spans(9, 2)
    rows = layout.rows(spans)
    wanted = [layout.slots[span.first : span.end] for span in spans]
    np.testing.assert_array_equal(rows.slots, np.concatenate(wanted))
    np.testing.assert_array_equal(rows.levels, np.repeat([0, 1], [*map(len, wanted)]))
    for found, want in zip(rows.split(rows.slots), wanted, strict=True):
        np.testing.assert_array_equal(found, want)
    assert layout.rows([]).slots.shape == layout.rows([]).levels.shape == (0,)
