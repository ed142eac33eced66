"""Rate-distortion curves, and the mean difference of rate between two of them (BD-rate).

Source: Bjontegaard (2001), VCEG-M33; piecewise cubic Hermite interpolation (PCHIP) instead of one
polynomial, as usual since: Fritsch and Carlson (1980). SciPy, from the extra `eval`, does PCHIP.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["EVERYWHERE", "Curve", "bd_rate"]

EVERYWHERE = (0.0, math.inf)  # the window that leaves nothing out


@dataclass(frozen=True)
class Curve:
    """Points of a codec, cheapest first.

    Attributes:
        rates: bits per pixel, > 0, strictly increasing.
        values: of a metric of which more is better, strictly increasing.
    """

    rates: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> "Curve":
        """The curve of (rate, value) points, without those that cost more and are no better."""
        kept: list[tuple[float, float]] = []
        for rate, value in sorted(points, key=lambda point: (point[0], -point[1])):
            if not kept or value > kept[-1][1]:
                kept.append((rate, value))
        return cls(tuple(rate for rate, _ in kept), tuple(value for _, value in kept))


def bd_rate(test: Curve, anchor: Curve, window: tuple[float, float] = EVERYWHERE) -> float | None:
    """How much more rate `test` needs than `anchor` for the same value, on average, in percent.

    The average is of the logarithm of the rate, over the values that both curves reach at rates
    within the window.

    Args:
        window: lowest and highest rate to regard, bits per pixel.
    Returns:
        Negative where `test` needs less; None if the curves have no such values in common.
    Raises:
        ImportError: SciPy is not installed.
    """
    from scipy.interpolate import PchipInterpolator

    spans = [_span(PchipInterpolator, curve, window) for curve in (test, anchor)]
    low = max(span[0] for span in spans)
    high = min(span[1] for span in spans)
    if not low < high:
        return None
    areas = [
        PchipInterpolator(curve.values, [math.log(rate) for rate in curve.rates]).integrate(
            low, high
        )
        for curve in (test, anchor)
    ]
    return 100 * math.expm1(float(areas[0] - areas[1]) / (high - low))


def _span(pchip: Any, curve: Curve, window: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest value that a curve reaches within the window; empty: (inf, -inf)."""
    if len(curve.rates) < 2:
        return math.inf, -math.inf
    low, high = max(window[0], curve.rates[0]), min(window[1], curve.rates[-1])
    if not low < high:
        return math.inf, -math.inf
    value_at = pchip(curve.rates, curve.values)
    return float(value_at(low)), float(value_at(high))
