"""Collecting again, with a controller (the iterative procedure of Ha & Schmidhuber 2018, sec. 5): it plays, and now and
then leaves the game to a random policy for a while, so that M learns what comes of other actions where the controller
leads. With noise on its weights (Plappert et al. 2018) M also learns where worse controllers lead, which CMA-ES tries
on its way to a good one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodels.controller import PolicySpec
from worldmodels.envs import Task
from worldmodels.episodes import Track, packed
from worldmodels.executors import Shared
from worldmodels.types import Policy, Seeds, State
from worldmodels.worlds.collect import CollectConfig, Collected
from worldmodels.worlds.fitness import time_for, worker_world
from worldmodels.worlds.record import Recorder
from worldmodels.worlds.rollout import rollout

LONGEST = 32        # steps: the longest mean stretch that is left to the random policy


class Explorer:
    """A policy that leaves some steps to others: `stream(seed)` gives an action for each step of a rollout, or None."""

    def __init__(self, policy: Policy, stream: Callable[[int], Iterator[np.ndarray | None]]):
        self.policy, self.stream = policy, stream

    def reset(self, seeds: Seeds):
        self.policy.reset(seeds)
        self.streams = list(map(self.stream, seeds))

    def __call__(self, state: State) -> Tensor:
        action = self.policy(state)
        for row, other in zip(action, map(next, self.streams)):
            if other is not None:
                row.copy_(torch.from_numpy(other))
        return action

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        self.policy.select_and_reset(index, seeds)
        self.streams = [self.streams[i] for i in index.tolist()] + list(map(self.stream, seeds))


def stretches(policy: Callable, share: float, seed: int) -> Iterator[np.ndarray | None]:
    """A random policy's actions in stretches, and None between them. How much of an episode they are, up to `share`,
    and how long (1 to LONGEST steps on average) are drawn for each episode."""
    rng, actions = np.random.default_rng([seed, 4]), policy(np.random.default_rng([seed, 1]))
    mine, mean, exploring = rng.uniform(0, share), LONGEST ** rng.uniform(), False
    while True:
        if rng.random() < (1 / mean if exploring else mine / (1 - mine) / mean):
            exploring = not exploring
        yield next(actions) if exploring else None


def with_weight_noise(spec: PolicySpec, share: float, seeds: Seeds) -> PolicySpec:
    """A policy for each seed, in place of the only one: of the variance of its weights a share that is drawn from 0 to
    `share` is Gaussian noise. At 1 nothing is left of the policy but its scale."""
    def noisy(row: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, 7])
        mine, noise = rng.uniform(0, share), rng.standard_normal(row.shape) * np.sqrt(np.square(row).mean())
        return (np.sqrt(1 - mine) * row + np.sqrt(mine) * noise).astype(row.dtype)

    return spec._replace(arrays={name: np.stack([noisy(array[0], seed) for seed in seeds])
                                 for name, array in spec.arrays.items() if array.size} or spec.arrays)


@dataclass(frozen=True, repr=False)
class ExploreJob:
    """Plays an episode for each seed; their files are in the result."""

    task: Task
    agent: Shared               # V and M
    round: int                  # that has the controller
    config: CollectConfig
    settings: tuple             # the environment's beside max_steps
    spec: PolicySpec            # the controller
    seeds: tuple[int, ...]
    weight_noise: float = 0.0   # of the variance of the controller's weights a share from 0 to this is noise

    @property
    def deadline(self) -> float:
        return time_for(len(self.seeds) * self.config.max_steps)

    def __call__(self) -> Collected:
        agent, world = worker_world(self.task, self.agent, self.config.max_steps, self.settings)
        random = self.task.policies[self.config.policy]
        spec = with_weight_noise(self.spec, self.weight_noise, self.seeds) if self.weight_noise else self.spec
        policy = Explorer(agent.policy_of(spec), lambda seed: stretches(random, self.config.explore_share, seed))
        info = {"task": self.task.name, "policy": f"controller of round {self.round}, {self.config.policy}",
                "env_id": self.task.env_id}
        files = {}

        def end(track: Track):
            files[track.seed] = packed(track.episode(), info | {"seed": track.seed})

        played = rollout(Recorder(world, lambda: list(map(np.copy, world.frames)), end), policy, self.seeds)
        return Collected(played.lengths.numpy(), played.returns.numpy(), files)
