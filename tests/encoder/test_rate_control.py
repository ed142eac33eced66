"""The search for a quality, on curves that stand for a codec."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.encoder.rate_control import MAX_TRIALS, Goal, Trial, goal_of, reach
from vqcodec.errors import TargetError
from vqcodec.options import EncodeOptions

Curve = Callable[[float], float]


def smooth(quality: float) -> float:
    """Bytes of a photograph: 1400 at quality 0, 26000 at 100, flatter towards the end."""
    return 1400 * math.exp(4.1 * quality / 100 - 1.18 * (quality / 100) ** 2)


def stepped(share: float) -> Curve:
    """As if every other quality that the file signals made files larger by a share."""
    return lambda quality: smooth(quality) * (1 + share * (round(quality) % 2))


class Codec:
    """Files whose size follows a curve; remembers the qualities that were tried."""

    def __init__(self, curve: Curve) -> None:
        self.curve, self.tried = curve, list[float]()

    def encode(self, quality: float) -> bytes:
        assert 0 <= quality <= 100 and quality not in self.tried
        self.tried.append(quality)
        return bytes(4 * round(self.curve(quality) / 4))  # as whole words, like a payload

    def reach(self, measure: Callable[[bytes], float] = len, **target: float) -> Trial:
        goal = goal_of(EncodeOptions(**target))  # type: ignore[arg-type]
        assert goal
        trial = reach(goal, self.encode, measure)
        assert trial.value == measure(trial.data)
        assert len(trial.data) == 4 * round(self.curve(trial.quality) / 4)
        assert len(self.tried) <= MAX_TRIALS
        return trial


@settings(deadline=None)
@given(size=st.integers(1500, 25000), share=st.sampled_from([0, 0.005, -0.005]))
def test_a_size_is_never_exceeded_and_nearly_used(size: int, share: float) -> None:
    codec = Codec(stepped(share))
    assert 0.98 * size <= len(codec.reach(size=size).data) <= size
    assert len(codec.tried) <= 8


@settings(deadline=None)
@given(bpp=st.floats(0.13, 2.0), share=st.sampled_from([0, 0.02, -0.02]))
def test_bpp_is_hit_from_either_side(bpp: float, share: float) -> None:
    trial = Codec(stepped(share)).reach(lambda data: 8 * len(data) / 100_000, bpp=bpp)
    assert trial.value == pytest.approx(bpp, rel=0.0201)


@settings(deadline=None)
@given(psnr=st.floats(22.0, 34.5), share=st.sampled_from([0, 0.005, -0.005]))
def test_psnr_is_reached_and_hardly_more(psnr: float, share: float) -> None:
    def measure(data: bytes) -> float:
        return 10 * math.log10(len(data) / 9)

    assert psnr <= Codec(stepped(share)).reach(measure, psnr=psnr).value <= psnr + 0.05


def test_qualities_are_found_that_fit_on_the_command_line() -> None:
    codec = Codec(smooth)
    codec.reach(size=5000)
    assert codec.tried == [float(f"{quality:g}") for quality in codec.tried]


def test_a_target_inside_a_step_gets_what_is_best_beside_it() -> None:
    def cliff(quality: float) -> float:
        return smooth(quality) * (1 + 0.2 * (quality >= 40.5))

    below, above = smooth(40.5), 1.2 * smooth(40.5)
    middle = round((below + above) / 2)
    got = Codec(cliff).reach(size=middle)
    assert 0.98 * below <= got.value <= below + 4
    got = Codec(cliff).reach(psnr=middle)
    assert above - 4 <= got.value <= 1.02 * above
    got = Codec(cliff).reach(bpp=0.3 * below + 0.7 * above)
    assert above - 4 <= got.value <= 1.02 * above


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"size": 900}, "900 bytes cannot be reached: quality 0 takes 1400 bytes"),
        ({"bpp": 0.1}, "0.1 bpp cannot be reached: quality 0 takes 0.112 bpp"),
        ({"bpp": 3}, "3 bpp cannot be reached: quality 100 gives 2.0765 bpp"),
        ({"psnr": 99.5}, "99.5 dB cannot be reached: quality 100 gives 25.956 dB"),
    ],
)
def test_the_error_says_what_can_be_reached(target: dict[str, float], message: str) -> None:
    units = {"size": 1, "bpp": 8 / 1e5, "psnr": 1e-3}
    codec, unit = Codec(smooth), units[next(iter(target))]
    with pytest.raises(TargetError) as caught:
        codec.reach(lambda data: len(data) * unit, **target)
    assert str(caught.value) == message
    assert len(codec.tried) == 2


def test_more_than_enough_is_enough() -> None:
    assert Codec(smooth).reach(size=10**9).quality == 100
    assert Codec(smooth).reach(lambda data: len(data) / 1e3, psnr=0.5).quality == 0


def test_a_measure_may_be_0() -> None:
    with pytest.raises(TargetError, match="^30 dB cannot be reached"):
        Codec(smooth).reach(lambda data: 0.0, psnr=30)


def test_the_edges_of_the_scale_count_as_hits() -> None:
    smallest, largest = len(Codec(smooth).encode(0)), len(Codec(smooth).encode(100))
    assert Codec(smooth).reach(size=smallest).value == smallest
    assert Codec(smooth).reach(size=largest).value >= 0.98 * largest
    assert Codec(smooth).reach(bpp=smallest / 1.019).quality == 0
    assert Codec(smooth).reach(bpp=largest * 1.019).quality == 100
    assert Codec(smooth).reach(psnr=largest).quality == 100


def test_a_lucky_first_trial_is_the_only_one() -> None:
    codec = Codec(smooth)
    codec.reach(bpp=smooth(50))
    assert codec.tried == [50]


def test_no_target_is_no_goal() -> None:
    assert goal_of(EncodeOptions(quality=30)) is None
    assert goal_of(EncodeOptions(size=1000)) == Goal(1000, "bytes", 980.0, 1000, lower=True)
