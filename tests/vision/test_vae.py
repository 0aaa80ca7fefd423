"""V against the paper's numbers and its loss against the formula."""

import math

import numpy as np
import pytest
import torch

from worldmodels.training import cpu_has_bfloat16
from worldmodels.types import Posterior
from worldmodels.vision import VAE, VAEConfig
from worldmodels.vision.encoder import frozen_encoder
from worldmodels.vision.train import encode


@pytest.fixture
def frames():
    return torch.randint(256, (5, 64, 64, 3), dtype=torch.uint8)


@pytest.mark.parametrize("z_size, parameters", ((32, 4_348_547), (64, 4_446_915)))
def test_it_has_the_papers_number_of_parameters(z_size, parameters):
    assert sum(p.numel() for p in VAE(VAEConfig(z_size=z_size)).parameters()) == parameters


def test_its_weights_can_begin_as_tensorflows():
    """Glorot's uniform distribution: as wide as sqrt(6 / (fan_in + fan_out)), for a transposed convolution too."""
    vision = VAE(VAEConfig(initial_weights="tensorflow"))
    fans = {"encoder.2": (32 * 16, 64 * 16), "decoder.4": (128 * 25, 64 * 25), "posterior": (1024, 64)}
    for name, module in vision.named_modules():
        if name in fans:
            limit = math.sqrt(6 / sum(fans[name]))
            assert 0.98 * limit < module.weight.abs().max() <= limit
            assert abs(module.weight.std() - limit / math.sqrt(3)) < 0.02 * limit
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="needs a CPU with bfloat16")
def test_in_bfloat16_it_is_the_same_to_3_digits(frames):
    exact, rounded = (VAE(VAEConfig(precision=precision)) for precision in ("float32", "bfloat16"))
    rounded.load_state_dict(exact.state_dict())
    whole, fast = exact.encode(frames), rounded.fast_encoder()(frames)
    for a, b, c in zip(whole, fast, rounded.encode(frames)):
        assert b.dtype == c.dtype == torch.float32
        assert 0 < (a - b).abs().max() < 0.02 * a.abs().max() and (a - c).abs().max() < 0.02 * a.abs().max()
    loss, other = (v.loss(frames, torch.Generator().manual_seed(3))[0] for v in (exact, rounded))
    assert 0 < abs(loss - other) < 1e-3 * loss


def test_shapes(frames):
    vision = VAE(VAEConfig(z_size=7))
    mu, log_var = vision.encode(frames)
    assert mu.shape == log_var.shape == (5, 7) and mu.dtype == torch.float32
    picture = vision.decode(mu)
    assert picture.shape == frames.shape and picture.dtype == torch.uint8


def test_a_frame_is_encoded_on_its_own(frames):
    vision = VAE(VAEConfig(z_size=7))
    whole, alone = vision.encode(frames), vision.encode(frames[2:3])
    for a, b in zip(whole, alone):
        torch.testing.assert_close(a[2:3], b, atol=1e-5, rtol=1e-4)
    assert (whole[0][0] - whole[0][1]).abs().max() > 1e-4


@pytest.mark.parametrize("settings", ({}, {"z_size": 5, "channels": 8}))
@pytest.mark.parametrize("batch", (1, 3, 32))
def test_the_frozen_encoder_is_the_encoder(settings, batch):
    vision = VAE(VAEConfig(**settings)).requires_grad_(False)
    for parameter in vision.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frames = torch.randint(256, (batch, 64, 64, 3), dtype=torch.uint8)
    encode, expected = frozen_encoder(vision), vision.encode(frames)
    for a, b in zip(encode(frames), expected):
        assert a.shape == b.shape and b.abs().max() > 0.1
        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


def test_the_loss_is_squared_errors_plus_the_kl_above_its_floor(frames):
    """By hand, image by image, with a floor that lies between the KLs of the images."""
    vision = VAE(VAEConfig(z_size=4))
    vision.posterior.weight.data *= 20
    mu, log_var = vision.encode(frames)
    z = mu + torch.exp(log_var / 2) * torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    pictures = vision.decoder(z).permute(0, 2, 3, 1).detach().double().numpy()
    errors = [((picture - frame.numpy() / 255) ** 2).sum() for picture, frame in zip(pictures, frames)]
    kls = [sum(0.5 * (math.exp(v) + m * m - 1 - v) for m, v in zip(*row)) for row in zip(mu.tolist(), log_var.tolist())]
    floor = sorted(kls)[2] + 1e-3

    vision.config = VAEConfig(z_size=4, kl_floor=floor / 4)
    loss, metrics = vision.loss(frames, torch.Generator().manual_seed(3))
    assert loss.item() == pytest.approx(sum(e + max(kl, floor) for e, kl in zip(errors, kls)) / 5, rel=1e-5)
    assert metrics["squared_error"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert metrics["kl"].item() == pytest.approx(np.mean(kls), rel=1e-4)


def test_below_its_floor_the_kl_has_no_gradient(frames):
    for kl_floor, pulled in ((1e6, False), (0.0, True)):
        vision = VAE(VAEConfig(z_size=4, kl_floor=kl_floor))
        vision.decoder[0].weight.data.zero_()                   # the picture says nothing of z
        vision.loss(frames, torch.Generator().manual_seed(0))[0].backward()
        assert bool(vision.posterior.weight.grad.abs().sum() > 0) == pulled


def test_the_prior_is_the_kl_without_its_floor():
    """KL(N(2, e) || N(0, 1)) = (e + 4 - 1 - 1) / 2, and of N(0, 1) it is 0."""
    vision = VAE(VAEConfig(z_size=3, channels=2, kl_floor=100.0))
    mean, log_var = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(vision.prior(Posterior(mean, log_var)), torch.tensor([(math.e + 2) / 2, 0]))


def test_a_few_steps_of_training_lower_the_loss():
    frames = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    for i in range(16):
        frames[i, :, 4 * i:4 * i + 4] = 255
    vision = VAE(VAEConfig(z_size=4))
    optimizer = torch.optim.Adam(vision.parameters(), 1e-3)
    losses = []
    for step in range(20):
        loss, _ = vision.loss(frames, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_sampled_latents_have_the_stated_mean_and_variance():
    mu, log_var = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.0, -2.0, 1.0])
    normal = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    z = Posterior(mu.expand(40_000, 3), log_var.expand(40_000, 3)).sample(normal)
    torch.testing.assert_close(z.mean(0), mu, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), log_var.exp(), atol=0, rtol=0.04)


def test_encoding_in_batches_equals_encoding_at_once(frames):
    vision = VAE(VAEConfig(z_size=7))
    mu, log_var = encode(vision, frames.numpy(), batch=2)
    assert mu.shape == log_var.shape == (5, 7) and mu.dtype == torch.float32
    torch.testing.assert_close(mu, vision.encode(frames).mean.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_var, vision.encode(frames).log_var.detach(), atol=1e-5, rtol=1e-5)


def test_episodes_of_all_lengths_are_encoded_in_batches_of_few_sizes(frames):
    """Whatever is filled up is cut off again."""
    vision = VAE(VAEConfig(z_size=3, channels=2))

    class Watched:
        parameters, sizes = vision.parameters, set()

        def encode(self, frames):
            self.sizes.add(len(frames))
            return vision.encode(frames)

    watched, frames = Watched(), frames.numpy()[:1].repeat(90, 0)
    for length in range(1, 90):
        mu, log_var = encode(watched, frames[:length], batch=48)
        assert len(mu) == len(log_var) == length
    assert watched.sizes == {16, 32, 48}
