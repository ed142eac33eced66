"""Codebooks that learn by gradient descent, as the decoder network does.

They start from those that `codebook_learning` made by k-means and moving averages. Means are best
for the error of the latent; but coding chooses codes by what they decode to and by the prior's
lengths, and for codes so chosen a gradient of the picture's error finds better places.
Source: docs/experiments.md, 50.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vqcodec.networks.quantizer import Quantizer

__all__ = ["Codebooks"]


class Codebooks(nn.Module):
    """The codebooks (S, K, d) of all levels, each in a unit near its size.

    So one learning rate suits all. Units are powers of two, so that nothing is lost on the way here
    and back.
    """

    units: Tensor  # (levels,)

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        own = list(_of(quantizer))
        sizes = torch.stack([codes[:, 1:].square().mean().sqrt() for codes in own])
        self.register_buffer("units", sizes.clamp(min=1e-6).log2().round().exp2())
        self.codes = nn.ParameterList(torch.empty_like(codes) for codes in own)
        self.read(quantizer)

    @torch.no_grad()
    def read(self, quantizer: Quantizer) -> None:
        """Take those of a quantizer, in the units that there are."""
        for codes, own, unit in zip(self.codes, _of(quantizer), self.units, strict=True):
            codes.copy_(own / unit)

    @torch.no_grad()
    def write(self, quantizer: Quantizer) -> None:
        """Give them to a quantizer."""
        for codes, own in zip(self(), _of(quantizer), strict=True):
            own.copy_(codes)

    def forward(self) -> list[Tensor]:
        """(S, K, d) of each level, in the latent's unit; code 0 has no gradient and stays zero."""
        found = []
        for codes, unit in zip(self.codes, self.units, strict=True):
            others = torch.arange(codes.shape[1])[:, None] > 0
            found.append(codes * (unit * others))
        return found


def _of(quantizer: Quantizer) -> Iterator[Tensor]:
    return (quantizer.buffer("codebook", k) for k in range(len(quantizer.config.levels)))
