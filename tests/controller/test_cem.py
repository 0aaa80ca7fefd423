"""The planner, on worlds whose best actions are known, and on every kind of memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.memory.test_memories import SMALL
from worldmodels.controller import PolicySpec, build
from worldmodels.controller.cem import CEMConfig
from worldmodels.envs import TASKS
from worldmodels.memory import MEMORIES
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.noise import draw
from worldmodels.types import Imagined, NoiseSize, State


class World(nn.Module):
    """A memory of z [B, 1], to which an action adds itself, and what it is worth."""

    imagine_noise = NoiseSize({"done": 1}, {"luck": 1})

    def __init__(self, reward=lambda z, a, luck: 0 * z, p_done=lambda z: 0 * z, uncertainty=lambda z: 0 * z):
        super().__init__()
        self.unused, self.pay, self.p_done, self.uncertainty = nn.Parameter(torch.zeros(1)), reward, p_done, uncertainty

    def initial(self, z):
        return State(z, (z,))

    def imagine(self, state, action, temperature, noise):
        z = state.inner[0] + action
        reward = self.pay(z, action, noise["luck"])[:, 0]
        return Imagined(self.initial(z), reward, self.p_done(z)[:, 0], None, self.uncertainty(z)[:, 0], None)

    def dreamer(self, batch, temperature):
        return PlainDreamer(self, temperature)


def planner(memory, task="toy", seeds=(0,), **settings):
    policy = build(PolicySpec(CEMConfig(**settings), {"parameters": np.zeros((1, 0))}),
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
    imagined = policy._imagined

    def watched(*args):
        actions, of_each = imagined(*args)
        earned.append(of_each)
        return actions, of_each

    policy._imagined = watched
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
    policy.half = 0 * policy.half                               # what is drawn is the mean
    assert (policy(memory.initial(torch.zeros(1, 1))) > 0.8) == warm_start


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
