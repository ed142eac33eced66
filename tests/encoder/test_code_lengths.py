"""code_lengths.py: what each code costs by the prior, as the search takes it."""

from pathlib import Path

import pytest
import torch
from helpers import TINY, cross_entropy_bits

from vqcodec import models
from vqcodec.encoder import code_lengths as lengths


@pytest.mark.parametrize("name", TINY)
def test_real_lengths_are_those_of_the_coder(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """And the rest is marginal: chosen codes cost what the prior says, mixed as is said."""
    model, quality = models.load(str(tiny_weights[name])), torch.tensor([70.4])
    latent = torch.randn(1, model.quantizer.dim, 16, 8, generator=torch.Generator().manual_seed(1))
    grids: list[torch.Tensor] = model.quantizer(latent, quality).grids
    levels = len(model.config.levels)

    def choose(count: int) -> list[torch.Tensor]:
        return grids[:count]

    found = {}
    for share in (0.3, 1.0):
        monkeypatch.setitem(lengths.SHARES, "psnr", (0.0, share))
        monkeypatch.setitem(lengths.LONGER, "psnr", 0.5 / share)
        found[share] = lengths.expected_lengths(model, choose, quality, levels)
    count = len(found[1.0])
    known = [grid.numpy() for grid in grids[:count]]
    real = cross_entropy_bits(model.prior, known, 70)
    for k in range(count):
        indices = grids[k].flatten(1, 2)
        chosen = found[1.0][k].gather(2, indices).sum().item()
        assert chosen == pytest.approx(1.5 * real[k], rel=1e-4)
        mixed = 0.7 * 1.5 * model.quantizer.marginal_bits(k, quality) + 0.3 * found[1.0][k]
        assert torch.allclose(found[0.3][k], mixed, atol=1e-3)
    sliced = next((k for k, level in enumerate(model.config.levels) if level.slices > 1), count)
    assert count == sliced
    assert len(lengths.expected_lengths(model, choose, quality, 1)) == 1
    assert lengths.expected_lengths(model, choose, torch.tensor([7.9]), levels) == []
