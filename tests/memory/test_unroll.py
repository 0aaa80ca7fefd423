"""The loops over a memory against the same steps taken by hand."""

import pytest
import torch

from tests.memory.test_memories import KINDS, A, B, Z, chooses, initial, make, noise, observe, watched
from worldmodels.latents import Encoded
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import (
    Trajectory,
    advance,
    followed,
    joined,
    observed,
    observed_steps,
    recorded_states,
    states_at,
    unroll,
    unroll_in_place,
)
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
    if not chooses(memory):
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


@pytest.mark.parametrize("temperature", (0.7, 1.0))
@torch.no_grad()
def test_unrolling_in_place_is_unrolling(memory, temperature):
    """With as much noise as is needed, of endless noise too."""
    state = watched(memory)
    act = lambda features: (3 * features[:, :A]).sin()
    expected = unroll(memory, policy, state, noises(memory), STEPS, temperature)
    found = unroll_in_place(memory, act, state, iter(noises(memory, STEPS + 3)), STEPS, temperature)
    for one, other in zip(found, (expected.features, expected.reward, expected.p_done), strict=True):
        torch.testing.assert_close(one, other.transpose(0, 1))


# recorded episodes of several lengths

LENGTHS = (4, 1, 6, 3)


def named_episodes():
    """Of LENGTHS, whose z [T+1, Z] begins with their number and time; and the number and the time of each step."""
    episodes, names = [], []
    for number, steps in enumerate(LENGTHS):
        z, time = torch.randn(steps + 1, Z), torch.arange(steps + 1.0)
        z[:, 0], z[:, 1] = number, time
        zeros = torch.zeros(steps).numpy()
        episodes.append(Encoded(z.numpy(), torch.randn(steps, A).numpy(), zeros, zeros > 0))
        names.append(torch.stack([torch.full((steps,), float(number)), time[:-1]], 1))
    return episodes, names


def test_observed_steps_are_in_the_order_of_what_is_joined(memory):
    """The first steps of all episodes, then the second ones: each state has the number and the time of its z."""
    episodes, names = named_episodes()
    states = observed_steps(memory, episodes, torch.Generator().manual_seed(0))
    order = [[number, t] for t in range(max(LENGTHS)) for number, steps in enumerate(LENGTHS) if t < steps]
    assert joined(names).tolist() == order
    torch.testing.assert_close(states.features[:, :2], torch.tensor(order).double())
    actions = joined([torch.from_numpy(episode.action) for episode in episodes])
    assert [episodes[number].action[t].tolist() for number, t in order] == actions.tolist()


def test_what_is_joined_may_be_one_number_a_step():
    rewards = [torch.tensor([10.0, 11.0]), torch.tensor([20.0]), torch.tensor([30.0, 31.0, 32.0])]
    assert joined(rewards).tolist() == [10, 20, 30, 11, 31, 32]


def test_episodes_are_followed_step_by_step_and_each_as_if_it_were_alone(memory):
    episodes, _ = named_episodes()
    found = list(followed(memory, episodes, torch.Generator().manual_seed(3)))
    assert [rows.tolist() for _, rows in found] == [[number for number, steps in enumerate(LENGTHS) if t < steps]
                                                    for t in range(max(LENGTHS))]
    generator = torch.Generator().manual_seed(3)
    z = [episode.sample(generator).double() for episode in episodes]
    like = next(memory.parameters())
    noise = list(zip(range(max(LENGTHS) + 1), draw(memory.observe_noise, len(episodes), generator, like)))
    for number, episode in enumerate(episodes):
        action = torch.from_numpy(episode.action)[None].double()
        alone = ({part: numbers[number:number + 1] for part, numbers in step.items()} for _, step in noise)
        for t, state in enumerate(list(observed(memory, z[number][None], action, alone))[:-1]):
            same(found[t][0].select(torch.tensor([number])), state)
    gathered = observed_steps(memory, episodes, torch.Generator().manual_seed(3))
    same(gathered, State.cat([state.select(rows) for state, rows in found]))


@pytest.fixture
def remembering():
    """A memory of the counted episodes, whose z is (number, t) / 10."""
    return MDNRNN(MDNRNNConfig(hidden_size=4), 2, 1)


def names(states):
    return [tuple(row) for row in (10 * states.features[:, :2]).round().int().tolist()]


def test_recorded_states_are_about_as_many_as_asked_for(remembering, counted_latents):
    """Of all episodes, and of no more steps than there are; each step once."""
    total = int(counted_latents.lengths.sum())
    everything = {(number, t) for number, steps in enumerate(counted_latents.lengths.tolist()) for t in range(steps)}
    counts = []
    for seed in range(20):
        found = names(recorded_states(remembering, counted_latents, total // 4, seed))
        assert len(set(found)) == len(found) and set(found) <= everything
        counts.append(len(found))
    assert sum(counts) / len(counts) == pytest.approx(total / 4, rel=0.2) and len(set(counts)) > 1
    for count in (total, 10 * total):
        found = names(recorded_states(remembering, counted_latents, count, 0))
        assert len(found) == total and set(found) == everything


def test_recorded_states_follow_their_seed(remembering, counted_latents):
    first, again, other = (recorded_states(remembering, counted_latents, 40, seed) for seed in (1, 1, 2))
    same(first, again)
    assert names(first) != names(other) and not first.features.requires_grad


def test_recorded_states_are_what_the_memory_made_of_the_steps_before(remembering, counted_latents):
    states = recorded_states(remembering, counted_latents, 10**6, 0)
    row = names(states).index((5, 9))
    episode = counted_latents.episode(5)
    z, action = episode.sample(torch.Generator())[None], torch.from_numpy(episode.action)[None]
    with torch.no_grad():
        expected = list(observed(remembering, z, action))[9]
    torch.testing.assert_close(states.features[row:row + 1], expected.features, atol=1e-4, rtol=0)


def test_recorded_states_may_be_of_the_last_episodes_alone(remembering, counted_latents):
    lengths = counted_latents.lengths.tolist()
    last = {(number, t) for number, steps in enumerate(lengths) if number >= len(lengths) - 2 for t in range(steps)}
    assert set(names(recorded_states(remembering, counted_latents, 10**6, 0, last=2))) == last
    half = names(recorded_states(remembering, counted_latents, len(last) // 2, 0, last=2))
    assert set(half) < last and len(half) > len(last) / 4
