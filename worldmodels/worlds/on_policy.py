"""Episodes of the real game that an actor plays with its noise, to learn from them (controller/ppo.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.controller import PolicySpec
from worldmodels.controller.actor import NoisyActor
from worldmodels.controller.learner import OnPolicyEpisode
from worldmodels.types import Seeds, State, Step, World
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.record import recorded


class Squashed:
    """A world whose actions are outputs that are not yet squashed."""

    def __init__(self, world: World, squash: Callable[[Tensor], Tensor]):
        self.world, self.squash = world, squash
        self.max_batch, self.compact_above = world.max_batch, world.compact_above

    def reset(self, seeds: Seeds) -> State:
        return self.world.reset(seeds)

    def step(self, action: Tensor) -> Step:
        return self.world.step(self.squash(action))

    def select_and_reset(self, index: Tensor, seeds: Seeds) -> State:
        return self.world.select_and_reset(index, seeds)


def on_policy_episodes(world: RealWorld, agent: Agent, spec: PolicySpec, seeds: Seeds) -> list[OnPolicyEpisode]:
    """An episode for each seed, with the only actor of a spec."""
    see = lambda: list(np.copy(world.state.features.cpu().numpy()))
    actor: Any = agent.policy_of(spec)
    played = recorded(Squashed(world, agent.task.smooth_squash), NoisyActor(actor), seeds, see)
    return [OnPolicyEpisode(e.frames, e.action, e.reward, bool(e.terminated[-1])) for e in played]
