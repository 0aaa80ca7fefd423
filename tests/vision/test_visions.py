"""What every kind of vision keeps to: the conformance tests of VISIONS."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldmodels.runs import Run
from worldmodels.types import Posterior
from worldmodels.vision import VISIONS
from worldmodels.vision.train import encode, train_vision

B, Z = 5, 6
VARIANTS = {                                    # the settings that each kind is tested with
    "vae": {"": {"channels": 4, "kl_floor": 0.0}, "paper's width": {"kl_floor": 0.0}},
    "autoencoder": {"": {"channels": 4, "z_weight": 100.0}, "paper's width": {}},
}


@pytest.fixture(params=[pytest.param((kind, settings), id=f"{kind} {name}".strip())
                        for kind, variants in VARIANTS.items() for name, settings in variants.items()])
def vision(request):
    kind, settings = request.param
    return VISIONS[kind](VISIONS[kind].Config(z_size=Z, **settings))


@pytest.fixture
def frames():
    return torch.randint(256, (B, 64, 64, 3), dtype=torch.uint8)


def parts(posterior):
    return [part for part in posterior if part is not None]


def test_every_kind_is_tested():
    assert VARIANTS.keys() == VISIONS.keys()
    assert all(cls.Config.kind == kind for kind, cls in VISIONS.items())


def test_frames_are_encoded_as_a_posterior_of_z(vision, frames):
    posterior = vision.encode(frames)
    assert isinstance(posterior, Posterior) and vision.config.z_size == Z
    for part in parts(posterior):
        assert part.shape == (B, Z) and part.dtype == torch.float32 and part.isfinite().all()
    assert posterior.sample(torch.randn(B, Z)).shape == (B, Z)


def test_latents_are_decoded_as_frames(vision):
    pictures = vision.decode(3 * torch.randn(B, Z))
    assert pictures.shape == (B, 64, 64, 3) and pictures.dtype == torch.uint8


def test_frames_and_latents_do_not_know_each_other(vision, frames):
    for a, b in zip(parts(vision.encode(frames)), parts(vision.encode(frames[2:3]))):
        torch.testing.assert_close(a[2:3], b, atol=1e-5, rtol=1e-4)
    z = torch.randn(B, Z)
    difference = vision.decode(z)[3:].int() - vision.decode(z[3:]).int()
    assert difference.abs().max() <= 1                              # to rounding


def test_different_frames_have_different_latents(vision, frames):
    mean = vision.encode(frames).mean
    assert torch.pdist(mean).min() > 1e-4


@pytest.mark.parametrize("batch", (1, 3, 16))
def test_the_fast_encoder_is_the_encoder_to_rounding(vision, batch):
    for parameter in vision.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frames = torch.randint(256, (batch, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = vision.fast_encoder()(frames), vision.encode(frames)
    assert (found.log_var is None) == (expected.log_var is None)
    for a, b in zip(parts(found), parts(expected)):
        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


def test_encoding_in_batches_is_encoding(vision, frames):
    found = encode(vision, frames.numpy(), batch=2)
    for a, b in zip(parts(found), parts(vision.encode(frames))):
        torch.testing.assert_close(a, b.detach(), atol=1e-5, rtol=1e-4)


def test_the_loss_gives_every_parameter_a_gradient(vision, frames):
    loss, metrics = vision.loss(frames, torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in vision.parameters())
    assert loss.dim() == 0 and all(value.dim() == 0 and value.isfinite() for value in metrics.values())
    assert metrics["loss"].item() == loss.item()


def test_all_chance_in_the_loss_is_that_of_the_generator(vision, frames):
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(losses))
        losses.append(vision.loss(frames, torch.Generator().manual_seed(seed))[0].item())
    assert losses[0] == losses[1]
    drawn = vision.encode(frames).log_var is not None
    assert (losses[0] != losses[2]) == drawn


def test_the_error_is_that_of_the_decoded_frame(vision, frames):
    """Each frame's own, to rounding: a decoded value is within half a step of 1/255."""
    z = 3 * torch.randn(B, Z)
    with torch.no_grad():
        found = vision.error(z, frames).double()
    difference = (vision.decode(z).double() - frames.double()).flatten(1) / 255                     # [B, 64*64*3]
    # sum (d + e)^2 - sum d^2 where |e| <= 1/510
    bound = (2 * difference.abs() / 510 + 1 / 510**2).sum(1)
    assert found.shape == (B,)
    assert ((found - difference.square().sum(1)).abs() <= bound).all() and (bound < 0.02 * found).all()
    assert torch.pdist(found[:, None]).min() > 0.1                  # so that one frame's error is not another's


def test_the_error_has_gradients_in_z_and_in_the_decoder(vision, frames):
    z = torch.randn(B, Z, requires_grad=True)
    vision.error(z, frames).sum().backward()
    assert z.grad.isfinite().all() and (z.grad.abs().sum(1) > 0).all()
    for name, parameter in vision.named_parameters():
        assert (parameter.grad is not None) == name.startswith("decoder."), name
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in vision.decoder.parameters())


def test_the_gradient_of_the_error_points_downhill(vision, frames):
    z = torch.randn(B, Z, requires_grad=True)
    error = vision.error(z, frames)
    gradient, = torch.autograd.grad(error.sum(), z)
    unit = gradient / gradient.norm(dim=1, keepdim=True)
    with torch.no_grad():
        assert (vision.error(z - 0.05 * unit, frames) < error).all()


def test_the_error_of_what_is_encoded_has_gradients_in_all_weights(vision, frames):
    vision.error(vision.encode(frames).mean, frames).sum().backward()
    for name, parameter in vision.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_the_prior_has_gradients_in_the_posterior_and_in_the_encoder_alone(vision, frames):
    posterior = vision.encode(frames)
    for part in parts(posterior):
        part.retain_grad()
    found = vision.prior(posterior)
    found.sum().backward()
    assert found.shape == (B,) and found.isfinite().all() and (found > 0).all()
    assert all((part.grad.abs().sum(1) > 0).all() for part in parts(posterior))
    for name, parameter in vision.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("decoder.")), name
    assert all(p.grad.abs().sum() > 0 for p in vision.encoder.parameters())


def test_the_prior_of_a_frame_grows_with_its_own_mean(vision, frames):
    mean, *rest = parts(vision.encode(frames))
    far = mean.clone()
    far[2] *= 3
    before, after = vision.prior(Posterior(mean, *rest)), vision.prior(Posterior(far, *rest))
    assert (after > before).tolist() == [i == 2 for i in range(B)]
    assert torch.equal(after[3:], before[3:])


def test_the_loss_is_the_error_and_the_prior(vision, frames):
    """Of a z that is sampled by the generator."""
    posterior = vision.encode(frames)
    normal = torch.randn(B, Z, generator=torch.Generator().manual_seed(3))
    expected = vision.error(posterior.sample(normal), frames) + vision.prior(posterior)
    torch.testing.assert_close(vision.loss(frames, torch.Generator().manual_seed(3))[0], expected.mean())


def test_neither_encoding_nor_decoding_nor_the_loss_changes_v(vision, frames):
    before = deepcopy(vision.state_dict())
    z = vision.encode(frames).mean
    vision.decode(z), vision.loss(frames, torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in vision.state_dict().items())
    assert torch.equal(vision.encode(frames).mean, z)


class Stripes:
    """Episodes whose frames are white but for one black stripe."""

    def frame_batches(self, batch, seed, skip):
        rng = np.random.default_rng([seed, skip])
        while True:
            place = rng.integers(16, size=(batch, 1, 1, 1))
            picture = np.arange(64)[None, None, :, None] // 4 != place
            yield np.broadcast_to(255 * picture, (batch, 64, 64, 3)).astype(np.uint8)


def test_training_lowers_the_loss_and_stores_the_checkpoint(vision, tmp_path):
    run, frames = Run(tmp_path), torch.from_numpy(next(Stripes().frame_batches(32, 9, 0)))
    vision.config = replace(vision.config, steps=25, batch=16, learning_rate=2e-3)
    before = vision.loss(frames, torch.Generator().manual_seed(0))[0].item()
    train_vision(vision, Stripes(), run, {"vision": vision.config}, 0)
    assert vision.loss(frames, torch.Generator().manual_seed(0))[0].item() < 0.7 * before
    tensors, info = run.load("vision", "train_vision")
    assert info["vision"]["kind"] == vision.config.kind
    assert all(torch.equal(tensors[name], value) for name, value in vision.state_dict().items())


def test_a_posterior_without_a_variance_is_a_point():
    mean, normal = torch.randn(2, B, Z)
    assert torch.equal(Posterior(mean).sample(normal), mean)
    assert not torch.equal(Posterior(mean, torch.zeros(B, Z)).sample(normal), mean)
    torch.testing.assert_close(Posterior(mean, torch.full((B, Z), 2.0)).sample(normal), mean + torch.e * normal)
