"""Training: start-up, then one plain loop per phase, resumable; the weights file at the end.

A run is sized in minutes and ends when it was told to, annealed. A checkpoint holds everything
that the rest of the run depends on: weights, optimizer, moving average, clocks, and the states of
the random generators.
"""

import json
import time
from dataclasses import replace
from typing import Any

import torch

from vqcodec import models
from vqcodec.errors import ModelError, memory_errors
from vqcodec.prior.freeze import freeze, unfrozen
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import probe
from vqcodec.training import startup
from vqcodec.training.encoder_start import encoder_phase
from vqcodec.training.journal import Log, Record
from vqcodec.training.loop import deferred_interrupts
from vqcodec.training.phases import autoencoder_phase, prior_phase
from vqcodec.training.run import Run, TrainOptions, checkpoint_of, finish

__all__ = ["TrainOptions", "run"]


@memory_errors()
def run(options: TrainOptions, log: Log) -> None:
    """Train a model and write its weights file.

    Args:
        log: called with each log record (`phase`, `step`, `minutes`, `progress`, `psnr`, ...). In
            start-up these are `phase` and `progress`, or `note`; the last one of a run that is
            interrupted has `stopped`, the number of the step.
    Raises:
        KeyboardInterrupt: after Ctrl-C, which ends the step and writes a checkpoint first; pressed
            again, or before the first step, it stops at once.
        ImageError: no usable picture in the data folder.
        ModelError: `init` or the checkpoint is missing or unusable, or the preset is unknown or
            not that of `init`, or a finished run is resumed without more to do.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    options = _settled(options)
    if options.device == "cpu":
        _run(options, log)
        return
    # Variances are small differences of convolutions, which 10 bits of mantissa do not tell.
    torch.backends.cudnn.allow_tf32 = False
    with torch.device(options.device):  # of every tensor that training makes
        _run(options, log)


def _settled(options: TrainOptions) -> TrainOptions:
    """The options with device and batch decided.

    Raises:
        ModelError: no such device here.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ModelError(
            f"device {device!r} is not here; there are auto, cpu and, with a GPU, cuda"
        )
    return replace(options, device=device, batch=options.batch or (64 if device == "cuda" else 8))


def _run(options: TrainOptions, log: Log) -> None:
    start = time.monotonic()
    torch.manual_seed(options.seed)
    log_path = options.output.with_name(options.output.name + ".jsonl")
    checkpoint = checkpoint_of(options.output)
    source = models.Model(options.init) if options.init else None
    saved = checkpoint.load() if options.resume else None
    config = startup.configuration(options, source, saved)
    if saved is not None:
        startup.check_budget(options, saved)
    else:  # an earlier run's would be resumed, if this one is stopped early
        checkpoint.path.unlink(missing_ok=True)
    begun = True  # until the log is open, there is none of this run
    try:
        with log_path.open("a" if options.resume else "w", encoding="utf-8") as file:
            begun = options.resume

            def write(record: Record) -> None:
                file.write(json.dumps(record) + "\n")
                file.flush()
                log(record)

            state = Run(options, config, startup.load_crops(options, write), write)
            startup.begin(state, source, saved)
            state.spent.seconds += time.monotonic() - start
            if options.steps is None and state.spent.seconds >= 60 * options.minutes:
                write({"phase": "start-up", "note": "no time is left to train in"})
            begun = True
            with deferred_interrupts() as state.interrupted:
                for phase in (autoencoder_phase, prior_phase, encoder_phase):
                    phase(state, checkpoint, saved)
            _save(state)
            finish(state, checkpoint)
    finally:
        if not begun:  # what was stopped before its first step leaves nothing
            log_path.unlink(missing_ok=True)


def _save(state: Run) -> None:
    tensors: dict[str, Any] = {}
    for name, value in state.autoencoder.state_dict().items():
        tensors[f"autoencoder.{name}"] = value.contiguous().cpu().numpy()
    for name, value in state.quantizer.state_dict().items():
        tensors[f"quantizer.{name}"] = value.contiguous().cpu().numpy()
    for name, value in unfrozen(state.prior).items():
        tensors[f"training.prior.{name}"] = value.contiguous().cpu().numpy()
    try:
        tensors |= freeze(state.prior)
    except ValueError as error:  # so large, or not a number: training diverged
        raise ModelError(f"the prior cannot be frozen: {error}") from error
    name = state.options.output.stem
    options = state.options
    source = "procedural drawings" if options.data is None else f"{options.data.name}/"
    budget = f"{options.minutes:g} minutes" if options.steps is None else f"{options.steps} steps"
    training = {
        "note": f"{state.config.name}, trained on {source}, {budget}"
        + (", for MS-SSIM" if state.config.tune == "ssim" else ""),
        "results": state.results,
    }
    config = replace(state.config, name=name)
    found = probe(IntegerPrior(config, tensors))
    models.save(state.options.output, config, tensors, training, found)
