"""Training: one plain loop per phase, resumable. First autoencoder and codebooks, then the prior.

Both phases are sized in minutes, so a run ends on time, with a learning rate that has fallen to
zero. A checkpoint holds everything that the rest of the run depends on: weights, optimizer, moving
average, clocks, and the states of the random generators.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vqcodec import models
from vqcodec.config import PRESETS, ModelConfig, Tuning
from vqcodec.encoder.code_lengths import mixed, single_slice_levels
from vqcodec.encoder.perception import weights_for
from vqcodec.errors import ModelError, memory_errors
from vqcodec.limits import QUALITIES
from vqcodec.prior.freeze import freeze, thaw, unfrozen
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import probe
from vqcodec.training.checkpoint import Checkpoint, Saved
from vqcodec.training.codebook_learning import code_lengths, geometry, prefer_zero
from vqcodec.training.codebooks import Codebooks
from vqcodec.training.data import CropSource, drawn_pictures, load_folder
from vqcodec.training.loop import Loop, Meter, Record, deferred_interrupts
from vqcodec.training.objective import (
    REFINEMENT_STEPS,
    AutoencoderObjective,
    DecoderObjective,
    prior_loss,
    refine_as_coding,
    spread_quality,
)
from vqcodec.training.run import Keeper, Report, Run, TrainOptions, checkpoint_of

__all__ = ["TrainOptions", "run"]

LOG_STEPS = 50
# Share of a first run after which latents are refined; before, networks change too much for it.
REFINING_FROM = 0.5
# Steps of the prior with the same crops, each for other levels: choosing codes takes longer.
TURNS = 4
FIRST_BEAM, CODING_BEAM = 4, 16  # paths when the prior is trained; `compress` has 12 and 48
CONTINUED = 0.4  # share of the learning rate for weights trained before: experiments 23, 26
# Learning rates of the decoder network on what coding chooses: experiment 48.
DECODER_PEAKS: dict[Tuning, float] = {"psnr": 6e-5, "ssim": 1.5e-4}
CODEBOOK_PEAK = 5e-4  # of codebooks, in units of their size: experiment 50


@memory_errors()
def run(options: TrainOptions, report: Report) -> None:
    """Train a model and write its weights file.

    Args:
        report: called with each log record (`phase`, `step`, `minutes`, `progress`, `psnr`, ...);
            with `phase` and `progress` alone during start-up.
    Raises:
        KeyboardInterrupt: after Ctrl-C, which ends the step and writes a checkpoint first; pressed
            again, or before the first step, it stops at once.
        ImageError: no usable picture in the data folder.
        ModelError: `init` or the checkpoint is missing or unusable, or the preset unknown.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    options = _settled(options)
    if options.device == "cpu":
        _run(options, report)
        return
    # Variances are small differences of convolutions, which 10 bits of mantissa do not tell.
    torch.backends.cudnn.allow_tf32 = False
    with torch.device(options.device):  # of every tensor that training makes
        _run(options, report)


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


def _run(options: TrainOptions, report: Report) -> None:
    torch.manual_seed(options.seed)
    log_path = options.output.with_name(options.output.name + ".jsonl")
    checkpoint = checkpoint_of(options.output)
    source = models.Model(options.init) if options.init else None
    saved = checkpoint.load() if options.resume else None
    config = _config(options, source, saved)
    if saved is None:  # else an earlier run's would be resumed, if this one is stopped early
        checkpoint.path.unlink(missing_ok=True)
    begun = True  # until the log is open, there is none of this run
    try:
        with log_path.open("a" if options.resume else "w", encoding="utf-8") as log:
            begun = options.resume

            def note(record: Record) -> None:
                log.write(json.dumps(record) + "\n")
                log.flush()
                report(record)

            state = Run(options, config, _crops(options, note), note)
            _begin(state, source, saved)
            begun = True
            with deferred_interrupts() as state.interrupted:
                for phase in (_autoencoder_phase, _prior_phase):
                    phase(state, checkpoint, saved)
            _save(state)
    finally:
        if not begun:  # what was stopped before its first step leaves nothing
            log_path.unlink(missing_ok=True)
    checkpoint.path.unlink(missing_ok=True)


def _config(options: TrainOptions, source: models.Model | None, saved: Saved | None) -> ModelConfig:
    if saved is not None:
        return ModelConfig.from_json(saved.meta["config"])
    config: ModelConfig
    if source is not None:
        config = source.config
    elif options.config is not None:
        config = options.config
    elif options.preset in PRESETS:
        config = PRESETS[options.preset]
    else:
        raise ModelError(f"unknown preset {options.preset!r}; there are {', '.join(PRESETS)}")
    return replace(config, tune=options.tune) if options.tune else config


def _crops(options: TrainOptions, note: Report) -> CropSource:
    def warn(text: str) -> None:
        note({"phase": "data", "note": text})

    side = options.crop * 4 // 3  # the crops of the prior are the larger ones
    if options.data is None:
        pictures = drawn_pictures(64 if options.steps else 512, side, options.seed)
    else:
        pictures = load_folder(options.data, side, warn)
    warn(f"{len(pictures)} pictures")
    return CropSource(pictures, options.seed, options.device)


def _begin(state: Run, source: models.Model | None, saved: Saved | None) -> None:
    """Go on from a checkpoint or from weights, or start anew."""
    if saved is not None:
        saved.restore_modules(state.modules())
        saved.restore_generators(state.crops.rng)
        state.results = saved.meta["results"]
        state.pretrained = saved.meta.get("pretrained", state.options.init is not None)
    elif source is not None:
        _start_from(state, source)
    else:
        _initialise(state)


def _initialise(state: Run) -> None:
    """KLT and k-means: without any training already a codec."""
    options, count = state.options, 40 if state.options.steps else 400

    def progress(share: float) -> None:
        state.report({"phase": "start-up", "progress": share})

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
        raise ModelError(f"{state.options.init}: no prior to go on from: {error}") from error
    state.pretrained = True


def _autoencoder_phase(state: Run, checkpoint: Checkpoint, saved: Saved | None) -> None:
    """Codebooks and networks; logs are in four parts of the quality scale, low to high."""
    options, learner = state.options, state.learner
    objective = AutoencoderObjective()
    state.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    peak = 5e-4 * (CONTINUED if state.pretrained else 1)
    loop = _loop("autoencoder", {state.autoencoder: peak}, options, average=0.999)
    keeper = Keeper(state, checkpoint, loop, {"bits_per_proxy": objective.bits_per_proxy})
    if not keeper.enter(saved):
        return
    meter = Meter()
    for step in loop:
        x = state.crops.batch(options.batch, options.crop)
        quality = spread_quality(options.batch)
        refining = state.pretrained or loop.progress >= REFINING_FROM
        steps = REFINEMENT_STEPS if refining else 0
        loss, parts = objective(state.autoencoder, learner, x, quality, steps)
        loop.descend(loss)
        quarter = _quarter(quality)
        parts["psnr"] = _psnr(parts["mse"])
        parts["latent_ratio"] = parts.pop("commit") / parts.pop("mse").clamp(min=1e-8)
        for name, values in parts.items():
            meter.add(name, quarter, values, 4)
        if (step + 1) % LOG_STEPS == 0:
            record = _record(loop, meter, options.batch)
            record |= {"loss": round(loss.item(), 4), **learner.statistics()}
            state.results[loop.name] = record
            state.report(record)
        keeper.step_done()
    prefer_zero(state.quantizer)


def _prior_phase(state: Run, checkpoint: Checkpoint, saved: Saved | None) -> None:
    """The prior, on indices as coding chooses them; a few levels per turn.

    Of a model that was trained before, decoder network and codebooks learn from these, too.
    """
    options, config = state.options, state.config
    peaks: dict[nn.Module, float] = {state.prior: 1.5e-3 * (CONTINUED if state.pretrained else 1)}
    decoder, codebooks = DecoderObjective(), Codebooks(state.quantizer)
    if state.pretrained:
        state.autoencoder.embedding.requires_grad_(False)
        peaks[state.autoencoder.decoder_branch()] = DECODER_PEAKS[config.tune]
        peaks[codebooks] = CODEBOOK_PEAK
    loop = _loop("prior", peaks, options, average=0.998)
    begun = saved is not None and saved.meta["phase"] == "prior"
    if not (state.pretrained or begun):
        state.prior.initialise(code_lengths(state.quantizer), *geometry(state.quantizer))
    extra = {"usual": decoder.usual, "units": codebooks.units} if state.pretrained else {}
    keeper = Keeper(state, checkpoint, loop, extra)
    if not keeper.enter(saved):
        return
    codebooks.read(state.quantizer)  # in the units that a checkpoint has
    state.autoencoder.eval()
    crop, count = options.crop * 4 // 3, len(config.levels)
    crop -= crop % config.levels[0].stride
    worth = torch.tensor([state.quantizer.levels_worth(q) for q in range(QUALITIES)])
    meter = Meter()
    for step in loop:
        quality = spread_quality(options.batch).long()
        x = state.crops.batch(options.batch, crop)
        coded = worth[quality]
        grids = _coded(state, x, quality, coded)
        for levels in _turns(config):
            loss, per_index = prior_loss(state.prior, grids, quality, levels, coded, crop * crop)
            if state.pretrained:
                made = quality, coded, codebooks()
                error, mse = decoder(state.autoencoder, state.quantizer, x, grids, *made)
                loss = loss + error
                meter.add("psnr", _quarter(quality), _psnr(mse), 4)
            if per_index or state.pretrained:
                loop.descend(loss)
            if state.pretrained:
                codebooks.write(state.quantizer)
            for level, bits in per_index.items():
                slot = torch.tensor([level])
                marginal = state.quantizer.marginal_bits(level, quality)
                used = marginal.gather(2, grids[level].flatten(1, 2).transpose(1, 2))
                meter.add("bits_per_index", slot, torch.tensor([bits]), count)
                meter.add("marginal_bits", slot, used[coded > level].mean()[None], count)
        if (step + 1) % LOG_STEPS == 0:
            record = _record(loop, meter, options.batch)
            state.results[loop.name] = record
            state.report(record)
        keeper.step_done()
    if state.pretrained:
        codebooks.write(state.quantizer)  # the averaged ones


def _quarter(quality: Tensor) -> Tensor:
    """The part of the scale, 0..3, in which logs count each quality (B,)."""
    return (quality / 25).long().clamp(max=3)


def _psnr(mse: Tensor) -> Tensor:
    return -10 * torch.log10(mse.clamp(min=1e-8))


def _loop(
    name: str, peaks: Mapping[nn.Module, float], options: TrainOptions, *, average: float
) -> Loop:
    share = options.prior_share if name == "prior" else 1 - options.prior_share
    steps = None if options.steps is None else round(options.steps * share)
    truer = max(1.0, options.batch / 8) ** 0.5  # gradients of larger batches
    peaks = {model: peak * truer for model, peak in peaks.items()}
    return Loop(name, peaks, options.minutes * share, steps, average=average)


def _turns(config: ModelConfig) -> Iterator[list[int]]:
    """The levels of each turn: a random one of each stride, two of the finest, others each time."""
    orders = []
    for stride in config.strides:
        among = [k for k, level in enumerate(config.levels) if level.stride == stride]
        orders.append([among[k] for k in torch.randperm(len(among)).tolist()])
    finest = orders[-1]
    for turn in range(TURNS):
        picks = {order[turn % len(order)] for order in orders}
        yield sorted(picks | {finest[(turn + TURNS) % len(finest)]})


def _coded(state: Run, x: Tensor, quality: Tensor, coded: Tensor) -> list[Tensor]:
    """The grids of all levels as coding would choose them, of which it codes the first `coded`."""
    with torch.no_grad():
        with torch.autocast(x.device.type, torch.bfloat16):
            latent = state.autoencoder.encode(x, quality)
        latent = refine_as_coding(
            state.autoencoder, state.quantizer, latent, x, quality, REFINEMENT_STEPS
        )
        weights = weights_for(state.config, x)
        choose = partial(state.quantizer, latent, quality, weights=weights)
        first = choose(levels=single_slice_levels(state.config.levels), beam=FIRST_BEAM).grids
        lengths = _lengths(state, first, quality, coded)
        return list(choose(beam=CODING_BEAM, lengths=lengths).grids)


def _lengths(state: Run, grids: Sequence[Tensor], quality: Tensor, coded: Tensor) -> list[Tensor]:
    """Code lengths of the prior, given a first choice; marginal ones for levels not coded."""
    lengths = []
    for level in range(single_slice_levels(state.config.levels)):
        with torch.autocast(quality.device.type, torch.bfloat16):
            scores = state.prior(grids, quality, level).squeeze(3).flatten(1, 2)
        real = scores.log_softmax(2).mul_(-1 / math.log(2))
        marginal = state.quantizer.marginal_bits(level, quality)
        there = (coded > level)[:, None, None]
        lengths.append(torch.where(there, mixed(state.quantizer, level, quality, real), marginal))
    return lengths


def _record(loop: Loop, meter: Meter, batch: int) -> Record:
    measured = meter.read()
    seconds = measured.pop("seconds")
    return {
        "phase": loop.name,
        "step": loop.step + 1,
        "progress": round(min(loop.progress, 1.0), 4),
        "minutes": round(loop.elapsed / 60, 2),
        "crops_per_second": round(LOG_STEPS * batch / max(seconds, 1e-3), 1),
        **measured,
    }


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
    source = "procedural drawings" if state.options.data is None else f"{state.options.data.name}/"
    training = {
        "note": f"{state.config.name}, trained on {source}, {state.options.minutes:g} minutes"
        + (", for MS-SSIM" if state.config.tune == "ssim" else ""),
        "results": state.results,
    }
    config = replace(state.config, name=name)
    found = probe(IntegerPrior(config, tensors))
    models.save(state.options.output, config, tensors, training, found)
