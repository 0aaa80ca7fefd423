"""The population's dream equals the plain loop over `imagine`, whatever shares the batch, in one process or in several."""

import numpy as np
import pytest
import torch

from tests.conftest import counted_episode, make_latents
from worldmodels.executors import LocalExecutor
from worldmodels.memory import MDNRNN, MemoryConfig
from worldmodels.worlds import population
from worldmodels.worlds.agent import Agent, DreamFitness, load_agent
from worldmodels.worlds.dream import BLOCK, DreamConfig, DreamWorld
from worldmodels.worlds.population import WIDTH, Batch, GraphedDream, dream
from worldmodels.worlds.rollout import rollout

SEEDS = [3, 14, 15, 92, 65]
BIAS = {"sampled": 5.0, "threshold": 1.0}      # against death, so that some dreams last and others do not


@pytest.fixture(params=({}, {"restart_input": True, "cell_feature": True, "death": "threshold"}, {"peek": True}),
                ids=("plain", "paper's TakeCover", "peek"))
def world(request, counted_latents):
    """A dream of a random M whose rollouts end at all times, some at the cap, which is no multiple of BLOCK."""
    torch.manual_seed(4)
    memory = MDNRNN(MemoryConfig(hidden_size=9, mixtures=3, **request.param), 2, 1).requires_grad_(False)
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    memory.head.weight.data[-1] *= 4
    memory.head.bias.data[-1] = -BIAS[memory.config.death]
    return DreamWorld(memory, counted_latents, DreamConfig(temperature=1.2, max_steps=3 * BLOCK + 5))


@pytest.fixture
def one_thread():
    """As workers have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def controllers(world, members, seed=0):
    return np.random.default_rng(seed).normal(size=(members, world.memory.feature_size + 1))


def fitness(world, **more):
    return DreamFitness(Agent("toy", None, world.memory), world, **more)


def by_rollout(world, parameters, seeds):
    """The same through the plain loop, [2, P, E]."""
    policy = Agent("toy", None, world.memory).policy(parameters, len(seeds))
    played = rollout(world, policy, list(seeds) * len(parameters))
    return np.stack([played.returns.numpy(), played.lengths.numpy()]).reshape(2, len(parameters), len(seeds))


def test_it_equals_the_plain_loop(world):
    parameters = controllers(world, 23)
    played, expected = fitness(world).play(parameters, SEEDS), by_rollout(world, parameters, SEEDS)
    lengths = expected[1]
    assert lengths.min() < BLOCK and (lengths == world.config.max_steps).any()
    assert len(np.unique(lengths)) > 12
    np.testing.assert_array_equal(played[1], lengths)
    np.testing.assert_allclose(played[0], expected[0], atol=1e-3)


def test_a_dream_is_the_same_to_the_last_bit_whatever_is_dreamt_beside_it(world, one_thread):
    parameters = controllers(world, 40)
    together = fitness(world).play(parameters, SEEDS)
    for members in ([7], [39, 7, 0], range(20, 40)):
        np.testing.assert_array_equal(fitness(world).play(parameters[members], SEEDS), together[:, members])
    np.testing.assert_array_equal(fitness(world).play(parameters, SEEDS[::-1]), together[:, :, ::-1])


def test_the_batch_shrinks_in_whole_widths_and_returns_stay_in_their_place(world):
    count, seeds = 3 * WIDTH + 7, np.arange(1000, 1000 + 3 * WIDTH + 7)
    policy, widths = Agent("toy", None, world.memory).policy(controllers(world, 1), count), []
    plain = Batch.compact

    class Watched(Batch):
        def compact(self):
            goes_on = plain(self)
            widths.append(len(self.alive))
            return goes_on

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(population, "Batch", Watched)
        played = dream(world.memory, policy, world.starts(seeds), seeds, torch.arange(count), world.config)
    assert widths == sorted(widths, reverse=True) and len(set(widths)) > 1 and all(width % WIDTH == 0 for width in widths)
    expected = by_rollout(world, controllers(world, 1), seeds)
    np.testing.assert_array_equal(played.lengths, expected[1, 0])
    np.testing.assert_allclose(played.returns, expected[0, 0], atol=1e-3)


def test_what_a_gpu_runs_is_the_same_dream(world):
    """Fixed shapes, masks, memory used again from generation to generation; here without the recording."""
    engine = GraphedDream(world.memory, world.config)
    seed = torch.arange(len(SEEDS)).repeat(9)
    for generation, members in ((0, 9), (1, 9), (2, 4), (3, 9)):
        parameters, seeds = controllers(world, members, generation), np.array(SEEDS) + generation
        policy = Agent("toy", None, world.memory).policy(parameters, len(SEEDS))
        played = engine(policy, world.starts(seeds), seeds, seed[:members * len(SEEDS)])
        expected = by_rollout(world, parameters, seeds)
        np.testing.assert_array_equal(played.lengths.reshape(members, -1), expected[1])
        np.testing.assert_allclose(played.returns.reshape(members, -1), expected[0], atol=1e-3)
    assert len(engine.recorded) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_dreams_what_the_cpu_dreams(world):
    memory = MDNRNN(world.memory.config, 2, 1).requires_grad_(False)
    memory.load_state_dict(world.memory.state_dict())
    on_gpu = DreamWorld(memory.cuda(), world.latents, world.config)
    parameters = controllers(world, 23)
    for seeds in (SEEDS, [1, 2, 3, 4, 5]):
        played, expected = fitness(on_gpu).play(parameters, seeds), fitness(world).play(parameters, seeds)
        assert (played[1] == expected[1]).mean() > 0.95          # rounding may turn a death that hung on a hair
        same = played[1] == expected[1]
        np.testing.assert_allclose(played[0][same], expected[0][same], atol=1e-2)


def test_workers_dream_the_same_as_one_process(toy_run, tmp_path, one_thread):
    """To the last bit, with one, two or three of them, single-threaded as they are."""
    agent, digest = load_agent(toy_run)
    rng = np.random.default_rng(0)
    latents = make_latents(tmp_path, [(rng.normal(size=(9, 4)).astype(np.float32), counted_episode(e, 8)[1]) for e in range(5)])
    world = DreamWorld(agent.memory, latents, DreamConfig(max_steps=40))
    parameters, seeds = controllers(world, 30), range(40)     # lives are short: some seeds tell the members apart
    expected = DreamFitness(agent, world).play(parameters, seeds)
    assert expected[1].std(0).max() > 0 and expected[1].std(1).max() > 0
    for workers in (1, 3):
        with LocalExecutor(workers) as executor:
            fitness = DreamFitness(agent, world, executor, toy_run, digest)
            np.testing.assert_array_equal(fitness.play(parameters, seeds), expected)
            np.testing.assert_array_equal(fitness(parameters[:2], seeds[:1]), expected[0, :2, :1])
