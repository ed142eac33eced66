"""What a phase of training reports: log records now and then, and figures for the model card."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vqcodec.training.loop import Loop

__all__ = ["Journal", "Log", "Meter", "Record", "quarter"]

Record = dict[str, Any]
Log = Callable[[Record], None]

LOG_STEPS = 50  # steps between records, and of their means
LOG_SECONDS = 15.0  # between records, if so many steps take longer


def quarter(quality: Tensor) -> Tensor:
    """The part of the scale, 0..3, in which logs count each quality (B,)."""
    return (quality / 25).long().clamp(max=3)


class Meter:
    """Means of what was measured in the last steps, per key and slot."""

    def __init__(self, steps: int) -> None:
        """`steps`: how many the means are over, at most."""
        self._steps: deque[dict[str, Tensor]] = deque([{}], steps)

    def add(self, key: str, slots: Tensor, values: Tensor, size: int) -> None:
        """Add values (n,) of this step to the means of their slots (n,) in 0..size - 1."""
        both = self._steps[-1].setdefault(key, torch.zeros(2, size))  # sums, counts
        both.index_add_(1, slots, torch.stack([values, torch.ones(len(values))]))

    def step_done(self) -> None:
        self._steps.append({})

    def means(self, digits: int = 3) -> Record:
        """A list of `size` means for each key; 0 for a slot without values."""
        totals: dict[str, Tensor] = {}
        for step in self._steps:
            for key, both in step.items():
                totals[key] = totals[key] + both if key in totals else both
        means = {key: sums / counts.clamp(min=1) for key, (sums, counts) in totals.items()}
        return {key: [round(v, digits) for v in mean.tolist()] for key, mean in means.items()}


class Journal:
    """Log records of one phase: every `LOG_STEPS` steps or `LOG_SECONDS`, and at its end.

    All means are over the last `LOG_STEPS` steps, whenever records are made: runs of equal steps
    end with equal figures.
    """

    def __init__(
        self,
        loop: Loop,
        batch: int,
        log: Log,
        spent: float = 0.0,
        statistics: Callable[[], Record] = dict,
    ) -> None:
        """
        Args:
            batch: crops of a step.
            spent: seconds of the run before this phase.
            statistics: what else a record says.
        """
        self.loop, self.batch, self.log = loop, batch, log
        self.spent, self.statistics = spent, statistics
        self.meter = Meter(LOG_STEPS + 1)  # one of them is the step that goes on
        self._steps, self._start = 0, time.monotonic()  # since the last record

    def add(self, key: str, slots: Tensor, values: Tensor, size: int) -> None:
        """Take down values (n,) of this step for slots (n,) in 0..size - 1."""
        self.meter.add(key, slots, values, size)

    def step_done(self) -> None:
        """To be called at the end of each step."""
        self.meter.step_done()
        self._steps += 1
        if self._steps >= LOG_STEPS or time.monotonic() - self._start >= LOG_SECONDS:
            self._write(self.loop.step + 1)  # the loop has not counted the step yet

    def close(self) -> Record:
        """Log what no record has; the figures of the phase's end, which name no times."""
        if self._steps:
            self._write(self.loop.step)
        return {"steps": self.loop.step, **self.meter.means(), **self.statistics()}

    def _write(self, step: int) -> None:
        now = time.monotonic()
        seconds = max(now - self._start, 1e-3)
        record = {
            "phase": self.loop.name,
            "step": step,
            "progress": round(min(self.loop.progress, 1.0), 4),
            "minutes": round((self.spent + self.loop.elapsed) / 60, 2),
            "crops_per_second": round(self._steps * self.batch / seconds, 1),
            **self.meter.means(),
            **self.statistics(),
        }
        self._steps, self._start = 0, now
        self.log(record)
