"""Pessimism: what a reward and an end become where M is uncertain, by formula; all else stays as it is."""

import math

import numpy as np
import pytest
import torch

from tests.memory import test_memories as conformance
from tests.memory.test_memories import A, B, Z, make, noise, same, transitions, watched
from worldmodels.memory import MEMORIES, pessimism
from worldmodels.memory.pessimism import Pessimism, PessimisticMemory, pessimism_of, recorded_uncertainty
from worldmodels.types import UserError

UNCERTAIN = {"ensemble": ("ensemble", {"disagreement": "pair"}),
             "ensemble, a member per dream": ("ensemble", {"member_per": "dream"}),
             "rssm": ("rssm", {"prior_heads": 3})}
PESSIMISM = Pessimism(0.7, 2.0)


@pytest.fixture(params=UNCERTAIN.values(), ids=UNCERTAIN)
def memory(request):
    return make(*request.param)


def imagine(memory, temperature=0.8):
    return memory.imagine(watched(memory), torch.randn(B, A).double(), temperature, noise(memory))


def test_mopo_a_reward_is_less_by_lambda_times_the_uncertainty():
    reward, p_done = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.25, 0.0, 1.0])
    uncertainty = torch.tensor([0.0, 4.0, 0.5])
    found = Pessimism(weight=0.5).of(reward, p_done, uncertainty)
    assert found[0].tolist() == [1.0, -4.0, 0.25] and torch.equal(found[1], p_done)


def test_morel_a_step_whose_uncertainty_is_above_the_limit_ends():
    """For certain; one at the limit does not."""
    reward, p_done = torch.ones(4), torch.tensor([0.25, 0.25, 0.25, 1.0])
    uncertainty = torch.tensor([1.9, 2.0, 2.1, 0.0])
    found = Pessimism(limit=2.0).of(reward, p_done, uncertainty)
    assert torch.equal(found[0], reward) and found[1].tolist() == [0.25, 0.25, 1.0, 1.0]
    assert found[1].dtype == p_done.dtype


def test_imagination_is_pessimistic_by_the_formula_and_draws_the_end_anew(memory):
    torch.manual_seed(0)
    plain = imagine(memory)
    level = Pessimism(0.7, plain.uncertainty.median().item())
    torch.manual_seed(0)
    found = imagine(PessimisticMemory(memory, level))
    torch.testing.assert_close(found.reward, plain.reward - 0.7 * plain.uncertainty)
    above = plain.uncertainty > level.limit
    assert above.any() and not above.all()
    assert torch.equal(found.p_done, torch.where(above, 1.0, plain.p_done))
    assert found.done[above].all() and torch.equal(found.done[~above], plain.done[~above])
    assert same(found.state, plain.state) and torch.equal(found.mean(), plain.mean())
    assert torch.equal(found.uncertainty, plain.uncertainty)


def test_no_pessimism_changes_no_bit(memory):
    found = []
    for each in (memory, PessimisticMemory(memory, Pessimism())):
        torch.manual_seed(0)
        found.append(imagine(each))
    plain, wrapped = found
    assert same(plain.state, wrapped.state) and torch.equal(plain.mean(), wrapped.mean())
    assert all(torch.equal(getattr(plain, name), getattr(wrapped, name))
               for name in ("reward", "p_done", "done", "uncertainty"))
    assert pessimism_of(memory) == Pessimism(0.0, math.inf)
    assert pessimism_of(PessimisticMemory(memory, PESSIMISM)) == PESSIMISM


def test_it_observes_and_learns_as_the_memory_does(memory):
    wrapped, batch = PessimisticMemory(memory, PESSIMISM), transitions()
    for name in ("config", "z_size", "action_size", "feature_sizes", "observe_noise", "imagine_noise"):
        assert getattr(wrapped, name) is getattr(memory, name)
    states = []
    for each in (memory, wrapped):
        torch.manual_seed(0)
        states.append(watched(each))
    assert same(*states) and torch.equal(wrapped.latent(states[0]), memory.latent(states[0]))
    z = torch.randn(B, Z).double()
    assert same(*(each.correct(states[0], z, noise(memory, of="observe")) for each in (memory, wrapped)))
    assert torch.equal(*(each.loss(batch, None, torch.Generator().manual_seed(0))[0] for each in (memory, wrapped)))


@pytest.mark.parametrize("plain", (False, True), ids=("its own", "plain"))
def test_its_dreamer_dreams_what_is_imagined(memory, plain):
    """As that of every memory does, where some steps are above the limit and others are not."""
    uncertainty = torch.cat([imagine(memory).uncertainty for _ in range(20)])
    level = Pessimism(0.7, uncertainty.quantile(0.9).item())
    conformance.test_a_dreamer_dreams_what_is_imagined(PessimisticMemory(memory, level), plain, 0.8)


def test_rewards_are_traced_back_to_actions_through_the_uncertainty(memory):
    """The gradient is that of the reward, less lambda times that of the uncertainty."""
    state, action = watched(memory), torch.randn(B, A, dtype=torch.float64, requires_grad=True)
    gradient = lambda value: torch.autograd.grad(value.sum(), action)[0]
    plain = lambda: memory.imagine(state, action, 1.0, noise(memory))
    expected = gradient(plain().reward) - 0.7 * gradient(plain().uncertainty)
    found = PessimisticMemory(memory, PESSIMISM).imagine(state, action, 1.0, noise(memory))
    torch.testing.assert_close(gradient(found.reward), expected)
    assert gradient(plain().uncertainty).abs().min() > 0


def of_latents(kind, settings=None):
    """A random memory for the counted latents, as it is after a training."""
    config = MEMORIES[kind].Config(**conformance.SMALL[kind] | (settings or {}))
    return MEMORIES[kind](config, 2, 1).requires_grad_(False)


def test_the_recorded_uncertainty_is_that_of_every_recorded_step(counted_latents):
    """By hand, along each episode as M observes it: 80 steps of ensembles without chance."""
    memory, expected = of_latents("ensemble"), []
    for number in range(len(counted_latents.lengths)):
        episode = counted_latents.episode(number)
        z, action = torch.from_numpy(episode.mu).float(), torch.from_numpy(episode.action)
        state = memory.initial(z[:1])
        for t in range(len(action)):
            imagined = memory.imagine(state, action[t, None], 1.0, noise_of(memory))
            expected.append(imagined.uncertainty.item())
            state = memory.observe(state, action[t, None], z[t + 1, None])
    found = recorded_uncertainty(memory, counted_latents, 1.0, 0)
    assert found.shape == (80,) and found.min() > 0 and len(np.unique(found)) > 70
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-4)


def noise_of(memory):
    return {part: torch.full((1, n), 0.5) for parts in memory.imagine_noise for part, n in parts.items()}


def test_the_recorded_uncertainty_is_a_function_of_its_seed(counted_latents):
    memory = of_latents("rssm", {"prior_heads": 3})
    first, again, other = (recorded_uncertainty(memory, counted_latents, 1.0, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(np.sort(first), np.sort(other))


def test_the_recorded_uncertainty_is_of_so_many_episodes_at_most(counted_latents, monkeypatch):
    monkeypatch.setattr(pessimism, "EPISODES", 3)
    lengths = {len(recorded_uncertainty(of_latents("ensemble"), counted_latents, 1.0, seed)) for seed in range(6)}
    sums = {a + b + c for a in range(3, 18, 2) for b in range(3, a, 2) for c in range(3, b, 2)}
    assert lengths <= sums and len(lengths) > 1


@pytest.mark.parametrize("kind", ("gru", "mdn_rnn", "rssm"))
def test_a_memory_that_is_never_uncertain_is_a_user_error(kind, counted_latents):
    with pytest.raises(UserError, match=f"{kind}.*never uncertain.*ensemble.*prior heads"):
        recorded_uncertainty(of_latents(kind), counted_latents, 1.0, 0)
