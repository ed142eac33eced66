"""The first two phases, a plain loop each: autoencoder and codebooks, then the prior."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vqcodec.config import ModelConfig, Tuning
from vqcodec.encoder.code_lengths import mixed, single_slice_levels
from vqcodec.encoder.perception import weights_for
from vqcodec.limits import QUALITIES
from vqcodec.training.checkpoint import Checkpoint, Saved
from vqcodec.training.codebook_learning import code_lengths, geometry, prefer_zero
from vqcodec.training.codebooks import Codebooks
from vqcodec.training.journal import Journal, quarter
from vqcodec.training.objective import (
    REFINEMENT_STEPS,
    AutoencoderObjective,
    DecoderObjective,
    prior_loss,
    refine_as_coding,
    spread_quality,
)
from vqcodec.training.precision import autocast
from vqcodec.training.run import Keeper, Run

__all__ = ["autoencoder_phase", "prior_phase"]

REFINING_FROM = 0.5  # of a first run on; before, networks change more than a refinement step finds
TURNS = 4  # of the prior with the same crops, for other levels: choosing codes takes longer
FIRST_BEAM, CODING_BEAM = 4, 16  # paths when the prior is trained; coding follows up 12 and 48
# Learning rates, for a batch of 8.
AUTOENCODER_PEAK, PRIOR_PEAK = 5e-4, 1.5e-3
CONTINUED = 0.4  # of these, where weights were trained before: experiments 23, 26
# Of the decoder network on what coding chooses: experiment 48.
DECODER_PEAKS: dict[Tuning, float] = {"psnr": 6e-5, "ssim": 1.5e-4}
CODEBOOK_PEAK = 5e-4  # of codebooks, in units of their size: experiment 50


def autoencoder_phase(state: Run, checkpoint: Checkpoint, saved: Saved | None) -> None:
    """Codebooks and networks; logs are in four parts of the quality scale, low to high."""
    options, learner = state.options, state.learner
    objective = AutoencoderObjective()
    state.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    peak = AUTOENCODER_PEAK * (CONTINUED if state.pretrained else 1)
    loop = state.loop("autoencoder", {state.autoencoder: peak}, average=0.999)
    keeper = Keeper(state, checkpoint, loop, {"bits_per_proxy": objective.bits_per_proxy})
    if not keeper.enter(saved):
        return
    journal = Journal(loop, options.batch, state.log, state.spent.seconds, learner.statistics)
    for _ in loop:
        x = state.crops.batch(options.batch, options.crop)
        quality = spread_quality(options.batch)
        refining = state.pretrained or loop.progress >= REFINING_FROM
        steps = REFINEMENT_STEPS if refining else 0
        loss, parts = objective(state.autoencoder, learner, x, quality, steps)
        loop.descend(loss)
        parts["psnr"] = _psnr(parts["mse"])
        parts["latent_ratio"] = parts.pop("commit") / parts.pop("mse").clamp(min=1e-8)
        for name, values in parts.items():
            journal.add(name, quarter(quality), values, 4)
        journal.step_done()
        keeper.step_done()
    state.phase_done(loop, journal)
    prefer_zero(state.quantizer)


def prior_phase(state: Run, checkpoint: Checkpoint, saved: Saved | None) -> None:
    """The prior, on indices as coding chooses them; a few levels per turn.

    Of a model that was trained before, decoder network and codebooks learn from these, too.
    """
    options, config = state.options, state.config
    peaks: dict[nn.Module, float] = {state.prior: PRIOR_PEAK}
    decoder, codebooks = DecoderObjective(), Codebooks(state.quantizer)
    if state.pretrained:
        state.autoencoder.embedding.requires_grad_(False)
        peaks = {
            state.prior: PRIOR_PEAK * CONTINUED,
            state.autoencoder.decoder_branch(): DECODER_PEAKS[config.tune],
            codebooks: CODEBOOK_PEAK,
        }
    loop = state.loop("prior", peaks, average=0.998)
    begun = saved is not None and saved.meta["phase"] != "autoencoder"
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
    journal = Journal(loop, options.batch, state.log, state.spent.seconds)
    for _ in loop:
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
                journal.add("psnr", quarter(quality), _psnr(mse), 4)
            if per_index or state.pretrained:
                loop.descend(loss)
            if state.pretrained:
                codebooks.write(state.quantizer)
            for level, bits in per_index.items():
                slot = torch.tensor([level])
                marginal = state.quantizer.marginal_bits(level, quality)
                used = marginal.gather(2, grids[level].flatten(1, 2).transpose(1, 2))
                journal.add("bits_per_index", slot, torch.tensor([bits]), count)
                journal.add("marginal_bits", slot, used[coded > level].mean()[None], count)
        journal.step_done()
        keeper.step_done()
    state.phase_done(loop, journal)
    if state.pretrained:
        codebooks.write(state.quantizer)  # the averaged ones


def _psnr(mse: Tensor) -> Tensor:
    return -10 * torch.log10(mse.clamp(min=1e-8))


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
    """The grids of all levels as coding chooses them, which codes the first `coded` (B,)."""
    with torch.no_grad():
        with autocast(x.device.type):
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
    """What the prior expects, given a first choice; what is marginal of levels not coded."""
    lengths = []
    for level in range(single_slice_levels(state.config.levels)):
        with autocast(quality.device.type):
            scores = state.prior(grids, quality, level).squeeze(3).flatten(1, 2)
        real = scores.log_softmax(2).mul_(-1 / math.log(2))
        marginal = state.quantizer.marginal_bits(level, quality)
        there = (coded > level)[:, None, None]
        lengths.append(torch.where(there, mixed(state.quantizer, level, quality, real), marginal))
    return lengths
