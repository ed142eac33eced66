"""Learning from the picture; `test_integer_prior` and `test_reference` check that it is exact."""

import numpy as np
import pytest

from vqcodec.prior.adaptive_counts import AdaptiveCounts

ONE = 2**24


def corrections(size: int, shares: list[float], wavefronts: list[list[int]]) -> list[float]:
    """In nats, after these wavefronts, if `shares` are expected at each position whatever came."""
    counts = AdaptiveCounts([1], size, 1, longest=16)
    row = np.array(shares) * ONE
    for wavefront in wavefronts:
        counts.expect(0, np.tile(row - 1, (len(wavefront), 1)))
        counts.learn([0], [len(wavefront)], np.array(wavefront))
    return [float(x) for x in counts.steps[0] / 64]


def test_what_comes_as_expected_changes_nothing() -> None:
    assert corrections(4, [0.5, 0.25, 0.25, 0], [[0, 0, 1, 2]] * 20) == [0, 0, 0, 0]


@pytest.mark.parametrize("wavefronts", [1, 2, 4])
def test_corrections_are_logarithms_of_quotients(wavefronts: int) -> None:
    """... of what came and what was expected, a few of each besides."""
    found = corrections(2, [0.75, 0.25], [[0, 1]] * wavefronts)
    wanted = np.log((wavefronts + 3) / (np.array([1.5, 0.5]) * wavefronts + 3))
    np.testing.assert_allclose(found, wanted, atol=0.03 * wavefronts)


def test_corrections_have_an_end_and_old_wavefronts_count_less() -> None:
    often, never = corrections(2, [0.001, 0.999], [[0] * 8] * 3000)
    assert (often, never) == (16, -16)
    before = corrections(2, [0.5, 0.5], [[0, 1] * 8] * 1000 + [[0] * 16])
    assert before[0] > 0.08, "a thousand wavefronts would hold it at 0"


def test_levels_without_a_wavefront_stay_as_they_are() -> None:
    """Grids one column wide have no odd wavefronts, so one of two levels is left out by turns."""
    counts, alone = AdaptiveCounts([1] * 3, 3, 1, 1), AdaptiveCounts([1], 3, 1, 1)
    row = np.array([[0.2, 0.2, 0.6]]) * ONE - 1

    def learn(one: AdaptiveCounts, levels: list[int]) -> None:
        for level in levels:
            one.expect(level, row)
        one.learn(levels, [1] * len(levels), np.ones(len(levels), np.int32))

    for levels in ([0, 2], [1], [0, 2]):
        learn(counts, levels)
    learn(alone, [0])
    np.testing.assert_array_equal(counts.steps[1], alone.steps[0])
    learn(alone, [0])
    for level in (0, 2):
        np.testing.assert_array_equal(counts.steps[level], alone.steps[0])
