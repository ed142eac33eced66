import math

import pytest

from vqcodec.evaluation.bdrate import Curve, bd_rate

RATES = (0.06, 0.1, 0.17, 0.3, 0.5, 0.9)
VALUES = (25.1, 26.9, 28.4, 30.2, 31.9, 34.0)
OTHER = Curve((0.08, 0.12, 0.2, 0.28, 0.45, 0.7), (25.0, 26.1, 28.0, 29.5, 31.0, 33.2))


def scaled(factor: float) -> Curve:
    return Curve(tuple(factor * rate for rate in RATES), VALUES)


@pytest.mark.parametrize("window", [(0, math.inf), (0.05, 0.5), (0.05, 0.25)])
def test_half_the_rate_is_minus_50_percent(window: tuple[float, float]) -> None:
    assert bd_rate(scaled(0.5), scaled(1), window) == pytest.approx(-50)
    assert bd_rate(scaled(1), scaled(0.5), window) == pytest.approx(100)
    assert bd_rate(scaled(1), scaled(1), window) == pytest.approx(0, abs=1e-9)


def test_lines_over_the_logarithm_of_the_rate() -> None:
    # value = 30 + 5 ln(rate) against 30 + 4 ln(rate): ln(rate) = (v - 30) / 5 and (v - 30) / 4, so
    # the difference is (v - 30) (1/5 - 1/4); its mean is where the middle of the values lies.
    rates = [0.02 * 1.3**k for k in range(20)]
    test, anchor = (
        Curve(tuple(rates), tuple(30 + slope * math.log(r) for r in rates)) for slope in (5, 4)
    )
    low, high = 30 + 4 * math.log(0.05), 30 + 5 * math.log(0.5)
    mean = ((low + high) / 2 - 30) * (1 / 5 - 1 / 4)
    percent = bd_rate(test, anchor, (0.05, 0.5))
    assert percent == pytest.approx(100 * (math.exp(mean) - 1), rel=2e-3)


def test_agrees_with_another_implementation() -> None:
    bjontegaard = pytest.importorskip("bjontegaard")
    for test, anchor in ((scaled(1), OTHER), (OTHER, scaled(1.2))):
        expected = bjontegaard.bd_rate(
            anchor.rates,
            anchor.values,
            test.rates,
            test.values,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
        assert bd_rate(test, anchor) == pytest.approx(expected, rel=1e-6)


def test_only_the_window_counts() -> None:
    # Above 0.5 bpp everything differs, which must not matter below.
    bent = Curve((*RATES[:-1], 3.0), VALUES)
    percent = bd_rate(bent, scaled(1), (0.0, 0.3))
    assert percent == pytest.approx(0, abs=0.5)
    whole = bd_rate(bent, scaled(1))
    assert whole is not None and whole > 10


@pytest.mark.parametrize(
    ("test", "window"),
    [
        (Curve((), ()), (0, math.inf)),
        (Curve((0.1,), (27.0,)), (0, math.inf)),
        (Curve((0.1, 0.2), (10.0, 12.0)), (0, math.inf)),  # no value in common
        (scaled(1), (1, 2)),  # everything is below the window
        (scaled(10), (0.05, 0.5)),  # everything is above it
    ],
)
def test_nothing_in_common(test: Curve, window: tuple[float, float]) -> None:
    assert bd_rate(test, scaled(1), window) is None
    assert bd_rate(scaled(1), test, window) is None


def test_points_that_cost_more_and_are_no_better_are_dropped() -> None:
    points = [(0.3, 30.0), (0.1, 27.0), (0.2, 26.5), (0.1, 26.0), (0.4, 30.0)]
    assert Curve.through(points) == Curve((0.1, 0.3), (27.0, 30.0))
