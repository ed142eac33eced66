"""The last phase: the encoder learns to give the latent at which refinement would end.

Refinement (`encoder.refine`) takes most of the time of coding. The encoder cannot know which codes
will be chosen, but it can learn where refinement moves its latent on average; that is further away
the longer decoder and codebooks have learnt without it. Then coding needs fewer steps, or none.
Only the encoder's own layers change: a decoder reads the same files.
Source: docs/experiments.md, 59; learnt inference against optimisation, Cremer et al. (2018).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vqcodec.config import ModelConfig
from vqcodec.encoder.perception import weights_for
from vqcodec.encoder.refine import refine
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.quantizer import Quantizer
from vqcodec.training.checkpoint import Checkpoint, Saved
from vqcodec.training.journal import Journal, quarter
from vqcodec.training.objective import spread_quality
from vqcodec.training.precision import autocast
from vqcodec.training.run import Keeper, Run

__all__ = ["Example", "Latest", "encoder_phase", "refined", "start_loss"]

STEPS, BEAM = 4, 4  # of the refinement that is learnt
LATEST = 16  # batches of examples that are kept
DESCENTS = 6  # for each new batch, on examples of any of these: a refinement takes as long as they
PEAK, AVERAGE = 2e-4, 0.997  # learning rate; decay of the moving average
LEFT = 0.2  # of the error of quantisation, in the unit of an example


class Example(NamedTuple):
    """Crops and where refinement ends for them.

    crops: (B, 3, H, W) uint8.
    quality: (B,) in 0..100.
    target: (B, D, h, w) float16, the refined latent.
    unit: (B,), squared distance of latents that counts as 1.
    """

    crops: Tensor
    quality: Tensor
    target: Tensor
    unit: Tensor


class Latest:
    """The last `LATEST` batches of examples, the oldest replaced by the newest."""

    def __init__(self, config: ModelConfig, batch: int, crop: int) -> None:
        self.batch = batch
        count, side = LATEST * batch, crop // config.base_stride
        self.kept = Example(
            torch.zeros(count, 3, crop, crop, dtype=torch.uint8),
            torch.zeros(count),
            torch.zeros(count, config.latent_dims[-1], side, side, dtype=torch.float16),
            torch.ones(count),
        )

    def put(self, step: int, new: Example) -> None:
        """Keep the examples of a step."""
        first = step % LATEST * self.batch
        places = slice(first, first + self.batch)
        for own, values in zip(self.kept, new, strict=True):
            own[places] = values

    def draw(self, step: int) -> Example:
        """A batch of those up to a step, at random."""
        which = torch.randint(min(step + 1, LATEST) * self.batch, (self.batch,))
        return Example(*(own[which] for own in self.kept))


@torch.no_grad()
def refined(
    autoencoder: Autoencoder, quantizer: Quantizer, crops: Tensor, quality: Tensor
) -> tuple[Example, Tensor]:
    """Refine what the encoder gives for crops (B, 3, H, W) in 0..1, at qualities (B,).

    Returns:
        Examples, and how far refinement moved the latents: squared distances (B,), each as a share
        of the squared error of quantising what refinement ends with.
    """
    weights = weights_for(quantizer.config, crops)
    latent = _encode(autoencoder, crops, quality)

    def decode(y: Tensor) -> Tensor:
        with autocast(crops.device.type):
            return autoencoder.decode(y, quality)

    search = (decode, latent, crops, quality, STEPS, BEAM)
    with torch.enable_grad():
        target = refine(quantizer, *search, weights=weights, keep_best=True)
    coded = quantizer(target, quality, beam=BEAM, weights=weights).latent
    moved, left = _squares(target - latent, weights), _squares(target - coded, weights)
    left = left.clamp(min=1e-6)
    # In units of its own distance each crop has the same say. But where refinement hardly moves
    # anything, hardly anything is to be learnt.
    unit = moved + LEFT * left
    stored = (crops * 255).round().to(torch.uint8)
    return Example(stored, quality, target.half(), unit), moved / left


def start_loss(autoencoder: Autoencoder, quantizer: Quantizer, examples: Example) -> Tensor:
    """Mean squared distance of what the encoder gives from where refinement ends, in its units."""
    x = examples.crops.float() / 255
    away = _encode(autoencoder, x, examples.quality) - examples.target
    weights = weights_for(quantizer.config, x)
    return (_squares(away, weights) / examples.unit).mean()


def _encode(autoencoder: Autoencoder, x: Tensor, quality: Tensor) -> Tensor:
    with autocast(x.device.type):
        return autoencoder.encode(x, quality)


def _squares(difference: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of squares of each (B, D, h, w), as errors count at each place: (B,)."""
    squares = difference.square().sum(1)
    return (squares if weights is None else weights * squares).flatten(1).sum(1)


def encoder_phase(state: Run, checkpoint: Checkpoint, saved: Saved | None) -> None:
    """The encoder's own layers; logs say how far refinement still moves latents.

    That is in four parts of the quality scale, low to high, as `refined` measures it.
    """
    options, autoencoder, quantizer = state.options, state.autoencoder, state.quantizer
    autoencoder.requires_grad_(False)
    branch = autoencoder.encoder_branch().requires_grad_(True)
    loop = state.loop("encoder", {branch: PEAK}, average=AVERAGE)
    latest = Latest(state.config, options.batch, options.crop)
    keeper = Keeper(state, checkpoint, loop, latest.kept._asdict())
    if not keeper.enter(saved):
        return
    journal = Journal(loop, options.batch, state.log, state.spent.seconds)
    for step in loop:
        x = state.crops.batch(options.batch, options.crop)
        quality = spread_quality(options.batch)
        examples, moved = refined(autoencoder, quantizer, x, quality)
        latest.put(step, examples)
        journal.add("refinement", quarter(quality), moved, 4)
        for _ in range(DESCENTS):
            loop.descend(start_loss(autoencoder, quantizer, latest.draw(step)))
        journal.step_done()
        keeper.step_done()
    state.phase_done(loop, journal)
