"""RealFitness over worker processes: the same numbers as in this process, members by episodes. DreamFitness: what
pessimism makes of a dream, by formula, however it is dreamt."""

import io

import numpy as np
import pytest
import torch
from torch import nn
from tqdm import tqdm

from tests.conftest import counted_episode, make_latents
from worldmodels.agent import Agent, load_agent
from worldmodels.controller import CONTROLLERS, LinearConfig, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.executors import LocalExecutor, Shared
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.ensemble import Ensemble, EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.pessimism import Pessimism, PessimisticMemory
from worldmodels.runs import Run
from worldmodels.types import Imagined, NoiseSize, State
from worldmodels.vision import VAE, VAEConfig
from worldmodels.worlds import fitness
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.fitness import LARGEST, SMALLEST, DreamFitness, RealFitness, split_jobs
from worldmodels.worlds.population import GraphedDream, dream
from worldmodels.worlds.rollout import rollout


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as executor:
        yield executor


SMALL = {"cem": {"horizon": 2, "iterations": 1, "candidates": 8}}    # settings of kinds that would take long


def controllers(agent, count, kind="linear"):
    config = CONTROLLERS[kind].Config(**SMALL.get(kind, {}))
    parameters = np.random.default_rng(0).normal(size=(count, agent.parameter_count(config))) * 3
    return PolicySpec(config, {"parameters": parameters})


class Here:
    """An executor in this process."""

    size = 3

    def run(self, jobs, progress, weight):
        return [job() for job in jobs]


@pytest.mark.parametrize("workers", (1, 3))
def test_real_fitness_is_bit_equal_whatever_the_number_of_workers(workers, toy_run):
    """The reference is played in this process."""
    agent = load_agent(toy_run)
    spec, seeds = controllers(agent, 5), list(range(1, 11))

    expected = RealFitness(Here(), agent, 40, ())(spec, seeds)
    with LocalExecutor(workers) as executor, tqdm(total=50, file=io.StringIO()) as progress:
        returns = RealFitness(executor, agent, 40, ())(spec, seeds, progress)
        assert progress.n == 50
    assert np.array_equal(returns, expected) and returns.shape == (5, 10)
    assert len(np.unique(returns)) > 5


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_real_fitness_is_members_by_episodes(kind, executor, toy_run):
    agent = load_agent(toy_run)
    spec, fitness = controllers(agent, 3, kind), RealFitness(executor, agent, 40, ())
    returns = fitness(spec, [1, 2, 3, 4])
    for member, of_member in enumerate(returns):
        for got, seed in zip(of_member, (1, 2, 3, 4)):
            assert fitness(spec.select([member]), [seed]).item() == pytest.approx(got, rel=1e-5)


@pytest.mark.parametrize("count", (1, 15, 16, 40, 100, 1024, 5000))
def test_jobs_shrink_towards_the_end(count):
    """Each episode is in one job; large ones come first, and the last worker waits for a small one."""
    sizes = [len(range(count)[part]) for part in split_jobs(count)]
    assert [i for part in split_jobs(count) for i in range(count)[part]] == list(range(count))
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= LARGEST and (count < SMALLEST or sizes[-2:][0] <= 2 * SMALLEST)


# pessimistic dreams

class Known(nn.Module):
    """A dream begun at z: step t = 1, 2, ... pays t, is uncertain by z t / 4, and is the last with a probability of
    1/16."""

    z_size = action_size = 1
    feature_sizes = {"z": 1}
    observe_noise, imagine_noise = NoiseSize(), NoiseSize({"done": 1})

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def initial(self, z, noise=None):
        return State(z, (torch.zeros(len(z), 1),))

    def imagine(self, state, action, temperature, noise):
        z, t = state.features, state.inner[0] + 1
        p_done = torch.full((len(t),), 1 / 16)
        return Imagined(State(z, (t,)), t[:, 0], p_done, noise["done"][:, 0] < p_done, (z * t / 4)[:, 0],
                        lambda: z)

    def latent(self, state):
        return state.features

    def dreamer(self, batch, temperature, bfloat16):
        return PlainDreamer(self, temperature)


SEEDS = np.arange(70)
Z = 1.0 + SEEDS % 8                     # where each seed's dream begins


def known_world(pessimism=None):
    """Dreams of 45 steps at most."""
    memory = Known() if pessimism is None else PessimisticMemory(Known(), pessimism)
    world = DreamWorld(memory, None, DreamConfig(max_steps=45))
    world.starts = lambda seeds: memory.initial(torch.from_numpy(Z[seeds]).float()[:, None])
    return world


def ways(world, monkeypatch):
    """Returns and lengths of a controller's dreams, by each way to dream them."""
    agent = Agent(TASKS["toy"], None, world.memory)
    spec = PolicySpec(LinearConfig(), {"parameters": np.zeros((1, agent.parameter_count(LinearConfig())))})
    each, seed = spec.select(np.zeros(len(SEEDS), int)), torch.from_numpy(SEEDS)
    plain = agent.with_memory(getattr(world.memory, "memory", world.memory))
    agent.shared = Shared(b"nothing to be opened")
    monkeypatch.setattr(fitness, "worker_agent", lambda *_: plain)                  # which workers open
    fitness.worker_dream.cache_clear()
    yield rollout(world, agent.policy_of(each), SEEDS)
    yield dream(agent, each, world.starts(SEEDS), SEEDS, seed, world.config)
    yield GraphedDream(agent, world.config)(each, world.starts(SEEDS), SEEDS, seed)
    yield DreamFitness(agent, world).play(spec, SEEDS)[:, 0]
    yield DreamFitness(agent, world, Here()).play(spec, SEEDS)[:, 0]


@pytest.mark.parametrize("weight, limit", ((0.5, np.inf), (0.0, 9.0), (0.5, 9.0), (3.0, 10.0)))
def test_a_pessimistic_dreams_return_and_end_are_as_the_formulas_say(weight, limit, monkeypatch):
    """The uncertainty of the steps that are lived is taken off, lambda times; the first one above the limit is the
    last. Otherwise a dream is as long as it would have been."""
    (_, lived), *others = ways(known_world(), monkeypatch)
    lived = np.asarray(lived)
    assert lived.min() == 1 and lived.max() == 45 and all(np.array_equal(lengths, lived) for _, lengths in others)
    first_above = lived if limit == np.inf else np.floor(4 * limit / Z) + 1
    last = np.minimum(lived, first_above)
    returns = last * (last + 1) / 2 * (1 - weight * Z / 4)
    for found, lengths in ways(known_world(Pessimism(weight, limit)), monkeypatch):
        np.testing.assert_array_equal(lengths, last)
        np.testing.assert_array_equal(found, returns)
    assert (last < lived).any() == (limit < np.inf) and (last == lived).any()


def test_workers_dream_as_pessimistically_as_one_process(tmp_path):
    """To the last bit. They are sent V and M, which know of no pessimism."""
    run = Run(tmp_path / "run")
    vision, memory = VAEConfig(z_size=4, channels=2), EnsembleConfig(members=3, member=GRUConfig(hidden_size=8))
    info = {"task": "toy", "vision": vision}
    run.save("vision", VAE(vision).state_dict(), info)
    run.save("memory", Ensemble(memory, 4, 1).state_dict(), info | {"memory": memory})
    agent, rng = load_agent(run), np.random.default_rng(0)
    drawn = [(rng.normal(size=(9, 4)).astype(np.float32), counted_episode(e, 8)[1]) for e in range(5)]
    latents = make_latents(tmp_path, drawn)

    def dreams(agent, *executor):
        return DreamFitness(agent, DreamWorld(agent.memory, latents, DreamConfig(max_steps=40)), *executor)

    wary = agent.with_memory(PessimisticMemory(agent.memory, Pessimism(0.5, 0.2)))
    spec, seeds = controllers(agent, 9), range(30)
    plain, expected = dreams(agent).play(spec, seeds), dreams(wary).play(spec, seeds)
    assert (expected[1] < plain[1]).any() and (expected[0] != plain[0]).all()
    with LocalExecutor(2) as executor:
        for one, returns in ((wary, expected), (agent, plain)):
            np.testing.assert_array_equal(dreams(one, executor).play(spec, seeds), returns)
