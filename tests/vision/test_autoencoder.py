"""The autoencoder: its loss against the formula, and what the penalty on z does."""

import numpy as np
import pytest
import torch

from worldmodels.types import Posterior
from worldmodels.vision import VAE, Autoencoder, AutoencoderConfig, VAEConfig


@pytest.fixture
def frames():
    return torch.randint(256, (5, 64, 64, 3), dtype=torch.uint8)


@pytest.mark.parametrize("z_size", (32, 64))
def test_it_has_the_vaes_parameters_but_for_the_log_variance(z_size):
    count = lambda vision: sum(p.numel() for p in vision.parameters())
    assert count(VAE(VAEConfig(z_size=z_size))) - count(Autoencoder(AutoencoderConfig(z_size=z_size))) == 1025 * z_size


@pytest.mark.parametrize("z_size, parameters", ((32, 4_315_747), (64, 4_381_315)))
def test_its_number_of_parameters(z_size, parameters):
    assert sum(p.numel() for p in Autoencoder(AutoencoderConfig(z_size=z_size)).parameters()) == parameters


def test_a_frame_is_encoded_as_a_point(frames):
    posterior = Autoencoder(AutoencoderConfig(z_size=7, channels=2)).encode(frames)
    assert posterior.mean.shape == (5, 7) and posterior.log_var is None


def test_the_loss_is_squared_errors_plus_the_weighted_square_of_z(frames):
    """By hand, image by image."""
    vision = Autoencoder(AutoencoderConfig(z_size=4, channels=2, z_weight=30.0))
    vision.posterior.weight.data *= 20
    z = vision.encode(frames).mean.detach()
    pictures = vision.decoder(z).permute(0, 2, 3, 1).detach().double().numpy()
    errors = [((picture - frame.numpy() / 255) ** 2).sum() for picture, frame in zip(pictures, frames)]
    squares = [sum(value**2 for value in row) for row in z.tolist()]

    loss, metrics = vision.loss(frames, torch.Generator())
    assert 30 / 2 * np.mean(squares) > 1e-3 * np.mean(errors)           # what the test would notice the lack of
    assert loss.item() == pytest.approx(np.mean(errors) + 30 / 2 * np.mean(squares), rel=1e-5)
    assert metrics["squared_error"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert metrics["z_square"].item() == pytest.approx(np.mean(squares) / 4, rel=1e-4)


def test_the_prior_is_half_the_weighted_square_of_z():
    vision = Autoencoder(AutoencoderConfig(z_size=2, channels=2, z_weight=0.5))
    assert vision.prior(Posterior(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))).tolist() == [6.25, 1.0]


def test_no_chance_is_in_the_loss(frames):
    """It neither depends on the generator nor draws from it."""
    vision, generator = Autoencoder(AutoencoderConfig(z_size=4, channels=2)), torch.Generator().manual_seed(3)
    before, default = generator.get_state(), torch.get_rng_state()
    losses = [vision.loss(frames, g)[0] for g in (generator, torch.Generator().manual_seed(4))]
    assert torch.equal(*losses)
    assert torch.equal(generator.get_state(), before) and torch.equal(torch.get_rng_state(), default)


def test_a_large_weight_pulls_z_towards_zero():
    """The pictures are learnt all the same: the decoder makes up for it."""
    frames = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    for i in range(4):
        frames[i, :, 16 * i:16 * i + 16] = 255
    z_square = []
    for z_weight in (0.1, 100.0):
        torch.manual_seed(0)
        vision = Autoencoder(AutoencoderConfig(z_size=4, channels=8, z_weight=z_weight))
        optimizer = torch.optim.Adam(vision.parameters(), 3e-3)
        for step in range(100):
            loss, metrics = vision.loss(frames, torch.Generator())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        z_square.append(metrics["z_square"].item())
        assert metrics["squared_error"].item() < 800                    # 3,072 at first
    assert z_square[0] > 30 * z_square[1]
