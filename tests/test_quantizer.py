import pytest
import torch
from conftest import TINY

from vqcodec.autoencoder import Autoencoder
from vqcodec.config import ModelConfig
from vqcodec.quantizer import Quantizer


def prepared(config: ModelConfig) -> tuple[Autoencoder, Quantizer, torch.Tensor]:
    """KLT and k-means on smooth noise, and the latents they were fitted to."""
    torch.manual_seed(0)
    coarse = torch.rand(24, 3, 8, 8)
    x = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    x = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    autoencoder, quantizer = Autoencoder(config), Quantizer(config)
    autoencoder.initialise(x)
    latent = autoencoder.transform(x)[:, : autoencoder.dim].contiguous()
    quantizer.initialise(latent, torch.linspace(0, 100, 24))
    return autoencoder, quantizer, latent


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


def test_nearest_code_and_zero_code() -> None:
    config = TINY["vq-vae"]
    _, quantizer, latent = prepared(config)
    codebook = quantizer.buffer("codebook", 0)
    assert (codebook[0] == 0).all()
    vectors = quantizer.gather(latent, 8)
    free = torch.zeros(len(latent), len(codebook))
    indices = quantizer.assign(0, vectors, torch.full((len(latent),), 50.0), free)
    slow = torch.cdist(vectors, codebook.expand(len(latent), -1, -1)).argmin(2)
    assert (indices == slow).float().mean() > 0.999  # ties and rounding
    never = torch.full_like(free, 1e6)
    never[:, 0] = 0
    assert (quantizer.assign(0, vectors, torch.full((len(latent),), 50.0), never) == 0).all()


def test_higher_quality_spends_bits_and_lowers_error() -> None:
    _, quantizer, latent = prepared(TINY["residual"])
    low, high = (quantizer(latent, torch.full((len(latent),), q)) for q in (0.0, 100.0))
    assert low.bits.sum() < high.bits.sum()
    assert (latent - low.latent).square().sum() > (latent - high.latent).square().sum()


def test_update_moves_codebooks_and_revives_dead_codes() -> None:
    torch.manual_seed(1)
    _, quantizer, latent = prepared(TINY["vq-vae"])
    quantizer.buffer("codebook", 0)[5] = 1e3  # far from everything: nobody chooses it
    quantizer.buffer("code_count", 0)[5] = 0.0
    before = quantizer.buffer("codebook", 0).clone()
    quantizer.update(latent, torch.full((len(latent),), 90.0))
    after = quantizer.buffer("codebook", 0)
    assert after[5].abs().max() < 100
    assert not torch.equal(before, after)
    assert (after[0] == 0).all()


@pytest.mark.parametrize("name", ["vq-vae-2", "residual"])
def test_geometry_maps_coarse_latents_to_fine_ones(name: str) -> None:
    config = TINY[name]
    _, quantizer, latent = prepared(config)
    _, _, steps = quantizer.geometry()
    for coarse, fine in zip(config.strides, config.strides[1:], strict=False):
        factor, dim = coarse // fine, config.latent_dim(fine)
        vectors = quantizer.gather(latent, coarse)  # (B, n, D_coarse)
        height = 64 // coarse
        spread = quantizer.scatter(vectors, coarse, *latent.shape[2:])
        want = quantizer.gather(spread, fine).reshape(len(latent), 64 // fine, 64 // fine, dim)
        got = (vectors @ steps[fine].T).reshape(-1, height, height, factor, factor, dim)
        got = got.permute(0, 1, 3, 2, 4, 5).reshape(want.shape)
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
