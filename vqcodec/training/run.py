"""A training run: what it was asked for, its state, and its checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
from vqcodec.training.journal import Journal, Log, Record
from vqcodec.training.loop import Loop

__all__ = ["Keeper", "Run", "TrainOptions", "checkpoint_of", "finish"]

CHECKPOINT_MINUTES = 2.0
FINISHED = "finished"  # phase of the checkpoint of a run that came to its end
# Options that a resumed run takes from its checkpoint; others are of the machine or of the start.
KEPT = [
    "data",
    "minutes",
    "prior_share",
    "encoder_share",
    "seed",
    "steps",
    "batch",
    "crop",
    "drawings",
    "samples",
]


@dataclass(frozen=True)
class TrainOptions:
    """What a training run is asked for.

    Args:
        output: weights file to write; beside it `.jsonl` (log) and `.checkpoint`.
        data: folder of pictures; None draws its own.
        preset: name of a configuration (`config.PRESETS`), without it `photo`; with `init` it must
            be the configuration of these weights. Ignored with `config` and `resume`.
        tune: None leaves what the configuration says; ignored with `resume`.
        minutes: of the whole run, over all its sessions, start-up included.
        prior_share: part of the minutes that goes to the prior, 0..1, of what the encoder leaves.
        encoder_share: part of the minutes that goes to the encoder's last phase, 0..1.
        resume: continue from the checkpoint beside `output`; `resumed` gives the options to it.
            A run that was finished needs more minutes or steps than it had.
        init: weights file to start from.
        seed: of all random numbers.
        threads: of torch; 0 leaves the default.
        steps: of the whole run, in place of minutes; with one thread exactly repeatable.
        config: configuration, in place of a preset.
        device: `cpu`, `cuda`, or `auto` for the first GPU that there is.
        batch: crops per step; 0 takes 8 on a CPU and 64 on a GPU.
        crop: side of the crops in pixels; the prior's are a third larger.
        drawings: how many pictures are drawn where there is no folder.
        samples: crops from which KLT and codebooks are initialised.
    """

    output: Path
    data: Path | None = None
    preset: str | None = None
    tune: Tuning | None = None
    minutes: float = 30.0
    prior_share: float = 0.4
    encoder_share: float = 0.15
    resume: bool = False
    init: Path | None = None
    seed: int = 0
    threads: int = 0
    steps: int | None = None
    config: ModelConfig | None = None
    device: str = "auto"
    batch: int = 0
    crop: int = 192
    drawings: int = 512
    samples: int = 400

    @classmethod
    def resumed(cls, output: Path, **changes: Any) -> "TrainOptions":
        """What a run that was stopped, or finished, had been asked for, but for `changes`.

        Raises:
            ModelError: there is no checkpoint beside `output`, or it is damaged.
        """
        kept = checkpoint_of(output).load().meta["options"]
        if kept["data"]:
            kept["data"] = Path(kept["data"])
        if "minutes" in changes:
            kept["steps"] = None
        return cls(output, resume=True, **(kept | changes))

    def kept(self) -> dict[str, Any]:
        """What a checkpoint tells `resumed`."""
        own = {name: getattr(self, name) for name in KEPT}
        return own | {"data": str(self.data.resolve()) if self.data else None}

    def shares(self) -> dict[str, float]:
        """The phases in their order, and the part of the time that each takes, 0..1."""
        others = 1 - self.encoder_share
        return {
            "autoencoder": others * (1 - self.prior_share),
            "prior": others * self.prior_share,
            "encoder": self.encoder_share,
        }


def checkpoint_of(output: Path) -> Checkpoint:
    return Checkpoint(output.with_name(output.name + ".checkpoint"))


@dataclass
class Spent:
    """What a run has used up before its present phase, over all its sessions."""

    seconds: float = 0.0  # start-up included
    steps: int = 0


@dataclass
class Run:
    """A run's state: all that a checkpoint must hold."""

    options: TrainOptions
    config: ModelConfig
    crops: CropSource
    log: Log
    pretrained: bool = False  # goes on from an earlier model
    autoencoder: Autoencoder = field(init=False)
    quantizer: Quantizer = field(init=False)
    learner: CodebookLearner = field(init=False)  # of the quantizer
    prior: Prior = field(init=False)
    spent: Spent = field(default_factory=Spent)
    results: Record = field(default_factory=dict)  # last figures of each phase, for the card
    interrupted: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.autoencoder = Autoencoder(self.config)
        self.quantizer = Quantizer(self.config)
        self.learner = CodebookLearner(self.quantizer)
        self.prior = Prior(self.config)

    def loop(self, phase: str, peaks: Mapping[nn.Module, float], average: float) -> Loop:
        """The loop of a phase, which takes its share of what the run has left.

        Args:
            peaks: as `Loop` takes them, for a batch of 8.
            average: decay of the moving average of weights.
        """
        shares = self.options.shares()
        order = list(shares)
        left = sum(shares[name] for name in order[order.index(phase) :])
        share = shares[phase] / left if left else 0.0
        minutes = max(0.0, self.options.minutes - self.spent.seconds / 60) * share
        steps = self.options.steps
        if steps is not None:
            steps = round((steps - self.spent.steps) * share)
        truer = max(1.0, self.options.batch / 8) ** 0.5  # gradients of larger batches
        peaks = {model: peak * truer for model, peak in peaks.items()}
        return Loop(phase, peaks, minutes, steps, average=average)

    def phase_done(self, loop: Loop, journal: Journal) -> None:
        """Count what a phase spent, and keep its last figures for the card."""
        self.spent.seconds += loop.elapsed
        self.spent.steps += loop.step
        if loop.step:
            self.results[loop.name] = journal.close()

    def modules(self) -> dict[str, nn.Module]:
        return {
            "autoencoder": self.autoencoder,
            "learner": self.learner,
            "prior": self.prior,
        }

    def meta(self) -> dict[str, Any]:
        """All of a checkpoint that is neither a tensor nor of one phase."""
        return {
            "config": self.config.to_json(),
            "options": self.options.kept(),
            "spent": asdict(self.spent),
            "results": self.results,
            "pretrained": self.pretrained,
        }


def finish(state: Run, file: Checkpoint) -> None:
    """Write the checkpoint of a run at its end, from which a longer one can continue."""
    file.save({**state.meta(), "phase": FINISHED}, state.modules(), state.crops.rng)


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
        if saved is None or saved.meta["phase"] == FINISHED:
            return True
        order, loop = list(self.state.options.shares()), self.loop
        if order.index(saved.meta["phase"]) > order.index(loop.name):
            return False
        if saved.meta["phase"] == loop.name:
            loop.step, loop.elapsed = saved.meta["step"], saved.meta["elapsed"]
            saved.restore_loop(loop, self.extra)
            self.saved_at = loop.elapsed
        return True

    def step_done(self) -> None:
        """To be called at the end of each step, when everything belongs together.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step is in the checkpoint.
        """
        if self.state.interrupted.is_set():
            self._write()
            self.state.log({"phase": self.loop.name, "stopped": self.loop.step + 1})
            raise KeyboardInterrupt
        if self.loop.elapsed - self.saved_at > 60 * CHECKPOINT_MINUTES:
            self._write()

    def _write(self) -> None:
        loop = self.loop
        self.saved_at = loop.elapsed
        meta = {
            **self.state.meta(),
            "phase": loop.name,
            "step": loop.step + 1,  # the loop has not counted the step yet
            "elapsed": loop.elapsed,
        }
        self.file.save(meta, self.state.modules(), self.state.crops.rng, loop, self.extra)
