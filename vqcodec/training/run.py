"""A training run: what it was asked for, its state, and its checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from torch import Tensor, nn

from vqcodec.config import ModelConfig, Tuning
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.quantizer import Quantizer
from vqcodec.prior.network import Prior
from vqcodec.training.checkpoint import Checkpoint, Saved
from vqcodec.training.codebook_learning import CodebookLearner
from vqcodec.training.data import CropSource
from vqcodec.training.loop import Loop, Record

__all__ = ["Keeper", "Report", "Run", "TrainOptions", "checkpoint_of"]

Report = Callable[[Record], None]

CHECKPOINT_MINUTES = 2.0


@dataclass(frozen=True)
class TrainOptions:
    """What `vqcodec train` is asked for.

    Args:
        data: folder of pictures; None draws its own.
        preset: name of a configuration (`config.PRESETS`); ignored with `init` and `resume`.
        tune: None leaves what the configuration says; ignored with `resume`.
        output: weights file to write; beside it `.jsonl` (log) and `.checkpoint`.
        minutes: of training, start-up not counted.
        prior_share: part of the minutes that goes to the prior, 0..1.
        resume: go on from the checkpoint beside `output`; `resumed` gives the options to it.
        init: weights file to start from.
        steps: train for so many steps instead of minutes (exactly repeatable; for tests).
        threads: of torch; 0 leaves the default.
        device: `cpu`, `cuda`, or `auto` for the first GPU that there is.
        batch: crops per step; 0 takes 8 on a CPU and 64 on a GPU.
    """

    output: Path
    data: Path | None = None
    preset: str = "photo"
    tune: Tuning | None = None
    minutes: float = 30.0
    prior_share: float = 0.4
    resume: bool = False
    init: Path | None = None
    seed: int = 0
    threads: int = 0
    steps: int | None = None
    config: ModelConfig | None = None
    device: str = "auto"
    batch: int = 0
    crop: int = 192

    @classmethod
    def resumed(cls, output: Path, **changes: Any) -> "TrainOptions":
        """What a run that was stopped had been asked for, but for `changes`.

        Raises:
            ModelError: there is no checkpoint beside `output`, or it is damaged.
        """
        kept = checkpoint_of(output).load().meta["options"]
        if kept["data"]:
            kept["data"] = Path(kept["data"])
        return cls(output, resume=True, **(kept | changes))

    def kept(self) -> dict[str, Any]:
        """What a checkpoint tells `resumed`."""
        names = ("minutes", "prior_share", "seed", "batch")
        data = str(self.data.resolve()) if self.data else None
        return {"data": data, **{name: getattr(self, name) for name in names}}


def checkpoint_of(output: Path) -> Checkpoint:
    return Checkpoint(output.with_name(output.name + ".checkpoint"))


@dataclass
class Run:
    """A run's state: all that a checkpoint must hold."""

    options: TrainOptions
    config: ModelConfig
    crops: CropSource
    report: Report
    pretrained: bool = False  # goes on from an earlier model
    autoencoder: Autoencoder = field(init=False)
    quantizer: Quantizer = field(init=False)
    learner: CodebookLearner = field(init=False)  # of the quantizer
    prior: Prior = field(init=False)
    results: Record = field(default_factory=dict)  # last figures of each phase, for the card
    interrupted: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.autoencoder = Autoencoder(self.config)
        self.quantizer = Quantizer(self.config)
        self.learner = CodebookLearner(self.quantizer)
        self.prior = Prior(self.config)

    def modules(self) -> dict[str, nn.Module]:
        return {
            "autoencoder": self.autoencoder,
            "learner": self.learner,
            "prior": self.prior,
        }


@dataclass
class Keeper:
    """Checkpoints of one phase: goes on from one, and writes them as they are due.

    Args:
        extra: tensors that the phase depends on besides models and optimizer.
    """

    state: Run
    file: Checkpoint
    loop: Loop
    extra: dict[str, Tensor]
    saved_at: float = 0.0

    def enter(self, saved: Saved | None) -> bool:
        """Restore the loop from a checkpoint of its phase; False if that was already over."""
        if saved is None:
            return True
        order, loop = ("autoencoder", "prior"), self.loop
        if order.index(saved.meta["phase"]) > order.index(loop.name):
            return False
        if saved.meta["phase"] == loop.name:
            loop.step, loop.elapsed = saved.meta["step"], saved.meta["elapsed"]
            saved.restore_loop(loop.optimizer, loop.averaged, self.extra)
            self.saved_at = loop.elapsed
        return True

    def step_done(self) -> None:
        """To be called at the end of each step, when everything belongs together.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step is in the checkpoint.
        """
        if self.state.interrupted.is_set():
            self._write()
            step = self.loop.step + 1
            note = f"stopped after step {step}; --resume goes on"
            self.state.report({"phase": self.loop.name, "note": note})
            raise KeyboardInterrupt
        if self.loop.elapsed - self.saved_at > 60 * CHECKPOINT_MINUTES:
            self._write()

    def _write(self) -> None:
        state, loop = self.state, self.loop
        self.saved_at = loop.elapsed
        meta = {
            "config": state.config.to_json(),
            "options": state.options.kept(),
            "phase": loop.name,
            "step": loop.step + 1,  # the loop has not counted the step yet
            "elapsed": loop.elapsed,
            "results": state.results,
            "pretrained": state.pretrained,
        }
        modules, rng = state.modules(), state.crops.rng
        self.file.save(meta, modules, loop.optimizer, loop.averaged, rng, self.extra)
