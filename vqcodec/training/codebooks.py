"""The codebooks as something that learns by a gradient, as decoder networks do.

A codebook of means is best for the latent's own error. Codes that coding chose, refined by what
they decode to and with the prior's lengths, are better placed where pictures come out truer.
Source: docs/experiments.md, 50.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vqcodec.networks.quantizer import Quantizer

__all__ = ["Codebooks"]


class Codebooks(nn.Module):
    """Those of all levels (S, K, d), each in a unit near its size: one learning rate suits all.

    Units are powers of two, so that nothing is lost on the way here and back.
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
