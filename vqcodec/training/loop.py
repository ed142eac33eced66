"""What the training phases share: optimizer, schedule, moving average, clock; Ctrl-C."""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Loop", "deferred_interrupts"]


class Loop:
    """Optimizer, schedule, moving average and clock of one phase.

    Iterating yields the step number, from where a checkpoint left off until the budget is spent.
    """

    def __init__(
        self,
        name: str,
        peaks: Mapping[nn.Module, float],
        minutes: float,
        steps: int | None,
        *,
        average: float,
    ) -> None:
        """`peaks`: the networks that learn, and the highest learning rate of each."""
        self.name, self.model = name, nn.ModuleList(peaks)
        self.minutes, self.steps = minutes, steps
        self.step, self.elapsed = 0, 0.0  # seconds, over all sessions
        groups = [{"params": list(m.parameters()), "peak": peak} for m, peak in peaks.items()]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0, fused=True)
        moving = get_ema_multi_avg_fn(average)
        self.averaged = AveragedModel(self.model, multi_avg_fn=moving)

    @property
    def progress(self) -> float:
        if self.steps is not None:
            return self.step / max(self.steps, 1) if self.steps else 1.0
        return self.elapsed / (60 * self.minutes) if self.minutes > 0 else 1.0

    def __iter__(self) -> Iterator[int]:
        self.model.train()
        last = time.monotonic()
        while self.progress < 1:
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.elapsed, last = self.elapsed + now - last, now
        if self.step:
            self.model.load_state_dict(self.averaged.module.state_dict())
        self.model.eval()

    def descend(self, loss: Tensor) -> None:
        """One optimizer step: warm-up over the first 2 %, then a cosine to 1 % of the peak."""
        progress = min(self.progress, 1.0)
        cosine = 0.505 + 0.495 * math.cos(math.pi * max(0.0, progress - 0.02) / 0.98)
        rate = max(progress / 0.02, 0.02) if progress < 0.02 else cosine
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["peak"]
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)


@contextmanager
def deferred_interrupts() -> Iterator[Event]:
    """Ctrl-C sets the event instead of stopping in the middle of a step; a second one stops.

    So does SIGTERM, where it interrupts at all instead of ending the process at once.
    """
    asked = Event()

    def ask(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Only the main thread may say what signals do; where Ctrl-C is ignored, it stays so.
    heard = [number for number, handler in before.items() if callable(handler)]
    if current_thread() is not main_thread():
        heard = []
    for number in heard:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number in heard:
            signal.signal(number, before[number])
