"""The one loop, on a scripted world in which every rollout knows its own number."""

import math

import pytest
import torch

from worldmodels.types import State, Step
from worldmodels.worlds.rollout import rollout


class Scripted:
    """Rollout b lives `seeds[b]` steps; its reward at step t is 100 b + t, after its end NaN. Features: its number, and steps
    left. Without slack a finished rollout must not be stepped."""

    def __init__(self, slack=0.0, lanes=math.inf):
        self.slack, self.lanes = slack, lanes

    def reset(self, seeds):
        self.number, self.t, self.left = torch.arange(0.0), torch.arange(0.0), torch.arange(0.0)
        self.begun, self.sizes = 0, []
        return self.go_on(torch.arange(0), seeds)

    def state(self):
        return State(torch.stack([self.number, self.left], -1), (self.left,))

    def step(self, action):
        assert torch.equal(action[:, 0], self.number), "an action reached another rollout"
        self.sizes.append(len(action))
        self.left -= 1
        assert self.slack or (self.left >= 0).all(), "a finished rollout was stepped"
        reward = torch.where(self.left >= 0, 100 * self.number + self.t, torch.nan)
        self.t = self.t + 1
        return Step(self.state(), reward, self.left == 0, torch.zeros_like(self.left, dtype=torch.bool))

    def go_on(self, index, seeds):
        new = torch.arange(self.begun, self.begun + len(seeds), dtype=torch.float32)
        self.begun += len(seeds)
        self.number, self.t = torch.cat([self.number[index], new]), torch.cat([self.t[index], 0 * new])
        self.left = torch.cat([self.left[index], torch.tensor(seeds, dtype=torch.float32)])
        return self.state()


class Own:
    """A policy with an own number for each rollout, which it acts."""

    def __init__(self, number):
        self.number = number

    def __call__(self, state):
        assert torch.equal(state.features[:, 0], self.number), "a state reached another rollout's policy"
        return self.number[:, None]

    def rows(self, index):
        return Own(self.number[index])


LIVES = [4, 1, 7, 1, 7, 2]


@pytest.mark.parametrize("lanes", (math.inf, 6, 3, 1))
@pytest.mark.parametrize("slack", (0.0, 0.3, 0.9))
def test_returns_and_lengths_are_those_of_each_rollout(slack, lanes):
    """Also where finished rollouts are stepped on for a while, what comes after an end does not count, and where the later
    ones begin when there is room."""
    played = rollout(Scripted(slack, lanes), Own(torch.arange(6.0)), LIVES)
    assert played.lengths.tolist() == LIVES
    assert played.returns.tolist() == [sum(100 * b + t for t in range(life)) for b, life in enumerate(LIVES)]


def test_finished_rollouts_are_dropped_at_once_without_slack():
    world = Scripted()
    rollout(world, Own(torch.arange(6.0)), LIVES)
    assert world.sizes == [sum(life > t for life in LIVES) for t in range(7)]


def test_finished_rollouts_are_replaced_at_once_while_there_are_others():
    world = Scripted(lanes=2)
    rollout(world, Own(torch.arange(6.0)), LIVES)
    assert world.sizes == [2] * 10 + [1, 1]             # 4 1 7 1 7 2: 22 steps, the last two of them alone


def test_finished_rollouts_are_dropped_once_they_exceed_the_slack():
    world = Scripted(slack=0.4)
    rollout(world, Own(torch.arange(6.0)), LIVES)
    assert world.sizes == [6, 6, 3, 3, 3, 3, 3]         # two of six are within it, three are not; one of three is
