"""The two kinds of s against their closed forms, against many draws and against torch's distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from worldmodels.memory.stochastic import LATENTS, MIN_STD, UNIFORM, Categorical, Gaussian

SIZE, CLASSES, MANY = 3, 4, 100_000


def distribution(kind, parameters):
    """What `parameters` describe, as torch has it."""
    if kind == "gaussian":
        mean, raw = parameters.chunk(2, -1)
        return Independent(Normal(mean, 2 / (1 + torch.exp(-raw / 2)) + MIN_STD), 1)
    p = torch.exp(parameters.unflatten(-1, (SIZE, CLASSES)))
    p = p / p.sum(-1, keepdim=True)
    return Independent(TorchCategorical(probs=0.99 * p + 0.01 / CLASSES), 1)


@pytest.fixture(params=LATENTS)
def kind(request):
    return request.param


@pytest.fixture
def latent(kind):
    return LATENTS[kind](SIZE, CLASSES)


def random_parameters(latent, *shape):
    return 2 * torch.randn(*shape, latent.parameters, dtype=torch.float64)


def noise(latent, *shape):
    """Of draws of s, [*shape, noise_size]."""
    return latent.random(*shape, latent.noise_size, dtype=torch.float64)


def test_the_sizes_are_those_of_parameters_noise_and_draws(latent, kind):
    assert latent.parameters == {"gaussian": 2 * SIZE, "categorical": SIZE * CLASSES}[kind]
    assert latent.size == {"gaussian": SIZE, "categorical": SIZE * CLASSES}[kind]
    parameters = random_parameters(latent, 2, 5)
    assert latent.sample(parameters, 1.0, noise(latent, 2, 5)).shape == (2, 5, latent.size)
    assert latent.mean(parameters).shape == (2, 5, latent.size)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 4.0))
def test_gaussian_draws_have_the_stated_mean_and_a_variance_that_grows_with_the_temperature(temperature):
    latent, mean, raw = Gaussian(3, 0), torch.tensor([-2.0, 0.0, 5.0]), torch.tensor([-20.0, 0.0, 3.0])
    std = torch.tensor([0.1 + 2 / (1 + math.exp(10)), 1.1, 0.1 + 2 / (1 + math.exp(-1.5))])
    parameters = torch.cat([mean, raw]).double()
    torch.testing.assert_close(torch.stack(latent.moments(parameters)), torch.stack([mean, std]).double())
    assert torch.equal(latent.mean(parameters), mean.double())
    draws = latent.sample(parameters, temperature, noise(latent, MANY))
    spread = temperature**0.5 * std
    assert ((draws.mean(0) - mean).abs() < 5 * spread / MANY**0.5).all()
    assert (draws.var(0) / spread.square() - 1).abs().max() < 5 * (2 / MANY)**0.5


@pytest.mark.parametrize("temperature", (0.5, 1.0, 4.0))
def test_categorical_draws_have_the_mean_and_the_variance_of_their_probabilities(temperature):
    latent = Categorical(SIZE, CLASSES)
    logits = random_parameters(latent)
    p = distribution("categorical", logits / temperature).base_dist.probs.flatten()
    draws = latent.sample(logits, temperature, noise(latent, MANY))
    variance = p * (1 - p)
    assert ((draws.mean(0) - p).abs() < 5 * (variance / MANY)**0.5).all()
    assert ((draws.var(0) - variance).abs() < 5 * (variance / MANY)**0.5).all()
    torch.testing.assert_close(latent.mean(logits / temperature), p)


def test_groups_are_drawn_independently_of_each_other():
    latent = Categorical(2, 2)
    draws = latent.sample(torch.zeros(4).double(), 1.0, noise(latent, MANY)).unflatten(-1, (2, 2))
    both = torch.einsum("ni,nj->ij", draws[:, 0], draws[:, 1]) / MANY
    assert (both - 0.25).abs().max() < 5 * 0.25**0.5 / MANY**0.5


def test_the_divergence_is_that_of_torch(latent, kind):
    q, p = random_parameters(latent, 7, 5), random_parameters(latent, 7, 5)
    expected = kl_divergence(distribution(kind, q), distribution(kind, p))
    torch.testing.assert_close(latent.kl(q, p), expected, rtol=1e-10, atol=1e-12)


def test_the_divergence_is_of_each_of_several_priors(latent):
    """As in the loss: one posterior [B, n] beside priors [heads, B, n]."""
    q, p = random_parameters(latent, 5), random_parameters(latent, 2, 5)
    torch.testing.assert_close(latent.kl(q, p), torch.stack([latent.kl(q, p[0]), latent.kl(q, p[1])]))


def test_the_divergences_gradients_are_those_of_torch(latent, kind):
    q, p = (random_parameters(latent, 5).requires_grad_() for _ in range(2))
    found = torch.autograd.grad(latent.kl(q, p).sum(), (q, p))
    expected = torch.autograd.grad(kl_divergence(distribution(kind, q), distribution(kind, p)).sum(), (q, p))
    torch.testing.assert_close(found, expected)


def test_the_divergence_is_zero_of_itself_and_positive_of_others(latent):
    q, p = random_parameters(latent, 200), random_parameters(latent, 200)
    assert (latent.kl(q, p) > 0).all()
    assert latent.kl(q, q).abs().max() < 1e-14


def test_the_divergence_is_finite_at_any_parameters(latent):
    """A standard deviation never falls below MIN_STD, nor a probability below UNIFORM / classes."""
    q, p = 1e3 * random_parameters(latent, 200), 1e3 * random_parameters(latent, 200)
    kl = latent.kl(q, p)
    assert kl.isfinite().all()
    if latent.random is torch.rand:
        assert kl.max() <= SIZE * math.log(CLASSES / UNIFORM)


def test_no_probability_falls_below_the_share_of_the_uniform_distribution():
    latent = Categorical(1, 5)
    p = latent.probabilities(torch.tensor([1e4, 0.0, 0.0, -1e4, 0.0]).double())[0]
    torch.testing.assert_close(p[1:], torch.full((4,), UNIFORM / 5).double())
    assert p[0].item() == pytest.approx(1 - 4 * UNIFORM / 5)
    p = latent.probabilities(5 * torch.randn(1000, 5).double())
    assert p.min() >= UNIFORM / 5
    torch.testing.assert_close(p.sum(-1), torch.ones(1000, 1).double())


def test_evenly_spread_uniform_numbers_give_each_class_its_probability():
    latent, many = Categorical(1, CLASSES), 10_000
    logits = torch.tensor([1.0, -2.0, 0.5, -8.0]).double()
    uniform = (torch.arange(many).double() + 0.5)[:, None] / many
    share = latent.sample(logits, 1.0, uniform).mean(0)
    assert (share - latent.probabilities(logits)[0]).abs().max() <= 1 / many


def test_the_least_and_the_greatest_uniform_number_draw_the_first_and_the_last_class():
    """Also where the rounded sum of the probabilities is below 1."""
    latent = Categorical(1, 100)
    logits = torch.randn(1000, 100)
    for uniform, class_ in ((0.0, 0), (1 - 2**-24, 99)):
        assert (latent.sample(logits, 1.0, torch.full((1000, 1), uniform)).argmax(-1) == class_).all()


def test_a_draw_is_one_class_of_each_group_but_for_rounding():
    latent = Categorical(SIZE, CLASSES)
    draws = latent.sample(random_parameters(latent, 1000), 1.0, noise(latent, 1000)).unflatten(-1, (SIZE, CLASSES))
    one_hot = torch.nn.functional.one_hot(draws.argmax(-1), CLASSES).double()
    assert torch.equal(draws, one_hot)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 2.0))
def test_gradients_go_straight_through_to_the_probabilities(temperature):
    latent = Categorical(SIZE, CLASSES)
    logits = random_parameters(latent, 5).requires_grad_()
    weight = torch.randn(5, latent.size).double()
    through, = torch.autograd.grad((weight * latent.sample(logits, temperature, noise(latent, 5))).sum(), logits)
    expected, = torch.autograd.grad((weight * latent.mean(logits / temperature)).sum(), logits)
    assert through.abs().min() > 0
    torch.testing.assert_close(through, expected)


@pytest.mark.parametrize("temperature", (0.5, 2.0))
def test_the_temperature_divides_the_logits(temperature):
    latent = Categorical(SIZE, CLASSES)
    logits, uniform = random_parameters(latent, 1000), noise(latent, 1000)
    hot = latent.sample(logits, temperature, uniform)
    torch.testing.assert_close(hot, latent.sample(logits / temperature, 1.0, uniform))
    assert (hot - latent.sample(logits, 1.0, uniform)).abs().max() > 0.5


@pytest.mark.parametrize("temperature", (0.25, 4.0))
def test_gaussian_draws_at_a_temperature_lie_its_root_times_as_far_from_the_mean(temperature):
    latent = Gaussian(SIZE, CLASSES)
    parameters, normal = random_parameters(latent, 5), noise(latent, 5)
    cold, hot = (latent.sample(parameters, tau, normal) - latent.mean(parameters) for tau in (1.0, temperature))
    torch.testing.assert_close(hot, temperature**0.5 * cold)
