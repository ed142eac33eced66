import pytest
import torch
from fitted import fitted
from helpers import TINY

from vqcodec.networks.quantizer import Quantizer
from vqcodec.training.codebook_learning import CodebookLearner, geometry, prefer_zero


@pytest.mark.parametrize("level", [2, 4])
def test_fitting_slices_lowers_the_error(level: int) -> None:
    config = TINY["residual"]
    spec = config.levels[level]
    _, learner, _ = fitted(config)
    quantizer = learner.quantizer
    dim = config.latent_dim(spec.stride)
    vectors = torch.randn(96, 10, dim).sign() + 0.1 * torch.randn(96, 10, dim)
    quality = 80 + 20 * torch.rand(96)
    indices = learner.fit(level, vectors, quality)  # on some of the vectors only
    assert indices.shape == (96, 10, spec.slices)
    rest = vectors - quantizer.look_up(level, indices)
    energy = quantizer.cut(level, vectors).square().sum((0, 1, 3))
    left = quantizer.cut(level, rest).square().sum((0, 1, 3))
    assert (left < 0.7 * energy).all()  # in every slice
    lengths = quantizer.marginal_bits(level, quality)
    price = torch.ones(96, 10)
    assert torch.equal(indices, quantizer.assign(level, vectors, quality, lengths, price))


def test_prefer_zero_moves_the_uses_of_idle_codes_within_their_slice() -> None:
    torch.manual_seed(4)
    config = TINY["residual"]
    quantizer = Quantizer(config)
    codebook = quantizer.buffer("codebook", 4).fill_(1.0)
    codebook[:, 0] = 0
    codebook[1, 5] = 1e-6
    weak = (0.2 * config.lambda_at(50) / 4) ** 0.5
    codebook[2, 3] = weak  # adds next to nothing for the low qualities only
    rates = quantizer.buffer("rate_count", 4).uniform_(0.1, 1.0)
    before = rates.clone()
    prefer_zero(quantizer)
    torch.testing.assert_close(rates.sum(2), before.sum(2))
    assert torch.equal(rates[:, 0], before[:, 0])
    assert (rates[:, 1, 5] == 0).all()
    torch.testing.assert_close(rates[:, 1, 0], before[:, 1, 0] + before[:, 1, 5])
    assert (rates[:4, 2, 3] == 0).all() and torch.equal(rates[-4:, 2], before[-4:, 2])


def test_statistics_of_slices() -> None:
    quantizer = Quantizer(TINY["residual"])
    rates = quantizer.buffer("rate_count", 4).zero_()
    rates[:, 0] = 1  # all 8 codes
    rates[:, 1, :2] = 4
    rates[:, 2, 3] = 8
    learner = CodebookLearner(quantizer)
    learner.averages(4)[0].fill_(1.0)[2, :5] = 0.0
    statistics = learner.statistics()
    assert statistics["marginal_bits"][4] == pytest.approx((3 + 1 + 0) / 3, abs=1e-3)
    assert statistics["perplexity"][4] == pytest.approx((8 + 2 + 1) / 3, abs=0.1)
    assert statistics["dead_codes"][4] == 5


@pytest.mark.parametrize(("name", "level"), [("vq-vae", 0), ("vq-vae-2", 1), ("residual", 4)])
def test_update_moves_codebooks_and_revives_dead_codes(name: str, level: int) -> None:
    torch.manual_seed(1)
    _, learner, latent = fitted(TINY[name])
    quantizer = learner.quantizer
    codebook = quantizer.buffer("codebook", level)
    which = len(codebook) - 1
    codebook[which, 5] = 1e3  # far from everything: nobody chooses it
    learner.averages(level)[0][which, 5] = 0.0
    before = codebook.clone()
    seen: list[torch.Tensor] = []
    quality = torch.full((len(latent),), 90.0)
    quantizer.forward(latent, quality, observe=lambda *args: seen.append(args[1]))
    learner.update(latent, quality)
    assert (before != codebook)[:, 1:].any(dim=2).any(dim=1).all()  # in every slice
    assert (codebook[:, 0] == 0).all()
    if level == 0:  # what other levels leave depends on how they moved
        rows = quantizer.cut(level, seen[level])[:, :, which].flatten(0, 1)
        assert (rows - codebook[which, 5]).abs().amax(1).min() < 1e-4
    assert codebook[which, 5].abs().max() < 100


def test_codes_are_weighted_means() -> None:
    torch.manual_seed(1)
    _, learner, latent = fitted(TINY["vq-vae"])
    quantizer = learner.quantizer
    quality = torch.full((len(latent),), 90.0)
    weights = torch.rand(len(latent), *latent.shape[2:]) + 0.1
    weights[:, :, 4:] /= 20
    seen: list[tuple[torch.Tensor, ...]] = []
    quantizer.forward(latent, quality, weights=weights, observe=lambda *args: seen.append(args[1:]))
    learner.decay = 0  # nothing before this batch counts
    learner.update(latent, quality, weights)
    rows, heavy, indices = (part.flatten(0, 1) for part in seen[0])
    torch.testing.assert_close(heavy, weights.flatten())
    count = learner.averages(0)[0][0]
    for code in range(1, len(count)):
        chosen = indices[:, 0] == code
        if count[code] > 0.5:
            want = (rows * heavy[:, None])[chosen].sum(0) / heavy[chosen].sum()
            torch.testing.assert_close(quantizer.buffer("codebook", 0)[0, code], want)
    assert (count > 0.5).sum() > 4


@pytest.mark.parametrize("name", ["vq-vae-2", "residual"])
def test_geometry_maps_coarse_latents_to_fine_ones(name: str) -> None:
    config = TINY[name]
    _, learner, latent = fitted(config)
    quantizer = learner.quantizer
    _, _, steps = geometry(quantizer)
    for coarse, fine in zip(config.strides, config.strides[1:], strict=False):
        factor, dim = coarse // fine, config.latent_dim(fine)
        vectors = quantizer.gather(latent, coarse)  # (B, n, D_coarse)
        height = 64 // coarse
        spread = quantizer.scatter(vectors, coarse, *latent.shape[2:])
        want = quantizer.gather(spread, fine).reshape(len(latent), 64 // fine, 64 // fine, dim)
        got = (vectors @ steps[fine].T).reshape(-1, height, height, factor, factor, dim)
        got = got.permute(0, 1, 3, 2, 4, 5).reshape(want.shape)
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
