"""The dream: where it starts, what its seeds fix, and when it ends."""

import numpy as np
import pytest
import torch

from worldmodels.memory import MDNRNN, MemoryConfig
from worldmodels.types import Noise
from worldmodels.worlds.agent import Agent, DreamFitness
from worldmodels.worlds.dream import BLOCK, STARTS, DreamConfig, DreamWorld, NoiseStream
from worldmodels.worlds.rollout import rollout

NEVER, ALWAYS = -1e4, 1e4


def make_world(latents, death=None, **config):
    """A dream of a random M over the counted episodes; `death` fixes the logit of its done head."""
    torch.manual_seed(2)
    memory = MDNRNN(MemoryConfig(hidden_size=6, cell_feature=True), 2, 1)
    if death is not None:
        memory.head.weight.data[-1], memory.head.bias.data[-1] = 0, death
    return DreamWorld(memory.requires_grad_(False), latents, DreamConfig(**config))


def policy(world, count):
    parameters = np.random.default_rng(0).normal(size=(count, world.memory.feature_size + 1))
    return Agent("toy", None, world.memory).policy(parameters)


def named(state):
    """Which (episode, t) each start is."""
    return [tuple(row) for row in (10 * state.inner[0]).round().int().tolist()]


@pytest.mark.parametrize("start", STARTS)
def test_the_same_seeds_dream_the_same_dream(counted_latents, start):
    world = make_world(counted_latents, start=start, max_steps=20, warmup=4)

    def dream(seeds):
        played = rollout(world, policy(world, 5), seeds)
        return played.returns.tolist(), played.lengths.tolist()

    first = dream([1, 2, 3, 4, 5])
    other = dream([6, 7, 8, 9, 10])
    assert dream([1, 2, 3, 4, 5]) == first != other


@pytest.mark.parametrize("start", STARTS)
def test_a_start_is_a_function_of_its_seed_alone(counted_latents, start):
    world = make_world(counted_latents, start=start, warmup=4)
    state = world.reset([5, 3, 5, 9])
    assert torch.equal(state.features[0], state.features[2])
    again = world.reset([9, 4, 5])
    torch.testing.assert_close(again.features[[0, 2]], state.features[[3, 0]])


def test_first_starts_are_first_frames_of_all_episodes_with_an_empty_memory(counted_latents):
    world = make_world(counted_latents)
    state = world.reset(range(200))
    starts = named(state)
    assert {t for _, t in starts} == {0} and {episode for episode, _ in starts} == set(range(8))
    assert torch.equal(state.features, world.memory.initial(state.inner[0]).features)


def test_starts_anywhere_are_warmed_on_the_frames_before_them(counted_latents):
    """As if the episode had been observed by hand over the last frames, or all of them where there are fewer."""
    world = make_world(counted_latents, start="anywhere", warmup=5)
    state = world.reset(range(300))
    starts = named(state)
    for row, (episode, t) in enumerate(starts):
        first = max(0, t - 5)
        z = torch.tensor([[[episode / 10, s / 10]] for s in range(first, t + 1)])
        by_hand = world.memory.initial(z[0])
        for s in range(first, t):
            by_hand = world.memory.observe(by_hand, torch.tensor([[s / 10]]), z[s - first + 1])
        torch.testing.assert_close(state.features[row:row + 1], by_hand.features, atol=2e-3, rtol=0)
        for mine, theirs in zip(state.inner, by_hand.inner):
            torch.testing.assert_close(mine[row:row + 1], theirs, atol=2e-3, rtol=0)
    # every frame that an action follows is a start, the last frame of an episode never
    assert set(starts) <= {(e, t) for e in range(8) for t in range(3 + 2 * e)} and len(set(starts)) > 70


def test_a_dream_does_not_depend_on_those_beside_it(counted_latents):
    """The same returns alone, together, and with the rest in another order."""
    world = make_world(counted_latents, max_steps=30)
    policies = policy(world, 6)
    together = rollout(world, policies, [4, 9, 4, 1, 9, 7])
    for row, seed in enumerate([4, 9, 4, 1, 9, 7]):
        alone = rollout(world, policies.rows(torch.tensor([row])), [seed])
        torch.testing.assert_close(alone.returns[0], together.returns[row], rtol=1e-4, atol=1e-4)
        assert alone.lengths[0] == together.lengths[row]


def test_noise_is_a_function_of_the_seed_and_the_step():
    streams = [NoiseStream(seeds, (3, 2), torch.zeros(1, dtype=torch.float64)) for seeds in ([5, 6], [7, 5])]
    first, second = ([stream.block() for _ in range(3)] for stream in streams)
    for a, b in zip(first, second):
        assert a.shape == (BLOCK, 5, 2) and a.dtype == torch.float64
        assert torch.equal(a[..., 0], b[..., 1]) and not torch.equal(a[..., 1], b[..., 0])
    assert not torch.equal(first[0], first[1])
    streams[1].keep([1])
    assert torch.equal(streams[0].block()[..., 0], streams[1].block()[..., 0])


def test_a_random_policys_choices_are_not_the_dreams_chance():
    """The streams that a seed gives to starts, random policies and the game's V are others."""
    uniform = NoiseStream([5], (40, 1), torch.zeros(1)).block()[0, :40, 0].numpy()
    for stream in range(3):
        assert not np.isin(np.random.default_rng([5, stream]).random(1000, np.float32), uniform).any()


def test_noise_is_uniform_and_normal():
    numbers = torch.cat([NoiseStream(range(300), (2, 2), torch.zeros(1)).block() for _ in range(2)])
    uniform, normal = numbers.split(2, 1)
    assert 0 <= uniform.min() < 0.001 and 0.999 < uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01) and uniform.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(1, abs=0.03)


def test_a_dream_is_cut_at_its_cap(counted_latents):
    world = make_world(counted_latents, NEVER, max_steps=7)
    assert rollout(world, policy(world, 4), range(4)).lengths.tolist() == [7] * 4
    assert rollout(world, policy(world, 4), range(4)).lengths.tolist() == [7] * 4     # counted anew after each reset


def test_the_dying_step_is_rewarded(counted_latents):
    world = make_world(counted_latents, ALWAYS)
    world.memory.head.weight.data[-2], world.memory.head.bias.data[-2] = 0, 1.5
    played = rollout(world, policy(world, 4), range(4))
    assert played.lengths.tolist() == [1] * 4 and played.returns.tolist() == [1.5] * 4


def test_rollouts_that_go_on_keep_their_state(counted_latents):
    world = make_world(counted_latents)
    state = world.reset(range(6))
    index = torch.tensor([1, 4])
    assert torch.equal(world.go_on(index, []).features, state.features[index])
    assert len(world.step(torch.zeros(2, 1)).reward) == 2


def test_dream_fitness_is_members_by_episodes(counted_latents):
    """Each member's episodes start where the seeds say: with death at once, the reward tells the start and the member."""
    world = make_world(counted_latents, ALWAYS)
    agent = Agent("toy", None, world.memory)
    parameters = np.random.default_rng(1).normal(size=(3, world.memory.feature_size + 1))
    seeds = [11, 12, 13, 14]
    returns = DreamFitness(agent, world)(parameters, seeds)
    assert returns.shape == (3, 4)
    state = world.reset(seeds)
    for member, p in zip(returns, parameters):
        action = agent.policy(p[None], len(seeds))(state)
        noise = Noise(torch.rand(4, 3), torch.randn(4, 2))                  # the reward does not depend on it
        expected = world.memory.imagine(state, action, 1.0, noise).reward
        np.testing.assert_allclose(member, expected, atol=1e-6)
