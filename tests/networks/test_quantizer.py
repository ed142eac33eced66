from dataclasses import replace

import pytest
import torch
from fitted import fitted
from helpers import TINY

from vqcodec.config import RATE_BINS, ModelConfig
from vqcodec.limits import QUALITIES
from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.networks.beam_search import Beam
from vqcodec.networks.quantizer import Quantizer, rate_bins


def prepared(config: ModelConfig) -> tuple[Autoencoder, Quantizer, torch.Tensor]:
    autoencoder, learner, latent = fitted(config)
    return autoencoder, learner.quantizer, latent


@pytest.mark.parametrize("name", TINY)
def test_klt_is_orthonormal_and_sorted(name: str) -> None:
    autoencoder, quantizer, _ = prepared(TINY[name])
    klt = autoencoder.klt
    torch.testing.assert_close(klt @ klt.T, torch.eye(len(klt)), atol=1e-4, rtol=0)
    assert (autoencoder.sigma.diff() <= 1e-6).all()
    for stride in TINY[name].strides[:-1]:
        projection = quantizer.buffer("projection", stride)
        eye = torch.eye(projection.shape[1])
        torch.testing.assert_close(projection.T @ projection, eye, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_dequantize_gives_the_latent_that_was_chosen(name: str) -> None:
    _, quantizer, latent = prepared(TINY[name])
    quantized = quantizer(latent, torch.full((len(latent),), 80.0))
    again = quantizer.dequantize(quantized.grids, *latent.shape[2:])
    torch.testing.assert_close(again, quantized.latent, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_every_level_brings_the_latent_nearer(name: str) -> None:
    config = TINY[name]
    _, quantizer, latent = prepared(config)
    quality = torch.full((len(latent),), 100.0)
    errors = [float(latent.square().sum())]
    for levels in range(1, len(config.levels) + 1):
        quantized = quantizer(latent, quality, levels=levels)
        assert len(quantized.grids) == levels
        errors.append(float((latent - quantized.latent).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize(("name", "level"), [("vq-vae", 0), ("residual", 2), ("residual", 4)])
def test_nearest_code_and_zero_code(name: str, level: int) -> None:
    config = TINY[name]
    _, quantizer, latent = prepared(config)
    codebook = quantizer.buffer("codebook", level)
    slices, size, _ = codebook.shape
    assert slices == config.levels[level].slices
    assert (codebook[:, 0] == 0).all() and (codebook[:, 1:] != 0).any(dim=2).all()
    vectors = quantizer.gather(latent, config.levels[level].stride)
    quality = torch.full((len(latent),), 50.0)
    free = torch.zeros(len(latent), slices, size)
    price = torch.ones(vectors.shape[:2])
    indices = quantizer.assign(level, vectors, quality, free, price)
    for k in range(slices):  # channel c belongs to slice c mod S
        slow = torch.cdist(vectors[:, :, k::slices], codebook[k].expand(len(latent), -1, -1))
        assert (indices[..., k] == slow.argmin(2)).float().mean() > 0.999  # ties and rounding
    never = torch.full_like(free, 1e6)
    never[:, :, 0] = 0
    assert (quantizer.assign(level, vectors, quality, never, price) == 0).all()
    never[:, -1] = 0  # what a code costs in one slice says nothing about the others
    mixed = quantizer.assign(level, vectors, quality, never, price)
    assert (mixed[..., :-1] == 0).all()
    torch.testing.assert_close(mixed[..., -1], indices[..., -1])


@pytest.mark.parametrize(("name", "level"), [("vq-vae", 0), ("residual", 2), ("residual", 4)])
def test_vectors_made_of_codes_are_assigned_those_codes(name: str, level: int) -> None:
    torch.manual_seed(2)
    quantizer = Quantizer(TINY[name])
    codebook = quantizer.buffer("codebook", level).normal_()
    slices, size, dim = codebook.shape
    indices = torch.randint(size, (3, 7, slices))
    vectors = quantizer.look_up(level, indices)
    assert vectors.shape == (3, 7, slices * dim)
    for c in range(slices * dim):
        want = codebook[c % slices, indices[..., c % slices], c // slices]
        assert torch.equal(vectors[..., c], want)
    parts = quantizer.cut(level, vectors)
    assert torch.equal(parts, codebook[torch.arange(slices), indices])
    free, quality = torch.zeros(3, slices, size), torch.tensor([0.0, 50.0, 100.0])
    price = torch.rand(3, 7)
    assert torch.equal(quantizer.assign(level, vectors, quality, free, price), indices)


def test_a_wider_beam_lowers_error_and_bits_together() -> None:
    _, quantizer, latent = prepared(TINY["residual"])
    quality = torch.linspace(0, 100, len(latent))

    def cost(beam: int) -> float:
        chosen = quantizer(latent, quality, levels=2, beam=beam)
        error = (latent - chosen.latent).square().flatten(1).sum(1)
        return float((error + quantizer.lambdas(quality) * chosen.bits).sum())

    costs = [cost(beam) for beam in (1, 2, 8)]
    assert costs[0] > costs[1] > costs[2]


def test_weights_move_bits_to_where_errors_count() -> None:
    """As lambda does: a weight of 4 everywhere is a lambda of a quarter."""
    config = TINY["residual"]
    _, quantizer, latent = prepared(config)
    quality = torch.full((len(latent),), 60.0)
    plain = quantizer(latent, quality, beam=4)
    weights = torch.ones(len(latent), *latent.shape[2:])
    same = quantizer(latent, quality, beam=4, weights=weights)
    assert all(a.equal(b) for a, b in zip(plain.grids, same.grids, strict=True))

    def errors(weights: torch.Tensor) -> torch.Tensor:
        chosen: torch.Tensor = quantizer(latent, quality, beam=4, weights=weights).latent
        return (latent - chosen).square().sum(1)

    half = weights.clone()
    half[:, :8] = 4
    even, moved, all_ = errors(weights), errors(half), errors(4 * weights)
    assert moved[:, :8].sum() < 0.9 * even[:, :8].sum()
    torch.testing.assert_close(moved[:, :8], all_[:, :8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved[:, 8:], even[:, 8:], rtol=1e-4, atol=1e-5)
    quantizer.config = replace(config, lambdas=tuple(value / 4 for value in config.lambdas))
    torch.testing.assert_close(all_, errors(weights), rtol=1e-4, atol=1e-5)


def test_positions_that_no_code_helps_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the shortcut changes nothing."""
    _, quantizer, latent = prepared(TINY["residual"])
    quality = torch.full((len(latent),), 30.0)
    vectors = quantizer.gather(latent, 16)
    vectors *= torch.rand(*vectors.shape[:2], 1) ** 4
    levels, lambdas = [0, 1], quantizer.lambdas(quality)[:, None]
    for level in levels:
        quantizer.buffer("rate_count", level)[..., 0] = 100  # the usual code, the cheapest
    seen: list[int] = []

    class Counting(Beam):
        def __call__(self, vectors: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            seen.append(len(vectors))
            return super().__call__(vectors, offsets)

    monkeypatch.setattr("vqcodec.networks.quantizer.Beam", Counting)
    price = 0.5 + torch.rand(vectors.shape[:2])
    lengths = [quantizer.marginal_bits(k, quality) for k in levels]
    found = quantizer.assign_jointly(levels, vectors, quality, lengths, 4, price)
    chosen = torch.cat(found, 2).flatten(0, 1)
    assert 0 < sum(seen) < chosen.shape[0]
    every = torch.cat(lengths, 2).repeat_interleave(vectors.shape[1], 0)[:, 0]
    every = every * (lambdas * price).flatten()[:, None]
    search = Beam([quantizer.buffer("codebook", k)[0] for k in levels], 4)
    assert torch.equal(chosen, search(vectors.flatten(0, 1), every))


def test_lengths_may_differ_from_place_to_place() -> None:
    """A code is never chosen where it is made dear, and elsewhere as before."""
    _, quantizer, latent = prepared(TINY["residual"])
    quality = torch.full((len(latent),), 70.0)
    plain = quantizer(latent, quality, beam=4)
    levels = quantizer.config.levels
    first = [k for k in range(len(levels)) if all(one.slices == 1 for one in levels[: k + 1])]
    lengths = [
        quantizer.marginal_bits(k, quality).repeat(1, plain.grids[k][0].numel(), 1) for k in first
    ]
    same = quantizer(latent, quality, beam=4, lengths=lengths)
    for a, b in zip(plain.grids, same.grids, strict=True):
        assert torch.equal(a, b)
    common = int(plain.grids[0].flatten().mode().values)
    lengths[0][:, ::2, common] = 1e6
    changed = quantizer(latent, quality, beam=4, lengths=lengths).grids[0].flatten(1)
    assert not (changed[:, ::2] == common).any() and (changed[:, 1::2] == common).any()
    assert torch.equal(changed[:, 1::2], plain.grids[0].flatten(1)[:, 1::2])


def test_errors_are_differences_of_squared_distances() -> None:
    torch.manual_seed(3)
    quantizer = Quantizer(TINY["residual"])
    codebook = quantizer.buffer("codebook", 4).normal_()
    vectors, offset = torch.randn(2, 5, 12), torch.rand(2, 3, 8)
    price = torch.rand(2, 5)
    errors = quantizer.errors(4, vectors, offset, price)
    assert errors.shape == (2, 3, 5, 8)
    for k in range(3):
        part = vectors[:, :, None, k::3]
        want = (part - codebook[k]).square().sum(3) - part.square().sum(3)
        want = want + price[..., None] * offset[:, None, k]
        torch.testing.assert_close(errors[:, k], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("most", [1, 3 * 8 * 2, 3 * 8 * 12])
def test_errors_are_held_for_few_positions_at_once(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    quantizer = Quantizer(TINY["residual"])
    quantizer.buffer("codebook", 4).normal_()[:, 0] = 0
    quality, price = torch.tensor([60.0, 80.0]), torch.rand(2, 5) + 0.1
    given = torch.randn(2, 5, 12), quality, quantizer.marginal_bits(4, quality), price
    whole = quantizer.assign(4, *given)
    held, errors = [], Quantizer.errors

    def note(self: Quantizer, level: int, *given: torch.Tensor) -> torch.Tensor:
        held.append(errors(self, level, *given))
        return held[-1]

    monkeypatch.setattr("vqcodec.networks.quantizer.ERRORS_AT_ONCE", most)
    monkeypatch.setattr(Quantizer, "errors", note)
    assert torch.equal(quantizer.assign(4, *given), whole) and whole.any()
    assert max(part.numel() for part in held) <= max(most, 3 * 8)
    assert sum(part.numel() for part in held) == 2 * 5 * 3 * 8


def test_bits_are_the_marginal_lengths_of_all_indices() -> None:
    _, quantizer, latent = prepared(TINY["residual"])
    quality = torch.linspace(0, 100, len(latent))
    quantized = quantizer(latent, quality)
    for row in (0, 11, 23):
        bits = 0.0
        for level, grid in enumerate(quantized.grids):
            lengths = quantizer.marginal_bits(level, quality[row : row + 1])[0].tolist()
            for position in grid[row].flatten(0, 1).tolist():
                bits += sum(lengths[k][index] for k, index in enumerate(position))
        assert float(quantized.bits[row]) == pytest.approx(bits, rel=1e-4)


def test_levels_worth_counts_up_to_the_last_slice_that_says_something() -> None:
    quantizer = Quantizer(TINY["residual"])
    for level in range(5):
        rates = quantizer.buffer("rate_count", level).zero_()
        rates[:, :, 0] = 1
    assert quantizer.levels_worth(0) == quantizer.levels_worth(100) == 1
    quantizer.buffer("rate_count", 2)[4:, 1, 7] = 0.2
    quantizer.buffer("rate_count", 4)[8:, 2, 1:3] = 0.015  # 2.9 % of one slice, 1 % of all
    quantizer.buffer("rate_count", 4)[:8, :, 1] = 0.015  # 1.5 % of each
    quantizer.buffer("rate_count", 1)[:, :, 1] = 0.03  # of one slice; of several it would count
    assert [quantizer.levels_worth(q) for q in (0, 25, 26, 50, 51, 100)] == [1, 1, 3, 3, 5, 5]


def test_code_lengths_are_of_the_row_that_the_prior_takes() -> None:
    quality = torch.linspace(0, 100, 1001)
    signalled = torch.tensor([round(q) for q in quality.tolist()])
    assert torch.equal(rate_bins(quality), signalled * RATE_BINS // QUALITIES)


def test_higher_quality_spends_bits_and_lowers_error() -> None:
    _, quantizer, latent = prepared(TINY["residual"])
    low, high = (quantizer(latent, torch.full((len(latent),), q)) for q in (0.0, 100.0))
    assert low.bits.sum() < high.bits.sum()
    assert (latent - low.latent).square().sum() > (latent - high.latent).square().sum()
