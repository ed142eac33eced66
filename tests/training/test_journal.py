"""Log records and their means, by a clock that the tests set."""

import math
from typing import Any

import pytest
import torch

from vqcodec.training import journal
from vqcodec.training.journal import Journal, Meter
from vqcodec.training.loop import Loop


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(journal, "time", clock)
    return clock


def loop_at(step: int) -> Loop:
    loop = Loop("prior", {torch.nn.Linear(1, 1): 1e-3}, 0.0, 1000, average=0.9)
    loop.step = step
    return loop


def run(loop: Loop, journal: Journal, clock: Clock, seconds: list[float]) -> None:
    """A step for each of the seconds, measuring its own number."""
    for each in seconds:
        clock.now += each
        journal.add("number", torch.tensor([0]), torch.tensor([float(loop.step)]), 2)
        journal.step_done()
        loop.step += 1


def test_records_come_by_steps_and_by_time(clock: Clock) -> None:
    logged: list[dict[str, Any]] = []
    loop = loop_at(0)
    kept = Journal(loop, 8, logged.append, spent=120.0, statistics=lambda: {"more": 1})
    run(loop, kept, clock, [0.1] * 60)  # 50 are a record
    run(loop, kept, clock, [4.0] * 5)  # 1 s since, and 16 s
    run(loop, kept, clock, [100.0, 100.0, 1.0])
    assert [r["step"] for r in logged] == [50, 64, 66, 67]
    results = kept.close()
    assert [r["step"] for r in logged] == [50, 64, 66, 67, 68]
    assert all(r["phase"] == "prior" and r["more"] == 1 for r in logged)
    assert results["steps"] == 68 and results["more"] == 1
    assert not {"minutes", "crops_per_second", "progress"} & results.keys()
    assert {r["minutes"] for r in logged} == {2.0}
    assert kept.close() == results and len(logged) == 5  # nothing is left to say


def test_crops_per_second_are_those_of_this_session(clock: Clock) -> None:
    """A run that was resumed in the middle of 50 steps, hours later."""
    logged: list[dict[str, Any]] = []
    clock.now = 9999.0
    loop = loop_at(37)
    kept = Journal(loop, 8, logged.append)
    run(loop, kept, clock, [2.0] * 10)
    assert [(r["step"], r["crops_per_second"]) for r in logged] == [(45, 4.0)]
    kept.close()
    assert (logged[-1]["step"], logged[-1]["crops_per_second"]) == (47, 4.0)


def test_means_are_over_the_last_steps_whenever_they_are_read(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LOG_STEPS", 4)
    ends = []
    for seconds in (0.0, math.inf):
        monkeypatch.setattr(journal, "LOG_SECONDS", seconds)
        loop = loop_at(0)
        kept = Journal(loop, 8, lambda record: None)
        run(loop, kept, clock, [1.0] * 11)
        ends.append(kept.close())
    assert ends[0] == ends[1] == {"steps": 11, "number": [8.5, 0.0]}


def test_a_meter_keeps_slots_apart() -> None:
    meter = Meter(2)
    meter.add("a", torch.tensor([0, 2, 2]), torch.tensor([1.0, 2.0, 4.0]), 3)
    meter.add("a", torch.tensor([2]), torch.tensor([9.0]), 3)
    assert meter.means() == {"a": [1.0, 0.0, 5.0]}
    meter.step_done()
    meter.add("b", torch.tensor([0]), torch.tensor([1.0]), 1)
    assert meter.means() == {"a": [1.0, 0.0, 5.0], "b": [1.0]}
    meter.step_done()
    assert meter.means() == {"b": [1.0]}
