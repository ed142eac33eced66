"""Rate control: the quality at which a file comes to the bytes, the bpp or the PSNR asked for.

A search over a function quality -> file; it knows neither models nor pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vqcodec.errors import TargetError
from vqcodec.options import EncodeOptions

__all__ = ["Goal", "Trial", "goal_of", "reach"]

TOLERANCE = 0.02  # share of the bytes
PSNR_MARGIN = 0.05  # dB
MAX_TRIALS = 12
DIGITS = 2  # of the qualities tried, so that the one found can be given again
STEP = 0.1  # of quality: below this interval, a miss means that the curve has a jump


@dataclass(frozen=True)
class Goal:
    """What a positive number that grows with quality, such as bytes or PSNR, should come to.

    Attributes:
        asked, unit: what the user asked for: a part of every message.
        low, high: values that hit the goal.
        lower, higher: a value below `low`, or above `high`, will do where none hits.
    """

    asked: float
    unit: str
    low: float
    high: float
    lower: bool = False
    higher: bool = False

    def hit(self, value: float) -> bool:
        return self.low <= value <= self.high

    def will_do(self, value: float) -> bool:
        return (self.lower or value >= self.low) and (self.higher or value <= self.high)

    def miss(self, value: float) -> float:
        """How far a value is off, as a ratio: 0 hits."""
        return max(math.log(self.low / value), math.log(value / self.high), 0.0)


@dataclass(frozen=True)
class Trial:
    """A file that was made on the way, and what it came to in the unit of the goal."""

    quality: float
    data: bytes
    value: float


def goal_of(options: EncodeOptions) -> Goal | None:
    """The goal of a search for the quality; None where the options set no target."""
    if (bpp := options.bpp) is not None:
        return Goal(bpp, "bpp", (1 - TOLERANCE) * bpp, (1 + TOLERANCE) * bpp)
    if (size := options.size) is not None:  # smaller will do at quality 100
        return Goal(size, "bytes", (1 - TOLERANCE) * size, size, lower=True)
    if (psnr := options.psnr) is not None:  # more will do at quality 0
        return Goal(psnr, "dB", psnr, psnr + PSNR_MARGIN, higher=True)
    return None


def reach(goal: Goal, encode: Callable[[float], bytes], measure: Callable[[bytes], float]) -> Trial:
    """The first file tried that hits the goal, else the best that will do, else the nearest.

    Bytes and PSNR grow smoothly with quality but for small steps, where the integer
    quality in the file changes; the goal may lie in such a step, and then nothing hits it.

    Args:
        encode: the file of a quality 0..100, made at most `MAX_TRIALS` times.
        measure: what a file comes to, in the unit of the goal.
    Raises:
        TargetError: not even quality 0 is small enough, or quality 100 fine enough.
    Source: regula falsi with the Illinois step, Dowell and Jarratt (1971), on logarithms.
    """
    trials: list[Trial] = []
    aim = math.sqrt(goal.low * goal.high)

    def error_at(quality: float) -> float:
        """Logarithm of value / aim, or 0 for a hit."""
        data = encode(quality)
        value = max(measure(data), 1e-9)  # PSNR may be 0
        trials.append(Trial(quality, data, value))
        return 0.0 if goal.hit(value) else math.log(value / aim)

    middle = error_at(50.0)
    if middle != 0:  # it tells which end is worth the time
        end = 0.0 if middle > 0 else 100.0
        outer = error_at(end)
        if middle * outer < 0:
            _close_in(error_at, *sorted([(50.0, middle), (end, outer)]))
        elif outer != 0 and not goal.will_do(trials[-1].value):
            raise TargetError(_unreachable(goal, trials[-1]))
    enough = [trial for trial in trials if goal.will_do(trial.value)]
    return min(enough or trials, key=lambda trial: goal.miss(trial.value))


def _close_in(
    error_at: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]
) -> None:
    """Try qualities between two, given with their errors of unlike sign, until one has error 0."""
    side = 0
    for _ in range(MAX_TRIALS - 2):
        (left, below), (right, above) = low, high
        if right - left < STEP:
            return
        quality = round(left + (right - left) * below / (below - above), DIGITS)
        if not left < quality < right:
            quality = round((left + right) / 2, DIGITS)
        error = error_at(quality)
        if error == 0:
            return
        # An end that stays for a second time counts half, else it would stay for ever on a curve.
        if error < 0:
            low, high = (quality, error), (right, above / 2 if side < 0 else above)
        else:
            low, high = (left, below / 2 if side > 0 else below), (quality, error)
        side = -1 if error < 0 else 1


def _unreachable(goal: Goal, trial: Trial) -> str:
    value = trial.value if isinstance(trial.value, int) else f"{trial.value:.5g}"
    verb = "takes" if trial.quality == 0 else "gives"
    return (
        f"{goal.asked} {goal.unit} cannot be reached: "
        f"quality {trial.quality:g} {verb} {value} {goal.unit}"
    )
