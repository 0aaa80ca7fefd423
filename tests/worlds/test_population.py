"""The population's dream equals the plain loop over `imagine`, whatever memory dreams, whatever kind of controller
acts, and whatever shares the batch, in one process or in several."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import counted_episode, make_latents
from worldmodels.agent import Agent, load_agent
from worldmodels.controller import CONTROLLERS, PolicySpec
from worldmodels.controller.cem import CEMConfig
from worldmodels.envs import TASKS
from worldmodels.executors import LocalExecutor
from worldmodels.memory import MEMORIES, MDNRNNConfig
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.ensemble import EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.pessimism import Pessimism, PessimisticMemory
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.types import Imagined, NoiseSize, State
from worldmodels.worlds import population
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.fitness import DreamFitness
from worldmodels.worlds.population import BLOCK, WIDTH, Batch, GraphedDream, dream
from worldmodels.worlds.rollout import rollout

SEEDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26]
BIAS = {"sampled": 5.0, "threshold": 1.0}      # against death, so that some dreams last and others do not
SCALE = {"mlp": 0.3, "actor": 0.3}      # of a controller's parameters, else 1: more magnifies rounding
SMALL = {"hidden_size": 9, "mixtures": 3}
SMALL_RSSM = RSSMConfig(hidden_size=8, units=8, stochastic_size=7)
VARIANTS = {
    "plain": MDNRNNConfig(**SMALL),
    "paper's TakeCover": MDNRNNConfig(**SMALL, restart_input=True, cell_feature=True, death="threshold"),
    "sees_current_frame": MDNRNNConfig(**SMALL, sees_current_frame=True),
    "gru": GRUConfig(hidden_size=8),
    "rssm": SMALL_RSSM,
    "rssm, three prior heads": replace(SMALL_RSSM, prior_heads=3),
    "ensemble": EnsembleConfig(members=3, member=GRUConfig(hidden_size=8)),
    "ensemble of RSSMs": EnsembleConfig(members=3, member=SMALL_RSSM, member_per="dream"),
}


# of random weights: their standard deviation, and how many times as large those of the done head are
WEIGHTS = {"mdn_rnn": (0.6, 4), "gru": (1.0, 4), "ensemble": (0.8, 1), "rssm": (0.52, 1)}


def draws_s(memory):
    """Whether it is an RSSM, or made of them."""
    return any("posterior" in name for name, _ in memory.named_parameters())


def mortal(memory):
    """A random memory in which some dreams end soon and others do not."""
    within = getattr(memory, "of_members", None)                # whose parameters are [members, ...]
    head = memory.head if within is None else within.memory.head
    last = head[-1] if isinstance(head, nn.Sequential) else head
    std, of_done = WEIGHTS["rssm" if draws_s(memory) else memory.config.kind]
    for parameter in memory.parameters():
        nn.init.normal_(parameter, std=std)
    last.weight.data[..., -1, :] *= of_done
    last.bias.data[..., -1] = -BIAS[memory.config.death]
    return memory.requires_grad_(False)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def world(request, counted_latents):
    """A dream of a random M whose rollouts end at all times, some at the cap, which is no multiple of BLOCK."""
    torch.manual_seed(4)
    memory = mortal(MEMORIES[request.param.kind](request.param, 2, 1))
    return DreamWorld(memory, counted_latents, DreamConfig(temperature=1.2, max_steps=3 * BLOCK + 5))


def test_every_kind_is_tested():
    assert {config.kind for config in VARIANTS.values()} == MEMORIES.keys()


@pytest.fixture(params=[kind for kind, policy in CONTROLLERS.items() if hasattr(policy, "act")])
def kind(request):
    """A kind of controller that reads features alone."""
    return request.param


@pytest.fixture
def one_thread():
    """As workers have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agent_of(world):
    return Agent(TASKS["toy"], None, world.memory)


def controllers(world, members, seed=4, kind="linear"):
    config = CONTROLLERS[kind].Config()
    size = agent_of(world).parameter_count(config)
    parameters = np.random.default_rng(seed).normal(size=(members, size))
    return PolicySpec(config, {"parameters": parameters * SCALE.get(kind, 1)})


def fitness(world, **more):
    return DreamFitness(agent_of(world), world, **more)


def by_rollout(world, spec, seeds):
    """The same through the plain loop, [2, P, E]."""
    members = len(spec.arrays["parameters"])
    policy = agent_of(world).policy_of(spec.select(np.repeat(np.arange(members), len(seeds))))
    played = rollout(world, policy, list(seeds) * members)
    return np.stack([played.returns.numpy(), played.lengths.numpy()]).reshape(2, members, len(seeds))


def test_a_policy_that_reads_whole_states_dreams_in_the_plain_loop(world):
    """A few at a time, each from its own start and with its own chance."""
    spec = PolicySpec(CEMConfig(horizon=2, iterations=1, candidates=8, dreams=4), {"parameters": np.zeros((2, 0))})
    seeds, expected = SEEDS[:9], by_rollout(world, spec, SEEDS[:9])
    played = fitness(world).play(spec, seeds)
    np.testing.assert_array_equal(played[1], expected[1])
    np.testing.assert_allclose(played[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(played[:, 0], played[:, 1], rtol=1e-4)       # two of one policy
    assert len(np.unique(played[0, 0])) > 3


def test_dreams_that_have_gained_enough_end_as_in_the_plain_loop(world):
    spec = controllers(world, 11)
    returns, lengths = by_rollout(world, spec, SEEDS)
    cost = 2 * float(np.abs(returns / lengths).max())           # all gain by it
    world.config = replace(world.config, enough=float(np.quantile(returns + cost * lengths, 0.6)), step_cost=cost)
    played, expected = fitness(world).play(spec, SEEDS), by_rollout(world, spec, SEEDS)
    np.testing.assert_array_equal(played[1], expected[1])
    np.testing.assert_allclose(played[0], expected[0], atol=1e-3)
    over = expected[0] + cost * expected[1] >= world.config.enough
    assert 0.3 < over.mean() < 0.9 and (expected[1][over] < lengths[over]).any()
    np.testing.assert_array_equal(expected[1][~over], lengths[~over])


def test_a_reward_of_1_a_step_is_that_of_the_plain_loop(world):
    world.config = replace(world.config, reward="alive")
    played = fitness(world).play(controllers(world, 11), SEEDS)
    np.testing.assert_array_equal(played, by_rollout(world, controllers(world, 11), SEEDS))
    np.testing.assert_array_equal(played[0], played[1])


def test_it_equals_the_plain_loop(world, kind):
    spec = controllers(world, 11, kind=kind)
    played, expected = fitness(world).play(spec, SEEDS), by_rollout(world, spec, SEEDS)
    lengths = expected[1]
    assert lengths.min() < BLOCK and (lengths == world.config.max_steps).any()
    assert len(np.unique(lengths)) > 12
    np.testing.assert_array_equal(played[1], lengths)
    np.testing.assert_allclose(played[0], expected[0], atol=1e-3)


def with_pessimism(world, weight=0.0, limit=torch.inf):
    return DreamWorld(PessimisticMemory(world.memory, Pessimism(weight, limit)), world.latents, world.config)


def test_a_pessimistic_population_equals_the_plain_loop(world):
    """Where the memory may be uncertain at all, its returns are others, and some dreams end sooner."""
    spec = controllers(world, 11)
    level = with_pessimism(world, 0.7, 0.5)
    plain, played, expected = (f(spec, SEEDS) for f in (
        fitness(world).play, fitness(level).play, lambda spec, seeds: by_rollout(level, spec, seeds)))
    np.testing.assert_array_equal(played[1], expected[1])
    np.testing.assert_allclose(played[0], expected[0], atol=1e-3)
    several = any(getattr(world.memory.config, name, 1) > 1 for name in ("members", "prior_heads"))
    assert (played[1] <= plain[1]).all() and (played[1] < plain[1]).any() == several
    assert (played[0] != plain[0]).any() == several


def test_no_pessimism_changes_no_bit(world):
    spec, none = controllers(world, 11), with_pessimism(world)
    np.testing.assert_array_equal(fitness(none).play(spec, SEEDS), fitness(world).play(spec, SEEDS))
    np.testing.assert_array_equal(by_rollout(none, spec, SEEDS), by_rollout(world, spec, SEEDS))


def test_a_dream_is_the_same_to_the_last_bit_whatever_is_dreamt_beside_it(world, kind, one_thread):
    """Of an RSSM to rounding alone: its layers have inputs of all sizes (see PlainDreamer)."""
    same = partial(np.testing.assert_allclose, atol=1e-3) if draws_s(world.memory) else np.testing.assert_array_equal
    spec = controllers(world, 20, kind=kind)
    together = fitness(world).play(spec, SEEDS)
    one = [7, 7] if CONTROLLERS[kind].shared else [7]       # one of several, which does not act by a shared product
    for members in (one, [19, 7, 0], range(10, 20)):
        same(fitness(world).play(spec.select(members), SEEDS), together[:, members])
    same(fitness(world).play(spec, SEEDS[::-1]), together[:, :, ::-1])


def test_the_batch_shrinks_in_whole_widths_and_returns_stay_in_their_place(world, kind):
    """Each of the dreams has a controller and a seed of its own."""
    count, seeds = 3 * WIDTH + 7, np.arange(1000, 1000 + 3 * WIDTH + 7)
    spec, widths = controllers(world, count, seed={"actor": 2, "linear": 3}.get(kind, 0), kind=kind), []
    plain = Batch.compact

    class Watched(Batch):
        def compact(self):
            goes_on = plain(self)
            widths.append(len(self.alive))
            return goes_on

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(population, "Batch", Watched)
        played = dream(agent_of(world), spec, world.starts(seeds), seeds, torch.arange(count), world.config)
    assert widths == sorted(widths, reverse=True) and len(set(widths)) > 1
    assert all(width % WIDTH == 0 for width in widths)
    expected = rollout(world, agent_of(world).policy_of(spec), seeds)
    np.testing.assert_array_equal(played.lengths, expected.lengths)
    np.testing.assert_allclose(played.returns, expected.returns, atol=1e-3)


def test_what_a_gpu_runs_is_the_same_dream(world, kind):
    """Fixed shapes, masks, memory used again from generation to generation; here without the recording."""
    engine = GraphedDream(agent_of(world), world.config)
    seed = torch.arange(len(SEEDS[:5])).repeat(9)
    for generation, members in ((0, 9), (1, 9), (2, 4), (3, 9)):
        spec, seeds = controllers(world, members, generation, kind), np.array(SEEDS[:5]) + generation
        each = spec.select(np.repeat(np.arange(members), len(SEEDS[:5])))
        played = engine(each, world.starts(seeds), seeds, seed[:members * len(SEEDS[:5])])
        expected = by_rollout(world, spec, seeds)
        np.testing.assert_array_equal(played.lengths.reshape(members, -1), expected[1])
        np.testing.assert_allclose(played.returns.reshape(members, -1), expected[0], atol=1e-3)
    assert len(engine.recorded) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_dreams_what_the_cpu_dreams(world, kind):
    memory = type(world.memory)(world.memory.config, 2, 1).requires_grad_(False)
    memory.load_state_dict(world.memory.state_dict())
    on_gpu = DreamWorld(memory.cuda(), world.latents, world.config)
    spec = controllers(world, 23, kind=kind)
    for seeds in (SEEDS, [1, 2, 3, 4, 5]):
        played, expected = fitness(on_gpu).play(spec, seeds), fitness(world).play(spec, seeds)
        assert (played[1] == expected[1]).mean() > 0.95          # rounding may turn a death that hung on a hair
        same = played[1] == expected[1]
        np.testing.assert_allclose(played[0][same], expected[0][same], atol=1e-2)


class Diverging(nn.Module):
    """A memory of one latent that counts steps. A dream begun at z pays 1 a step and dies with step z; what comes after
    is no number."""

    z_size = action_size = 1
    feature_sizes = {"z": 1}
    observe_noise, imagine_noise = NoiseSize(), NoiseSize({"done": 1})

    def __init__(self, after):
        super().__init__()
        self.after = nn.Parameter(torch.tensor(after))

    def initial(self, z, noise=None):
        return State(z, (torch.zeros(len(z), 1),))

    def imagine(self, state, action, temperature, noise):
        t = state.inner[0] + 1
        left = state.features - t
        z, reward = torch.where(left >= 0, state.features, self.after), torch.where(left >= 0, 1.0, self.after)[:, 0]
        p_done = (left[:, 0] == 0).float()
        return Imagined(State(z, (t,)), reward, p_done, noise["done"][:, 0] < p_done, torch.zeros(len(t)), lambda: z)

    def latent(self, state):
        return state.features

    def dreamer(self, batch, temperature, bfloat16):
        return PlainDreamer(self, temperature)


@pytest.mark.parametrize("after", (torch.nan, torch.inf, -torch.inf))
def test_a_dead_dream_that_diverges_does_not_spoil_its_return(after):
    """A few among many go on being stepped after their death: in the plain loop as well as in the fast one."""
    lives = torch.full((60, 1), BLOCK + 4.0)
    lives[7], lives[30] = 3, 5
    world, seeds = DreamWorld(Diverging(after), None, DreamConfig(max_steps=2 * BLOCK)), np.arange(len(lives))
    world.starts = lambda seeds: world.memory.initial(lives[seeds])
    spec = controllers(world, 1).select(np.zeros(len(lives), int))
    plain = rollout(world, agent_of(world).policy_of(spec), seeds)
    fast = dream(agent_of(world), spec, world.starts(seeds), seeds, torch.arange(len(lives)), world.config)
    graphed = GraphedDream(agent_of(world), world.config)(spec, world.starts(seeds), seeds, torch.arange(len(lives)))
    for played in (plain, fast, graphed):
        assert played.lengths.tolist() == played.returns.tolist() == lives[:, 0].tolist()


def test_workers_dream_the_same_as_one_process(toy_run, tmp_path, one_thread):
    """To the last bit, with one, two or three of them, single-threaded as they are."""
    agent = load_agent(toy_run)
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(size=(9, 4)).astype(np.float32), counted_episode(e, 8)[1]) for e in range(5)]
    latents = make_latents(tmp_path, drawn)
    world = DreamWorld(agent.memory, latents, DreamConfig(max_steps=40))
    spec, seeds = controllers(world, 30), range(40)     # lives are short: some seeds tell the members apart
    expected = DreamFitness(agent, world).play(spec, seeds)
    assert expected[1].std(0).max() > 0 and expected[1].std(1).max() > 0
    for workers in (1, 3):
        with LocalExecutor(workers) as executor:
            fitness = DreamFitness(agent, world, executor)
            np.testing.assert_array_equal(fitness.play(spec, seeds), expected)
            np.testing.assert_array_equal(fitness(spec.select([0, 1]), seeds[:1]), expected[0, :2, :1])
