import torch
from helpers import TINY

from vqcodec.networks.autoencoder import Autoencoder


def test_untrained_network_is_an_orthonormal_transform() -> None:
    torch.manual_seed(0)
    config = TINY["residual"]  # base stride 4, 12 of 48 coordinates kept
    autoencoder = Autoencoder(config)
    coarse = torch.rand(16, 3, 4, 4)
    x = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    autoencoder.initialise(x)
    quality = torch.full((16,), 50.0)
    with torch.no_grad():
        latent = autoencoder.encode(x, quality)
        back = autoencoder.decode(latent, quality)
        # Latent distance is pixel distance: Parseval, up to the coordinates left out.
        kept = latent.square().sum()
        lost = (x - back).square().sum()
    assert latent.shape == (16, 12, 8, 8)
    torch.testing.assert_close(kept + lost, (x - 0.5).square().sum(), rtol=1e-3, atol=1e-3)
    assert lost < 0.02 * kept


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY["vq-vae"])
    for parameter in autoencoder.parameters():  # leave the zero start, where branches are cut off
        torch.nn.init.normal_(parameter, std=0.1)
    x, quality = torch.rand(2, 3, 32, 32), torch.tensor([0.0, 100.0])
    autoencoder.decode(autoencoder.encode(x, quality), quality).square().sum().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
