"""The mixture density head against closed forms."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from worldmodels.memory import mixture


def raw(logits, mu, log_sigma):
    """[..., K, Z] each -> the head's output [..., 3*K*Z]."""
    return torch.stack([logits, mu, log_sigma], -3).flatten(-3)


def sample(out, z_size, temperature, seed=0):
    """Samples of the mixtures `out` [N, 3*K*Z] with the noise of a seed."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(out), z_size
    uniform, normal = torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)
    return mixture.sample(out, temperature, uniform, normal)


def log_prob(out, z):
    """log p(z) of each dimension."""
    return -mixture.nll(out, z)[0]


def torchs_log_prob(out, z):
    """The same by torch's own distributions."""
    logits, mu, log_sigma = (t.transpose(-1, -2) for t in out.unflatten(-1, (3, -1, z.shape[-1])).unbind(-3))
    return MixtureSameFamily(Categorical(logits=logits), Normal(mu, log_sigma.exp())).log_prob(z)


def test_the_density_and_its_gradient_equal_those_of_torchs_mixture():
    out = torch.randn(12, 3 * 5 * 4, dtype=torch.float64, requires_grad=True)           # K = 5, Z = 4
    z = 2 * torch.randn(12, 4, dtype=torch.float64)
    value, gradient = mixture.nll(out.detach(), z)
    expected = -torchs_log_prob(out, z)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), out)[0])


def test_one_component_is_a_normal_density():
    mu, log_sigma, z = torch.randn(3, 7, 1, 3)
    reference = Normal(mu[:, 0], log_sigma[:, 0].exp()).log_prob(z[:, 0])
    torch.testing.assert_close(log_prob(raw(torch.randn(7, 1, 3), mu, log_sigma), z[:, 0]), reference)


def test_the_density_integrates_to_one():
    logits, mu, log_sigma = torch.randn(3, 5, 2, dtype=torch.float64)
    z = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    density = log_prob(raw(logits, mu, log_sigma).expand(len(z), -1), z[:, None].expand(-1, 2)).exp()
    torch.testing.assert_close(torch.trapezoid(density, z, dim=0), torch.ones(2, dtype=torch.float64))


def test_extreme_outputs_give_a_finite_likelihood_and_gradient():
    out = torch.tensor([[1e4, -1e4, 5.0, -5.0, -1e4, 1e4]])                             # K = 2, Z = 1
    value, gradient = mixture.nll(out, torch.tensor([[3.0]]))
    assert value.isfinite().all() and gradient.isfinite().all()
    assert not gradient[0, 4:].any()                                                    # log sigma beyond its bound


@pytest.mark.parametrize("tau", (0.25, 1.0, 1.5))
def test_temperature_scales_the_variance_of_one_component(tau):
    mu, log_sigma = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.3, -1.0]])
    out = raw(torch.zeros(1, 2), mu, log_sigma).expand(60_000, -1)
    z = sample(out, 2, tau)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), tau * (2 * log_sigma[0]).exp(), atol=0, rtol=0.03)


@pytest.mark.parametrize("tau", (0.25, 1.0, 1.5))
def test_components_are_drawn_as_pi_to_the_power_of_one_over_tau(tau):
    """Three components far apart, other weights in each of two dimensions."""
    pi = torch.tensor([[0.6, 0.1], [0.3, 0.1], [0.1, 0.8]])                             # [K, Z]
    mu = torch.tensor([[-10.0], [0.0], [10.0]]).expand(3, 2)
    out = raw(pi.log() + 3, mu, torch.full((3, 2), -3.0)).expand(60_000, -1)
    z = sample(out, 2, tau)
    frequency = torch.stack([((z - mu[k]).abs() < 3).float().mean(0) for k in range(3)])
    expected = pi ** (1 / tau) / (pi ** (1 / tau)).sum(0)
    torch.testing.assert_close(frequency, expected, atol=0.01, rtol=0)


def test_dimensions_are_drawn_independently():
    out = raw(torch.zeros(2, 2), torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), torch.full((2, 2), -3.0)).expand(40_000, -1)
    z = sample(out, 2, 1.0)
    assert abs(torch.corrcoef(z.T)[0, 1]) < 0.02


def test_the_uniform_number_picks_the_component():
    """Cumulated weights 0.2, 0.5, 1: each component between them, the first at 0 and the last at the greatest number
    below 1."""
    pi, mu = torch.tensor([[0.2], [0.3], [0.5]]), torch.tensor([[1.0], [2.0], [3.0]])
    out = raw(pi.log(), mu, torch.zeros(3, 1)).expand(7, -1)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 0.99, 1 - 2**-24])[:, None]
    assert mixture.sample(out, 1.0, uniform, torch.zeros(7, 1))[:, 0].tolist() == [1, 1, 2, 2, 3, 3, 3]


def test_the_mean_log_density_of_samples_is_minus_the_entropy():
    """Sampling and density speak of the same mixture (Monte Carlo against the integral)."""
    out = torch.randn(3 * 5 * 1, dtype=torch.float64)
    grid = torch.linspace(-60, 60, 100_001, dtype=torch.float64)
    log_p = log_prob(out.expand(len(grid), -1), grid[:, None])[:, 0]
    entropy = -torch.trapezoid(log_p.exp() * log_p, grid)
    z = sample(out.expand(100_000, -1), 1, 1.0).double()
    assert -log_prob(out.expand(100_000, -1), z).mean().item() == pytest.approx(entropy.item(), abs=0.02)


def test_the_mean_at_temperature_one_is_that_of_torchs_mixture():
    out = torch.randn(6, 3 * 5 * 4, dtype=torch.float64)                                # K = 5, Z = 4
    found = mixture.mean(out, 4, 1.0)
    torch.testing.assert_close(found, mixture.distribution(out, 4).mean)
    torch.testing.assert_close(mixture.mean(out.view(2, 3, -1), 4, 1.0), found.view(2, 3, 4))


@pytest.mark.parametrize("tau", (0.25, 1.0, 1.5))
def test_the_mean_weighs_components_by_pi_to_the_power_of_one_over_tau(tau):
    """By formula, and as the mean of samples."""
    pi = torch.tensor([[0.6, 0.1], [0.3, 0.1], [0.1, 0.8]])                             # [K, Z]
    mu = torch.tensor([[-1.0, 4.0], [0.5, 1.0], [2.0, -3.0]])
    out = raw(pi.log() + 3, mu, torch.full((3, 2), -2.0))
    weights = pi ** (1 / tau)
    expected = (weights * mu).sum(0) / weights.sum(0)
    torch.testing.assert_close(mixture.mean(out, 2, tau), expected)
    torch.testing.assert_close(sample(out.expand(60_000, -1), 2, tau).mean(0), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 1.7))
def test_a_samples_gradient_is_that_of_expectations(temperature):
    """Of E[z^2] and of P(z < 0.3), softened, by every parameter: against derivatives of the integrals."""
    logits, mu, log_sigma = torch.randn(3, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 2
    out = raw(logits, mu, log_sigma).requires_grad_()
    count, z = 400_000, torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    for worth in (torch.square, lambda z: torch.sigmoid(4 * (0.3 - z))):
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        normal = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        drawn = mixture.sample(out.expand(count, -1), temperature, uniform, normal)
        found, = torch.autograd.grad(worth(drawn).mean(), out)
        logits, mu, log_sigma = out.unflatten(-1, (3, 3, 1)).unbind(-3)
        sigma = temperature**0.5 * log_sigma.exp()
        density = (torch.softmax(logits / temperature, 0) * Normal(mu, sigma).log_prob(z).exp()).sum(0)
        expected, = torch.autograd.grad(torch.trapezoid(density * worth(z), z), out)
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0.02)


def test_a_sample_moves_with_its_mixture():
    """Moved by d, or stretched by s, it is the sample moved or stretched: the gradient by all means is 1, that by all
    log sigmas and, about zero, all means is z."""
    logits, mu, log_sigma = torch.randn(3, 50, 4, 6, dtype=torch.float64)
    out = raw(logits, mu, log_sigma).requires_grad_()
    z = sample(out, 6, 1.0)
    gradient, = torch.autograd.grad(z.sum(), out)
    d_logits, d_mu, d_log_sigma = gradient.unflatten(-1, (3, 4, 6)).unbind(-3)
    torch.testing.assert_close(d_mu.sum(-2), torch.ones(50, 6, dtype=torch.float64))
    torch.testing.assert_close((d_mu * mu + d_log_sigma).sum(-2), z.detach())
    torch.testing.assert_close(d_logits.sum(-2), torch.zeros(50, 6, dtype=torch.float64), atol=1e-9, rtol=0)
