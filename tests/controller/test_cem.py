"""The planner, on worlds whose best actions are known, and on every kind of memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.memory.test_memories import SMALL
from worldmodels.controller import CONTROLLERS, PolicySpec, build
from worldmodels.controller.actor import ActorConfig, actor_sizes, critic_sizes
from worldmodels.controller.cem import CEMConfig
from worldmodels.controller.network import parameter_count
from worldmodels.envs import TASKS
from worldmodels.memory import MEMORIES
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.noise import draw
from worldmodels.types import Imagined, NoiseSize, State


class World(nn.Module):
    """A memory of z [B, 1], to which an action adds itself, and what it is worth."""

    feature_sizes, observe_noise, imagine_noise = {"z": 1}, NoiseSize(), NoiseSize({"done": 1}, {"luck": 1})

    def __init__(self, reward=lambda z, a, luck: 0 * z, p_done=lambda z: 0 * z, uncertainty=lambda z: 0 * z):
        super().__init__()
        self.unused, self.pay, self.p_done, self.uncertainty = nn.Parameter(torch.zeros(1)), reward, p_done, uncertainty

    def initial(self, z, noise=None):
        return State(z, (z,))

    def observe(self, state, action, z, noise=None):
        return self.initial(z)

    def latent(self, state):
        return state.inner[0]

    def imagine(self, state, action, temperature, noise):
        z = self.latent(state) + action
        reward, p_done = self.pay(z, action, noise["luck"])[:, 0], self.p_done(z)[:, 0]
        return Imagined(self.initial(z), reward, p_done, noise["done"][:, 0] < p_done, self.uncertainty(z)[:, 0], None)

    def dreamer(self, batch, temperature):
        return PlainDreamer(self, temperature)


MUCH = {"horizon": 12, "iterations": 4, "candidates": 32, "elites": 4, "dreams": 4, "hold": 1}


def planner(memory, task="toy", seeds=(0,), **settings):
    policy = build(PolicySpec(CEMConfig(**MUCH | settings), {"parameters": np.zeros((1, 0))}),
                   SimpleNamespace(task=TASKS[task], memory=memory))
    policy.reset(seeds)
    return policy


def walked(memory, policy, z, steps):
    """Where a rollout is after each of some steps from z [B, 1] on, [steps, B]."""
    path = []
    for _ in range(steps):
        z = z + policy(memory.initial(z))
        path.append(z[:, 0])
    return torch.stack(path)


MANY = {"candidates": 256, "elites": 16}


@pytest.mark.parametrize("settings", ({}, {"warm_start": False, "iterations": 8}, {"dreams": 1}, {"horizon": 4}),
                         ids=str)
def test_it_goes_where_it_pays_and_stays(settings):
    memory = World(reward=lambda z, a, luck: -(z - 2).square() + luck)
    path = walked(memory, planner(memory, seeds=(0, 1, 2), **MANY | settings), torch.tensor([[0.0], [1.8], [5.0]]), 8)
    assert (path[-3:] - 2).abs().mean() < 0.25
    assert (path[1, 0] - 2).abs() < 0.35                # by the longest steps that there are, two of 1


def test_what_comes_after_an_end_is_worth_nothing():
    """Where every step pays the same, it is the longest life that pays. A planner that ignores ends, as PlaNet's, has
    no reason to go away from where they are."""
    memory = World(reward=lambda z, a, luck: torch.ones_like(z), p_done=lambda z: torch.sigmoid(4 * z))
    assert walked(memory, planner(memory), torch.zeros(1, 1), 3)[-1] < -2
    indifferent = World(reward=lambda z, a, luck: torch.ones_like(z))
    ends = torch.stack([walked(indifferent, planner(indifferent, seeds=[seed]), torch.zeros(1, 1), 3)[-1]
                        for seed in range(20)])
    assert ends.abs().mean() < 1.5


def test_uncertainty_costs_what_is_set():
    memory = World(reward=lambda z, a, luck: z, uncertainty=lambda z: 2 * z.clamp(min=0))
    for weight, way in ((0.0, 1), (0.4, 1), (0.6, -1)):         # z - weight * 2 z, where z is above zero
        z = walked(memory, planner(memory, uncertainty_weight=weight, horizon=3), torch.full((1, 1), 3.0), 2)[-1]
        assert (z - 3).sign() == way


def test_sequences_are_compared_under_the_same_chance():
    """Where luck is all that pays, none earns more than another, and the mean of the elites is that of the first."""
    earned = []
    memory = World(reward=lambda z, a, luck: luck)
    policy = planner(memory, seeds=(3, 4))
    one = policy._earned
    policy._earned = lambda *args: earned.append(one(*args)) or earned[-1]
    policy(memory.initial(torch.zeros(2, 1)))
    assert torch.equal(earned[0], earned[0][:, :1].expand_as(earned[0])) and torch.equal(earned[0], earned[-1])
    assert earned[0][0, 0] != earned[0][1, 0]                   # each rollout has luck of its own


@pytest.mark.parametrize("warm_start", (True, False))
def test_a_plan_goes_on_from_the_last_one_a_step_later_where_it_is_to(warm_start):
    memory = World(reward=lambda z, a, luck: a)                 # the most at every step
    policy = planner(memory, horizon=4, warm_start=warm_start, iterations=6)
    policy(memory.initial(torch.zeros(1, 1)))
    assert (policy.plan[0, :3] > 0.8).all() and policy.plan[0, 3] == 0
    policy.config = CEMConfig(horizon=4, iterations=1, candidates=1, elites=1, warm_start=warm_start)
    policy.std = 0 * policy.std                                 # what is drawn is the mean
    assert (policy(memory.initial(torch.zeros(1, 1))) > 0.8) == warm_start


def test_steps_that_are_held_together_differ_from_the_plan_alike():
    memory = World(reward=lambda z, a, luck: z)
    policy, tried = planner(memory, seeds=(3,), horizon=5, hold=2, iterations=1), []
    earned = policy._earned
    policy._earned = lambda state, action, *args: tried.append(action) or earned(state, action, *args)
    policy.std = 0.1 * policy.std                                   # within the box
    policy(memory.initial(torch.zeros(1, 1)))
    action = tried[0][0, :, :, 0]                                   # [N, H]
    assert torch.equal(action[:, 0], action[:, 1]) and torch.equal(action[:, 2], action[:, 3])
    assert (action[:, 1] != action[:, 2]).all() and (action[:, 3] != action[:, 4]).all()


def test_noise_is_added_within_the_box():
    memory = World(reward=lambda z, a, luck: -a.square())
    begin = memory.initial(torch.zeros(200, 1))
    actions = lambda noise: planner(memory, seeds=range(200), horizon=1, noise=noise)(begin)
    assert actions(0.0).std() < 0.1 and abs(actions(0.3).std() - 0.3) < 0.06
    assert actions(3.0).abs().max() == 1


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("task", ("toy", "car_racing"))
def test_a_plan_is_its_rollouts_own_with_every_memory(kind, task):
    """It lies in the task's box, and does not depend on the rollouts beside it: a few of them leave, others begin."""
    torch.manual_seed(0)
    memory = MEMORIES[kind](MEMORIES[kind].Config(**SMALL[kind]), 8, TASKS[task].action_size)
    noise = next(draw(memory.observe_noise, 6, torch.Generator().manual_seed(0), torch.zeros(1)))
    states = memory.initial(torch.randn(6, 8), noise)
    settings = {"horizon": 3, "iterations": 2}
    together = planner(memory, task, (10, 11, 12, 13), **settings)
    first = together(states.select(torch.arange(4)))
    together.select_and_reset(torch.tensor([3, 1]), [14])
    second = together(states.select(torch.tensor([3, 1, 4])))
    assert all(TASKS[task].action_space.contains(row.numpy()) for row in torch.cat([first, second]))
    assert torch.pdist(first).max() > 0
    for seed, here, plans in ((11, 1, (first[1], second[1])), (13, 3, (first[3], second[0])), (14, 4, (second[2],))):
        alone = planner(memory, task, (seed,), **settings)
        for plan in plans:
            torch.testing.assert_close(alone(states.select(torch.tensor([here])))[0], plan, atol=1e-4, rtol=0)


ACTOR = ActorConfig(units=1, layers=1, critic="value")


def guided(memory, parameters, critic, seeds=(0,), task="toy", **settings):
    """A planner guided by actors and critics of these parameters, [P, n] and [P, m]."""
    spec = PolicySpec(CEMConfig(**MUCH | {"guided": True, "actor": ACTOR} | settings),
                      {"parameters": np.asarray(parameters), "critic": np.asarray(critic)})
    policy = build(spec, SimpleNamespace(task=TASKS[task], memory=memory))
    policy.reset(seeds)
    return policy


def actor_of(slope, shift):
    """A row of parameters: the actor does tanh(mu), mu being about slope z + shift where z > -20."""
    return [1.0, 20.0, slope, 0.0, shift - 20 * slope, 0.0]     # elu(z + 20) = z + 20; the second output is sigma's


def critic_of(slope):
    """A row of a critic's parameters: z is worth slope z where z > -20."""
    return [1.0, 20.0, slope, -20 * slope]


STILL = [0.0] * 6                               # an actor that does nothing
NOTHING_ELSE = {"iterations": 1, "elites": 1, "guided_std": 0.0}


def actor_alone(memory, parameters, seeds):
    policy = build(PolicySpec(ACTOR, {"parameters": np.array([parameters])}),
                   SimpleNamespace(task=TASKS["toy"], memory=memory))
    policy.reset(seeds)
    return policy


@pytest.mark.parametrize("settings", (NOTHING_ELSE, {"elites": 1, "candidates": 64}),
                         ids=("none is tried", "none pays"))
def test_where_no_change_is_better_the_guide_acts(settings):
    """To do as it does is one of the sequences. Here it does what pays, wherever the dream has come to."""
    memory, begin = World(reward=lambda z, a, luck: -(a - torch.tanh(0.3 - 0.4 * (z - a))).square()), torch.tensor(
        [[0.0], [2.5], [-4.0]])
    parameters = actor_of(-0.4, 0.3)
    policy = guided(memory, [parameters], [critic_of(0.0)], range(3), horizon=4, **settings)
    expected = actor_alone(memory, parameters, range(3))(memory.initial(begin))
    torch.testing.assert_close(policy(memory.initial(begin)), expected, atol=1e-5, rtol=0)
    assert torch.pdist(expected).min() > 0.1 and not policy.plan.any()


def test_a_change_that_pays_is_made_as_far_as_it_was_tried():
    memory, begin, parameters = World(reward=lambda z, a, luck: z), torch.zeros(3, 1), actor_of(0.0, 0.3)
    guide = actor_alone(memory, parameters, range(3))(memory.initial(begin))
    for std in (0.05, 0.2):                 # of one step, so that it alone decides
        policy = guided(memory, [parameters], [critic_of(0.0)], range(3), horizon=1, iterations=1, guided_std=std)
        change = policy(memory.initial(begin)) - guide
        assert (change > 0.5 * std).all() and (change < 3.5 * std).all()


@pytest.mark.parametrize("way", (1, -1))
def test_the_critic_says_what_the_end_is_worth(way):
    """Where nothing else pays."""
    memory = World()
    path = walked(memory, guided(memory, [STILL], [critic_of(way)], (0, 1), horizon=3), torch.zeros(2, 1), 4)
    assert (way * path.diff(dim=0) > 0.1).all()


@pytest.mark.parametrize("discount, p_done, way", ((1.0, 0.0, 1), (0.9, 0.0, 1), (0.5, 0.0, -1), (1.0, 0.5, -1)))
def test_the_end_is_discounted_and_worth_nothing_to_the_dead(discount, p_done, way):
    """A step to the right costs 1 at once and brings the critic's 2 after three steps: 2 (discount (1 - p_done))^3."""
    memory = World(reward=lambda z, a, luck: -a, p_done=lambda z: torch.full_like(z, p_done))
    policy = guided(memory, [STILL], [critic_of(2.0)], range(5), horizon=3, discount=discount, candidates=128)
    action = policy(memory.initial(torch.zeros(5, 1)))
    assert (way * action > 0).all()


@pytest.mark.parametrize("discount, way", ((1.0, 1), (0.4, -1)))
def test_rewards_are_discounted_without_a_guide_too(discount, way):
    """An action costs its size at once and pays twice that, as z, in the step after."""
    memory = World(reward=lambda z, a, luck: 2 * (z - a) - a)
    policy = planner(memory, horizon=2, discount=discount, seeds=range(5), **MANY)
    assert (way * policy(memory.initial(torch.zeros(5, 1))) > 0.5).all()


def test_each_rollout_is_guided_by_its_own_actor_and_critic():
    """A few of them leave, others begin."""
    memory = World(reward=lambda z, a, luck: 0.1 * luck)
    parameters = [actor_of(0.3 * (-1)**row, 0.2 * row - 0.5) for row in range(6)]
    critic = [critic_of((-1.0)**row * (row + 1)) for row in range(6)]
    settings = {"horizon": 3, "iterations": 2, "candidates": 8}
    z = torch.linspace(-2, 2, 6)[:, None]
    together = guided(memory, parameters, critic, (10, 11, 12, 13), **settings)
    first = together(memory.initial(z[:4]))
    together.select_and_reset(torch.tensor([3, 1]), [14])
    second = together(memory.initial(z[[3, 1, 4]]))
    for row, plans in ((1, (first[1], second[1])), (3, (first[3], second[0])), (4, (second[2],))):
        alone = guided(memory, parameters[row:row + 1], critic[row:row + 1], (10 + row,), **settings)
        for plan in plans:
            torch.testing.assert_close(alone(memory.initial(z[row:row + 1]))[0], plan, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("task", ("take_cover", "car_racing"))
def test_a_guided_plan_lies_in_the_box_with_every_memory(kind, task):
    torch.manual_seed(0)
    memory = MEMORIES[kind](MEMORIES[kind].Config(**SMALL[kind]), 8, TASKS[task].action_size)
    noise = next(draw(memory.observe_noise, 4, torch.Generator().manual_seed(0), torch.zeros(1)))
    states, actor = memory.initial(torch.randn(4, 8), noise), ActorConfig(units=5)
    agent, rng = SimpleNamespace(task=TASKS[task], memory=memory), np.random.default_rng(0)
    sizes = actor_sizes(actor, agent), critic_sizes(actor, agent)
    parameters, critic = (0.3 * rng.normal(size=(4, parameter_count(of))) for of in sizes)
    policy = guided(memory, parameters, critic, range(4), task, actor=actor, horizon=3, iterations=2, candidates=8)
    action = policy(states)
    assert all(TASKS[task].action_space.contains(row.numpy()) for row in action)
    assert torch.pdist(action).max() > 0


def test_a_guided_planner_has_its_actors_number_of_parameters():
    agent = SimpleNamespace(task=TASKS["toy"], memory=World())
    size = CONTROLLERS["cem"].size
    assert size(CEMConfig(guided=True, actor=ACTOR), agent) == len(actor_of(0, 0)) and size(CEMConfig(), agent) == 0
