"""The loops over a memory against the same steps taken by hand."""

import pytest
import torch

from tests.memory.test_memories import A, B, KINDS, Z, initial, make, noise, observe, watched
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import Trajectory, advance, observed, states_at, unroll
from worldmodels.types import State

STEPS = 7


@pytest.fixture(params=KINDS)
def memory(request):
    return make(request.param, {})


def noises(memory, steps=STEPS):
    return [noise(memory, seed) for seed in range(steps)]


def policy(state):
    return (3 * state.features[:, :A]).sin()


def same(a, b):
    for x, y in zip((a.features, *a.inner), (b.features, *b.inner), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("temperature", (0.7, 1.0))
def test_unrolling_a_policy_is_imagining_step_by_step(memory, temperature):
    start = state = watched(memory)
    found = unroll(memory, policy, start, noises(memory), STEPS, temperature)
    assert found.features.shape[:2] == found.latent.shape[:2] == (B, STEPS + 1)
    assert torch.equal(found.features[:, 0], start.features) and torch.equal(found.latent[:, 0], memory.latent(start))
    for t in range(STEPS):
        action = policy(state)
        imagined = memory.imagine(state, action, temperature, noise(memory, t))
        state = imagined.state
        assert torch.equal(found.action[:, t], action)
        assert torch.equal(found.features[:, t + 1], state.features)
        assert torch.equal(found.latent[:, t + 1], memory.latent(state))
        for name in ("reward", "p_done", "done", "uncertainty"):
            assert torch.equal(getattr(found, name)[:, t], getattr(imagined, name))
    same(found.state, state)


def test_unrolling_the_actions_of_a_policy_is_unrolling_the_policy(memory):
    state = watched(memory)
    by_policy = unroll(memory, policy, state, noises(memory), STEPS)
    by_actions = unroll(memory, by_policy.action, state, noises(memory), STEPS)
    for a, b in zip(by_policy[:-1], by_actions[:-1]):
        assert torch.equal(a, b)


def test_endless_noise_serves_as_many_steps_as_are_asked_for(memory):
    state = watched(memory)
    found = unroll(memory, policy, state, draw(memory.imagine_noise, B, torch.Generator(), state.features), 3)
    assert found.reward.shape == (B, 3) and found.features.shape[1] == 4


def test_the_last_reward_is_differentiable_in_the_first_action_and_the_start(memory):
    """And so is what a policy earns in its parameters."""
    z, scale = torch.randn(B, Z).double().requires_grad_(), torch.ones(A).double().requires_grad_()
    state, actions = initial(memory, z), torch.randn(B, STEPS, A).double().requires_grad_()
    found = unroll(memory, actions, state, noises(memory), STEPS)
    of_actions, of_z = torch.autograd.grad(found.reward[:, -1].sum(), (actions, z))
    assert (of_actions[:, 0] != 0).all() and (of_z != 0).all()
    assert of_actions.isfinite().all() and of_z.isfinite().all()
    earned = lambda scale: unroll(memory, lambda s: scale * s.features[:, :A], initial(memory, z.detach()),
                                  noises(memory), STEPS).reward.sum()
    assert torch.autograd.gradcheck(earned, (scale,))
    assert (torch.autograd.grad(earned(scale), scale)[0] != 0).all()


def test_a_step_is_reached_where_none_before_it_ended_the_episode():
    p_done = torch.tensor([[0.5, 0.0, 0.2, 0.9], [0.0, 1.0, 0.0, 0.0]])
    found = Trajectory(*4 * (None,), p_done, *3 * (None,))
    torch.testing.assert_close(found.survived(), torch.tensor([[1.0, 0.5, 0.5, 0.4], [1.0, 1.0, 0.0, 0.0]]))


def test_dreams_survive_as_often_as_is_said(memory):
    """The share of many dreams that reach a step, against the mean probability."""
    rows = torch.zeros(4000, dtype=torch.int64)
    state = watched(memory).select(rows)
    chance = draw(memory.imagine_noise, len(rows), torch.Generator().manual_seed(0), state.features)
    with torch.no_grad():
        found = unroll(memory, torch.zeros(len(rows), 3, A).double(), state, chance, 3)
    alive = 1 - found.done.double().cumsum(1).clamp(max=1)
    torch.testing.assert_close(alive[:, :2].mean(0), found.survived()[:, 1:].mean(0), atol=0.03, rtol=0)


def recorded(memory):
    z, action = torch.randn(B, STEPS + 1, Z).double(), torch.randn(B, STEPS, A).double()
    return z, action


def observing(memory):
    """The noise that `initial` and `observe` of the tests have."""
    return iter([noise(memory, 21, of="observe")] + STEPS * [noise(memory, 22, of="observe")])


def test_what_is_observed_is_the_state_before_each_action_and_the_last(memory):
    z, action = recorded(memory)
    found = list(observed(memory, z, action, observing(memory)))
    state = initial(memory, z[:, 0])
    for t in range(STEPS):
        same(found[t], state)
        state = observe(memory, state, action[:, t], z[:, t + 1])
    same(found[STEPS], state)
    assert len(found) == STEPS + 1


def test_states_at_some_steps_are_those_that_were_observed(memory):
    """In the order asked for, steps and rows that repeat, the first and the last included."""
    z, action = recorded(memory)
    states = list(observed(memory, z, action, observing(memory)))
    row, step = torch.tensor([2, 0, 1, 1, 0, 2]), torch.tensor([STEPS, 0, 3, 3, 5, 0])
    found = states_at(memory, z, action, row, step, observing(memory))
    same(found, State.cat([states[t].select(row[i:i + 1]) for i, t in enumerate(step.tolist())]))
    first = states_at(memory, z, action, torch.tensor([1]), torch.tensor([0]), observing(memory))
    same(first, states[0].select(torch.tensor([1])))


@pytest.mark.parametrize("plain", (False, True), ids=("its own", "plain"))
@torch.no_grad()
def test_advancing_a_dreamer_is_unrolling(memory, plain):
    state = watched(memory)
    expected = unroll(memory, policy, state, noises(memory), STEPS, 0.9)
    dreamer = PlainDreamer(memory, 0.9) if plain else memory.dreamer(B, 0.9)
    dreamer.load(state)
    chance = [{part: numbers.t() for part, numbers in step.items()} for step in noises(memory)]
    steps = advance(dreamer, lambda features: (3 * features[:A]).sin(), chance)
    for t, (used, reward, p_done, uncertainty) in enumerate(steps):
        assert used is chance[t]
        torch.testing.assert_close(reward, expected.reward[:, t])
        torch.testing.assert_close(p_done, expected.p_done[:, t])
        torch.testing.assert_close(uncertainty, expected.uncertainty[:, t])
        torch.testing.assert_close(dreamer.features()[:-1].t(), expected.features[:, t + 1])
    assert t == STEPS - 1
