"""The dream: where it starts, what its seeds fix, and when it ends."""

import numpy as np
import pytest
import torch

from worldmodels.agent import Agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.memory import MDNRNN, MEMORIES, MDNRNNConfig
from worldmodels.memory.ensemble import Ensemble, EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.noise import BLOCK, OBSERVE, NoiseStream, draw
from worldmodels.memory.pessimism import recorded_uncertainty
from worldmodels.memory.unroll import unroll
from worldmodels.types import NoiseSize, UserError
from worldmodels.worlds.dream import STARTS, DreamConfig, DreamWorld, pessimistic
from worldmodels.worlds.fitness import DreamFitness
from worldmodels.worlds.rollout import rollout

NEVER, ALWAYS = -1e4, 1e4


def make_world(latents, death=None, **config):
    """A dream of a random M over the counted episodes; `death` fixes the logit of its done head."""
    torch.manual_seed(2)
    memory = MDNRNN(MDNRNNConfig(hidden_size=6, cell_feature=True), 2, 1)
    if death is not None:
        memory.head.weight.data[-1], memory.head.bias.data[-1] = 0, death
    return DreamWorld(memory.requires_grad_(False), latents, DreamConfig(**config))


def agent_of(world):
    return Agent(TASKS["toy"], None, world.memory)


def controllers(world, count, seed=0):
    config = LinearConfig()
    size = agent_of(world).parameter_count(config)
    return PolicySpec(config, {"parameters": np.random.default_rng(seed).normal(size=(count, size))})


def play(world, spec, seeds):
    return rollout(world, agent_of(world).policy_of(spec), seeds)


def named(world, state):
    """Which (episode, t) each start is."""
    return [tuple(row) for row in (10 * world.memory.latent(state)).round().int().tolist()]


@pytest.mark.parametrize("start", STARTS)
def test_the_same_seeds_dream_the_same_dream(counted_latents, start):
    world = make_world(counted_latents, start=start, max_steps=20, warmup=4)

    def dream(seeds):
        played = play(world, controllers(world, 5), seeds)
        return played.returns.tolist(), played.lengths.tolist()

    first = dream([1, 2, 3, 4, 5])
    other = dream([6, 7, 8, 9, 10])
    assert dream([1, 2, 3, 4, 5]) == first != other


@pytest.mark.parametrize("enough, steps", ((0.0, 30), (25.0, 11), (20.0, 9), (69.5, 29), (73.0, 30)))
def test_it_ends_with_the_step_that_gains_what_there_is_to_gain(counted_latents, enough, steps):
    """A step pays 2 and costs 0.4 of what it gained; others begin anew beside it."""
    world = make_world(counted_latents, NEVER, max_steps=30, enough=enough, step_cost=0.4)
    world.memory.head.weight.data[-2], world.memory.head.bias.data[-2] = 0, 2.0
    world.reset([1, 2])
    for step in range(1, steps + 1):
        played = world.step(torch.zeros(len(world.steps), 1))
        if step == 3:
            world.select_and_reset(torch.tensor([1]), [3, 4])
        assert played.terminated[0] == (step == steps and step < 30)
        assert played.truncated[0] == (step == 30)
    assert world.total.tolist() == pytest.approx([2.0 * steps, *[2.0 * (steps - 3)] * 2])


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
    starts = named(world, state)
    assert {t for _, t in starts} == {0} and {episode for episode, _ in starts} == set(range(8))
    assert torch.equal(state.features, world.memory.initial(world.memory.latent(state)).features)


def test_starts_anywhere_are_warmed_on_the_frames_before_them(counted_latents):
    """As if the episode had been observed by hand over the last frames, or all of them where there are fewer."""
    world = make_world(counted_latents, start="anywhere", warmup=5)
    state = world.reset(range(300))
    starts = named(world, state)
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


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", MEMORIES)
def test_what_a_dream_will_be_can_be_traced_back_to_its_actions(counted_latents, kind, start):
    """A dream's start can be used in backpropagation, whatever the memory: the last reward has a gradient at the first
    action."""
    memory = MEMORIES[kind](MEMORIES[kind].Config(), 2, 1)
    world = DreamWorld(memory, counted_latents, DreamConfig(start=start, warmup=4))
    state = world.starts(range(5))
    assert not any(t.is_inference() or t.requires_grad for t in (state.features, *state.inner))
    action = torch.zeros(5, 3, 1, requires_grad=True)
    noise = draw(memory.imagine_noise, 5, torch.Generator().manual_seed(0), state.features)
    unroll(memory, action, state, noise, 3).reward[:, -1].sum().backward()
    assert (action.grad[:, 0] != 0).all()


def test_a_dream_can_begin_at_given_states(counted_latents):
    """What follows is as after a reset that led there: its noise and its clock are those of the seed."""
    world, other = (make_world(counted_latents, start=start, max_steps=6, warmup=4) for start in ("anywhere", "first"))
    state, action = world.reset([5, 6, 7]), torch.ones(3, 1)
    assert other.begin(state, [5, 6, 7]) is state and other.state is state
    for t in range(1, 7):
        mine, theirs = world.step(action), other.step(action)
        for a, b in zip((mine.state.features, *mine[1:]), (theirs.state.features, *theirs[1:])):
            assert torch.equal(a, b)
        assert theirs.truncated.tolist() == (~theirs.terminated & (t == 6)).tolist()
    again = other.begin(mine.state, [5, 6, 7])
    assert torch.equal(again.features, mine.state.features)
    other.step(action)
    assert other.steps.tolist() == [1, 1, 1]


def test_a_dream_does_not_depend_on_those_beside_it(counted_latents):
    """The same returns alone, together, and with the rest in another order."""
    world = make_world(counted_latents, max_steps=30)
    spec = controllers(world, 6)
    together = play(world, spec, [4, 9, 4, 1, 9, 7])
    for row, seed in enumerate([4, 9, 4, 1, 9, 7]):
        alone = play(world, spec.select([row]), [seed])
        torch.testing.assert_close(alone.returns[0], together.returns[row], rtol=1e-4, atol=1e-4)
        assert alone.lengths[0] == together.lengths[row]


def test_noise_is_a_function_of_the_seed_and_the_step():
    size = NoiseSize({"component": 2, "done": 1}, {"z": 2})
    streams = [NoiseStream(seeds, size, torch.zeros(1, dtype=torch.float64)) for seeds in ([5, 6], [7, 5])]
    first, second = ([stream.block() for _ in range(3)] for stream in streams)
    for a, b in zip(first, second):
        assert a.shape == (BLOCK, 5, 2) and a.dtype == torch.float64
        assert torch.equal(a[..., 0], b[..., 1]) and not torch.equal(a[..., 1], b[..., 0])
    assert not torch.equal(first[0], first[1])
    streams[1].select([1])
    assert torch.equal(streams[0].block()[..., 0], streams[1].block()[..., 0])


def test_a_random_policys_choices_are_not_the_dreams_chance():
    """The streams that a seed gives to starts, random policies, the game's V, exploration and observing are others."""
    uniform = NoiseStream([5], NoiseSize({"done": 40}, {"z": 1}), torch.zeros(1)).block()[0, :40, 0].numpy()
    for stream in (0, 1, 2, 4, OBSERVE):
        assert not np.isin(np.random.default_rng([5, stream]).random(1000, np.float32), uniform).any()


def test_noise_is_uniform_and_normal():
    size = NoiseSize({"done": 2}, {"z": 2})
    numbers = torch.cat([NoiseStream(range(300), size, torch.zeros(1)).block() for _ in range(2)])
    uniform, normal = size.split(numbers, 1).values()
    assert 0 <= uniform.min() < 0.001 and 0.999 < uniform.max() < 1
    for drawn, mean, deviation, tolerance in ((uniform, 0.5, 12**-0.5, 0.01), (normal, 0, 1, 0.03)):
        assert drawn.mean().item() == pytest.approx(mean, abs=tolerance)
        assert drawn.std().item() == pytest.approx(deviation, abs=tolerance)


def test_a_dream_is_cut_at_its_cap(counted_latents):
    world = make_world(counted_latents, NEVER, max_steps=7)
    assert play(world, controllers(world, 4), range(4)).lengths.tolist() == [7] * 4
    assert play(world, controllers(world, 4), range(4)).lengths.tolist() == [7] * 4     # counted anew after each reset


def test_the_dying_step_is_rewarded(counted_latents):
    world = make_world(counted_latents, ALWAYS)
    world.memory.head.weight.data[-2], world.memory.head.bias.data[-2] = 0, 1.5
    played = play(world, controllers(world, 4), range(4))
    assert played.lengths.tolist() == [1] * 4 and played.returns.tolist() == [1.5] * 4


def test_a_reward_can_be_1_for_each_step_the_dying_one_included(counted_latents):
    for death, steps in ((NEVER, 7), (ALWAYS, 1)):
        world = make_world(counted_latents, death, reward="alive", max_steps=7)
        played = play(world, controllers(world, 4), range(4))
        assert played.lengths.tolist() == played.returns.tolist() == [steps] * 4


def test_rollouts_that_go_on_keep_their_state(counted_latents):
    world = make_world(counted_latents)
    state = world.reset(range(6))
    index = torch.tensor([1, 4])
    assert torch.equal(world.select_and_reset(index, []).features, state.features[index])
    assert len(world.step(torch.zeros(2, 1)).reward) == 2


def test_rollouts_that_begin_behind_others_are_those_of_their_seeds(counted_latents):
    """Beside dreams that go on, a new one has the start, the noise and the clock that it would have alone."""
    world, alone = (make_world(counted_latents, NEVER, max_steps=5) for _ in range(2))
    world.reset(range(3))
    for _ in range(3):
        before = world.step(torch.ones(3, 1)).state.features
    state = world.select_and_reset(torch.tensor([2, 0]), [8, 9])
    assert torch.equal(state.features[:2], before[[2, 0]])
    torch.testing.assert_close(state.features[2:], alone.reset([8, 9]).features)
    for t in range(1, 6):
        together, expected = world.step(torch.ones(4, 1)), alone.step(torch.ones(2, 1))
        torch.testing.assert_close(together.state.features[2:], expected.state.features)
        torch.testing.assert_close(together.reward[2:], expected.reward)
        assert together.truncated.tolist() == [t >= 2] * 2 + [t == 5] * 2


def test_dream_fitness_is_members_by_episodes(counted_latents):
    """Each member's episodes start where the seeds say: with death at once, the reward tells start and member."""
    world = make_world(counted_latents, ALWAYS)
    agent, spec, seeds = agent_of(world), controllers(world, 3, 1), [11, 12, 13, 14]
    returns = DreamFitness(agent, world)(spec, seeds)
    assert returns.shape == (3, 4)
    state = world.reset(seeds)
    for member, of_member in enumerate(returns):
        policy = agent.policy_of(spec.select([member]))
        policy.reset(seeds)
        noise = next(draw(world.memory.imagine_noise, 4, torch.Generator(), state.features))    # not in the reward
        expected = world.memory.imagine(state, policy(state), 1.0, noise).reward
        np.testing.assert_allclose(of_member, expected, atol=1e-6)


def test_dream_fitness_takes_seeds_for_all_members_or_for_each(counted_latents):
    world = make_world(counted_latents)
    agent, spec, seeds = agent_of(world), controllers(world, 3, 1), [[11, 12], [14, 13], [12, 11]]
    returns = DreamFitness(agent, world)(spec, seeds)
    for member, own in enumerate(seeds):
        alone = DreamFitness(agent, world)(spec.select([member]), own)
        np.testing.assert_allclose(returns[member], alone[0], atol=1e-5)
    assert len(np.unique(returns.round(4))) > 3


def uncertain(**settings):
    """A random ensemble."""
    torch.manual_seed(3)
    return Ensemble(EnsembleConfig(members=3, member=GRUConfig(hidden_size=5), **settings), 2, 1).requires_grad_(False)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_dream_that_is_not_pessimistic_has_the_memory_itself_and_opens_no_episodes(kind):
    memory = MEMORIES[kind](MEMORIES[kind].Config(), 2, 1)
    assert pessimistic(memory, lambda: pytest.fail("opened"), DreamConfig(), 0) is memory


@pytest.mark.parametrize("weight, quantile", ((0.0, 0.9), (0.0, 0.0), (2.5, 0.5), (2.5, 1.0)))
def test_the_limit_of_a_pessimistic_dream_is_a_quantile_of_the_recorded_uncertainty(counted_latents, weight, quantile):
    """Above which is the rest of the recorded steps; of all of them, none."""
    memory, config = uncertain(), DreamConfig(pessimism=weight, uncertainty_quantile=quantile)
    found = pessimistic(memory, lambda: counted_latents, config, 7)
    recorded = recorded_uncertainty(memory, counted_latents, 1.0, 7)
    assert found.memory is memory and found.pessimism.weight == weight
    if quantile == 1:
        assert found.pessimism.limit == np.inf
    else:
        assert found.pessimism.limit == pytest.approx(np.quantile(recorded, quantile), rel=1e-6)
        assert (recorded > found.pessimism.limit).mean() == pytest.approx(1 - quantile, abs=1 / len(recorded))


@pytest.mark.parametrize("settings", ({"pessimism": 1.0}, {"uncertainty_quantile": 0.9}), ids=str)
@pytest.mark.parametrize("kind", ("gru", "mdn_rnn", "rssm"))
def test_a_pessimistic_dream_of_a_memory_that_is_never_uncertain_is_a_user_error(counted_latents, kind, settings):
    memory = MEMORIES[kind](MEMORIES[kind].Config(), 2, 1)
    with pytest.raises(UserError, match=f"{kind}.*ensemble"):
        pessimistic(memory, lambda: counted_latents, DreamConfig(**settings), 0)
