"""perception.py: the weights that SSIM asks for, and a gradient that raises MS-SSIM."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY

from vqcodec.encoder import perception
from vqcodec.encoder.perception import dissimilarity, distortion, weights_for
from vqcodec.training.drawings import draw

SSIM = replace(TINY["residual"], tune="ssim")  # finest stride 4


def picture(side: int) -> torch.Tensor:
    rgb = torch.from_numpy(draw(np.random.default_rng(7), side))
    return rgb.permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("height", "width"), [(161, 200), (176, 176), (192, 330)])
def test_dissimilarity_is_one_minus_ms_ssim(height: int, width: int) -> None:
    torch.manual_seed(0)
    measure = pytest.importorskip("pytorch_msssim").ms_ssim
    x = picture(330)[:, :, :height, :width]
    for noise in (0.01, 0.1):
        y = (x + noise * torch.randn_like(x)).clamp(0, 1)
        x2, y2 = torch.cat([x, y]), torch.cat([y, y.roll(1, 2)])
        want = 1 - measure(x2, y2, data_range=1.0, size_average=False)
        torch.testing.assert_close(dissimilarity(x2, y2), want, rtol=1e-3, atol=1e-5)


def test_maps_made_again_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x = picture(100)
    y = (x + 0.1).clamp(0, 1).requires_grad_()
    gradients: list[torch.Tensor] = []
    for kept in (0, 2**19):
        monkeypatch.setattr(perception, "KEPT_PIXELS", kept)
        gradients += torch.autograd.grad(dissimilarity(y, x).sum(), y)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (16, 200), (40, 24), (100, 100)])
def test_small_pictures_have_a_dissimilarity_too(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = picture(200)[:, :, : shape[0], : shape[1]]
    assert abs(float(dissimilarity(x, x))) < 1e-5
    near, far = (
        dissimilarity(x, (x + noise * torch.randn_like(x)).clamp(0, 1)) for noise in (0.02, 0.2)
    )
    assert 0 < near < far < 1


def test_weights_are_low_where_texture_hides_errors() -> None:
    torch.manual_seed(0)
    x = torch.full((1, 3, 32, 64), 0.5)
    x[:, :, :, 32:] += 0.3 * torch.randn(1, 3, 32, 32)
    weights = weights_for(SSIM, x)
    assert weights is not None and weights.shape == (1, 8, 16)
    assert (weights[..., :7] > 2.7).all() and (weights[..., 9:] < 0.4).all()
    typical = torch.full_like(x, 0.5)
    typical[..., ::2] += 2 * 0.003**0.5  # a variance of 0.003
    middle = weights_for(SSIM, typical)
    assert middle is not None
    torch.testing.assert_close(middle[:, 1:-1, 1:-1], torch.ones(1, 6, 14), rtol=0.01, atol=0)
    assert weights_for(TINY["residual"], x) is None


def test_without_weights_distortion_is_squared_error() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 16, 16)
    want = (x - y).square().flatten(1).sum(1)
    for part in distortion(x, y, None):
        torch.testing.assert_close(part, want)


def test_with_weights_its_value_is_weighted_and_its_gradient_raises_ms_ssim() -> None:
    torch.manual_seed(0)
    x = picture(200)[:, :, :192, :192]
    y = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    weights = weights_for(SSIM, x)
    assert weights is not None
    found, _ = distortion(y, x, weights)
    each = weights.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    torch.testing.assert_close(
        found, ((y - x).square() * each).flatten(1).sum(1), rtol=1e-4, atol=0
    )
    (gradient,) = torch.autograd.grad(found.sum(), y)
    (plain,) = torch.autograd.grad(distortion(y, x, None)[0].sum(), y)

    def after(direction: torch.Tensor) -> float:
        """1 - MS-SSIM after a step of the same squared length."""
        return float(dissimilarity(y - 0.5 * direction / direction.norm(), x))

    with torch.no_grad():
        assert after(gradient) < after(plain) < float(dissimilarity(y, x))


def test_results_are_compared_by_what_the_gradient_lowers() -> None:
    """By the logarithms of both errors: a tenth of the squared one's, the rest MS-SSIM's."""
    torch.manual_seed(0)
    x = picture(200)[:, :, :192, :192]
    weights = weights_for(SSIM, x)
    brighter, noisy = x + 0.03, x + 0.02 * torch.randn_like(x)
    (squares, shift), (fewer, noise) = (distortion(y, x, weights) for y in (brighter, noisy))
    assert squares > 2 * fewer and shift < noise / 10
    unlike = dissimilarity(brighter, x) / dissimilarity(noisy, x)
    torch.testing.assert_close(shift / noise, (squares / fewer) ** 0.1 * unlike**0.9)
