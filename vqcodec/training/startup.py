"""What comes before the first step: configuration, pictures, and the weights to start from."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from vqcodec import models
from vqcodec.config import PRESETS, ModelConfig
from vqcodec.errors import ModelError
from vqcodec.prior.freeze import thaw, unfrozen
from vqcodec.training.checkpoint import Saved
from vqcodec.training.data import CropSource, drawn_pictures, load_folder
from vqcodec.training.journal import Log
from vqcodec.training.objective import spread_quality
from vqcodec.training.run import FINISHED, Run, Spent, TrainOptions

__all__ = ["begin", "check_budget", "configuration", "load_crops"]

USUAL_PRESET = "photo"
PROGRESS_SECONDS = 1.0  # between records of progress


def configuration(
    options: TrainOptions, source: models.Model | None, saved: Saved | None
) -> ModelConfig:
    """The configuration to train: of a checkpoint, of weights to start from, or what is asked for.

    Raises:
        ModelError: no such preset, or weights of another configuration than the one asked for.
    """
    if saved is not None:
        return ModelConfig.from_json(saved.meta["config"])
    if options.preset is not None and options.preset not in PRESETS:
        raise ModelError(f"unknown preset {options.preset!r}; there are {', '.join(PRESETS)}")
    asked = options.config or (PRESETS[options.preset] if options.preset else None)
    config = source.config if source is not None else asked or PRESETS[USUAL_PRESET]
    if asked is not None and _shape(config) != _shape(asked):
        raise ModelError(
            f"{options.init}: these weights are not of the configuration {asked.name!r}; "
            "they bring their own, and none need be named"
        )
    return replace(config, tune=options.tune) if options.tune else config


def _shape(config: ModelConfig) -> ModelConfig:
    return replace(config, name="", tune="psnr")


def check_budget(options: TrainOptions, saved: Saved) -> None:
    """Refuse to continue a finished run that has nothing left to do.

    Raises:
        ModelError: it was given no more minutes, or steps, than it had.
    """
    if saved.meta["phase"] != FINISHED:
        return
    spent = Spent(**saved.meta["spent"])
    if options.steps is not None and options.steps <= spent.steps:
        budget = f"{spent.steps} steps"
    elif options.steps is None and 60 * options.minutes <= spent.seconds:
        budget = f"{spent.seconds / 60:.3g} minutes"
    else:
        return
    raise ModelError(f"{options.output}: finished after {budget}; a larger total continues it")


def load_crops(options: TrainOptions, log: Log) -> CropSource:
    """The pictures to train on, read or drawn.

    Raises:
        ImageError: no usable picture in the folder.
    """

    def note(text: str) -> None:
        log({"phase": "pictures", "note": text})

    progress = _progress(log, "pictures")
    side = options.crop * 4 // 3  # the crops of the prior are the larger ones
    pictures = []
    if options.data is not None:
        pictures = load_folder(options.data, side, options.seed, note, progress)
    else:
        for picture in drawn_pictures(options.drawings, side, options.seed):
            pictures.append(picture)
            progress(len(pictures) / options.drawings, len(pictures))
    note(f"{len(pictures)} pictures")
    return CropSource(pictures, options.seed, options.device)


def _progress(log: Log, phase: str) -> Callable[[float, int], None]:
    """Logs progress about once a second, and the end."""
    start = last = time.monotonic()

    def progress(share: float, pictures: int) -> None:
        nonlocal last
        now = time.monotonic()
        if share == 1 or now - last >= PROGRESS_SECONDS:
            last, minutes = now, round((now - start) / 60, 2)
            log({"phase": phase, "progress": share, "minutes": minutes, "pictures": pictures})

    return progress


def begin(state: Run, source: models.Model | None, saved: Saved | None) -> None:
    """Continue from a checkpoint or from weights, or start anew."""
    if saved is not None:
        saved.restore_modules(state.modules())
        saved.restore_generators(state.crops.rng)
        state.results, state.spent = saved.meta["results"], Spent(**saved.meta["spent"])
        state.pretrained = saved.meta["pretrained"]
        if saved.meta["phase"] == FINISHED:  # as from its weights, but in full precision
            state.learner.restart_averages(state.options.batch)
            state.pretrained = True
    elif source is not None:
        _start_from(state, source)
    else:
        _initialise(state)


def _initialise(state: Run) -> None:
    """KLT and k-means: without any training already a codec."""
    options, count = state.options, state.options.samples

    def progress(share: float) -> None:
        state.log({"phase": "start-up", "progress": share})

    progress(0)
    x = state.crops.batch(count, options.crop)
    state.autoencoder.initialise(x)
    with torch.no_grad():
        latent = state.autoencoder.transform(x)[:, : state.autoencoder.dim].contiguous()
    quality = spread_quality(count)[torch.randperm(count)]
    state.learner.initialise(latent, quality, progress)


def _start_from(state: Run, source: models.Model) -> None:
    """Weights of an earlier model, the moving averages of its codebooks rebuilt."""
    state.autoencoder.load_state_dict(source.autoencoder.state_dict())
    state.quantizer.load_state_dict(source.quantizer.state_dict())
    state.learner.restart_averages(state.options.batch)
    try:
        thaw(state.prior, source.tensors)
        floats = source.training_prior()
        if missing := unfrozen(state.prior).keys() - floats.keys():
            raise ValueError(f"{min(missing)} is missing")
        state.prior.load_state_dict(floats, strict=False)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{state.options.init}: no prior to start from: {error}") from error
    state.pretrained = True
