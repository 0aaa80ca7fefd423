"""The one loop, on a scripted world in which every rollout knows its own number."""

import math

import pytest
import torch

from worldmodels.types import State, Step
from worldmodels.worlds.rollout import rollout


class Scripted:
    """Rollout b lives `seeds[b]` steps; its reward at step t is 100 b + t, after its end NaN. Features: its number, and
    steps left. Where nothing may be above `compact_above` a finished rollout must not be stepped."""

    def __init__(self, compact_above=0.0, max_batch=math.inf):
        self.compact_above, self.max_batch = compact_above, max_batch

    def reset(self, seeds):
        self.number, self.t, self.left = torch.arange(0.0), torch.arange(0.0), torch.arange(0.0)
        self.begun, self.sizes = 0, []
        return self.select_and_reset(torch.arange(0), seeds)

    def state(self):
        return State(torch.stack([self.number, self.left], -1), (self.left,))

    def step(self, action):
        assert torch.equal(action[:, 0], self.number), "an action reached another rollout"
        self.sizes.append(len(action))
        self.left -= 1
        assert self.compact_above or (self.left >= 0).all(), "a finished rollout was stepped"
        reward = torch.where(self.left >= 0, 100 * self.number + self.t, torch.nan)
        self.t = self.t + 1
        return Step(self.state(), reward, self.left == 0, torch.zeros_like(self.left, dtype=torch.bool))

    def select_and_reset(self, index, seeds):
        new = torch.arange(self.begun, self.begun + len(seeds), dtype=torch.float32)
        self.begun += len(seeds)
        self.number, self.t = torch.cat([self.number[index], new]), torch.cat([self.t[index], 0 * new])
        self.left = torch.cat([self.left[index], torch.tensor(seeds, dtype=torch.float32)])
        return self.state()


class Own:
    """A policy with an own number for each rollout, which it acts, and the seed that the rollout began with."""

    def reset(self, seeds):
        self.begun, self.number, self.seeds = 0, torch.arange(0.0), []
        self.select_and_reset(torch.arange(0), seeds)

    def __call__(self, state):
        assert torch.equal(state.features[:, 0], self.number), "a state reached another rollout's policy"
        assert (state.features[:, 1] <= torch.tensor(self.seeds)).all(), "a rollout's policy began with another seed"
        return self.number[:, None]

    def select_and_reset(self, index, seeds):
        self.number = torch.cat([self.number[index], torch.arange(self.begun, self.begun + len(seeds)).float()])
        self.seeds = [self.seeds[i] for i in index.tolist()] + list(seeds)
        self.begun += len(seeds)


LIVES = [4, 1, 7, 1, 7, 2]


@pytest.mark.parametrize("max_batch", (math.inf, 6, 3, 1))
@pytest.mark.parametrize("compact_above", (0.0, 0.3, 0.9))
def test_returns_and_lengths_are_those_of_each_rollout(compact_above, max_batch):
    """Also where finished rollouts are stepped on for a while, what comes after an end does not count, and where the
    later ones begin when there is room."""
    played = rollout(Scripted(compact_above, max_batch), Own(), LIVES)
    assert played.lengths.tolist() == LIVES
    assert played.returns.tolist() == [sum(100 * b + t for t in range(life)) for b, life in enumerate(LIVES)]


@pytest.mark.parametrize("max_batch", (math.inf, 3, 1))
@pytest.mark.parametrize("compact_above", (0.0, 0.9))
def test_no_rollout_lasts_longer_than_was_asked_for(compact_above, max_batch):
    """Each is cut by its own steps, also one that began later."""
    played = rollout(Scripted(compact_above, max_batch), Own(), LIVES, max_steps=3)
    assert played.lengths.tolist() == [min(life, 3) for life in LIVES]
    assert played.returns.tolist() == [sum(100 * b + t for t in range(min(life, 3))) for b, life in enumerate(LIVES)]


def test_finished_rollouts_are_dropped_at_once_where_none_may_be_above():
    world = Scripted()
    rollout(world, Own(), LIVES)
    assert world.sizes == [sum(life > t for life in LIVES) for t in range(7)]


def test_finished_rollouts_are_replaced_at_once_while_there_are_others():
    world = Scripted(max_batch=2)
    rollout(world, Own(), LIVES)
    assert world.sizes == [2] * 10 + [1, 1]             # 4 1 7 1 7 2: 22 steps, the last two of them alone


def test_finished_rollouts_are_dropped_once_they_exceed_their_share():
    world = Scripted(compact_above=0.4)
    rollout(world, Own(), LIVES)
    assert world.sizes == [6, 6, 3, 3, 3, 3, 3]         # two of six are within it, three are not; one of three is
