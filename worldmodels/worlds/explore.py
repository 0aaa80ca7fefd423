"""Collecting again, with a controller (the iterative procedure of Ha & Schmidhuber 2018, sec. 5): it plays, and now and then leaves
the game to a random policy for a while, so that M learns what comes of other actions where the controller leads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels import episodes
from worldmodels.envs import TASKS
from worldmodels.runs import Run
from worldmodels.types import Policy, State, Step
from worldmodels.worlds.agent import worker_world
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.rollout import rollout

LONGEST = 32        # steps: the longest mean stretch that is left to the random policy


class Explorer:
    """A policy and, for each rollout, a stream of actions or None: an action is taken instead of the policy's own."""

    def __init__(self, policy: Policy, streams: Sequence[Iterator[np.ndarray | None]]):
        self.policy, self.streams = policy, streams

    def __call__(self, state: State) -> Tensor:
        action = self.policy(state)
        for row, other in zip(action, map(next, self.streams)):
            if other is not None:
                row.copy_(torch.from_numpy(other))
        return action

    def rows(self, index: Tensor) -> "Explorer":
        """Itself for the rollouts `index` [N]."""
        return Explorer(self.policy.rows(index), [self.streams[i] for i in index.tolist()])


def stretches(policy: Callable, share: float, seed: int) -> Iterator[np.ndarray | None]:
    """A random policy's actions in stretches, and None between them. How much of an episode they are, up to `share`, and how long
    (1 to LONGEST steps on average) are drawn for each episode."""
    rng, actions = np.random.default_rng([seed, 4]), policy(np.random.default_rng([seed, 1]))
    mine, mean, exploring = rng.uniform(0, share), LONGEST ** rng.uniform(), False
    while True:
        if rng.random() < (1 / mean if exploring else mine / (1 - mine) / mean):
            exploring = not exploring
        yield next(actions) if exploring else None


class Recorder:
    """The real game, whose episodes are stored as they end."""

    slack = RealWorld.slack

    def __init__(self, world: RealWorld, folder: Path, info: dict):
        self.world, self.folder, self.info, self.lanes = world, folder, info, world.lanes

    def reset(self, seeds: Sequence[int]) -> State:
        state = self.world.reset(seeds)
        self.tracks = self._tracks(seeds, self.world.frames)
        return state

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        for track, frame, *moment in zip(self.tracks, self.world.frames, action.numpy(), step.reward.numpy(), *self.world.ends):
            track.frames.append(frame.copy())
            track.moments.append(moment)
        for track, done in zip(self.tracks, step.done):
            if done:
                track.write(self.folder, self.info)
        return step

    def go_on(self, index: Tensor, seeds: Sequence[int]) -> State:
        state = self.world.go_on(index, seeds)
        kept = [self.tracks[i] for i in index.tolist()]
        self.tracks = kept + self._tracks(seeds, self.world.frames[len(kept):])
        return state

    def _tracks(self, seeds: Sequence[int], frames: np.ndarray) -> list["Track"]:
        return [Track(seed, [frame.copy()], []) for seed, frame in zip(seeds, frames)]


@dataclass
class Track:
    """An episode that is not finished."""

    seed: int
    frames: list
    moments: list           # action, reward, terminated, truncated of each step

    def write(self, folder: Path, info: dict):
        action, reward, terminated, truncated = map(np.stack, zip(*self.moments))
        episode = episodes.Episode(np.stack(self.frames), action, reward, terminated, truncated)
        episodes.write(episodes.episode_path(folder, self.seed), episode, info | {"seed": self.seed})


@dataclass(frozen=True, repr=False)
class ExploreJob:
    """Plays and stores an episode for each seed; a pure function of its fields, `digest` being that of V and M."""

    run: Run                    # whose round has the controller
    digest: str
    config: CollectConfig
    settings: tuple             # the environment's beside max_steps
    parameters: np.ndarray      # [n], the controller's
    seeds: tuple[int, ...]
    folder: Path

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and returns [N] of the episodes."""
        agent, world = worker_world(self.run, self.digest, self.config.max_steps, self.settings)
        random = TASKS[agent.task].policies[self.config.policy]
        streams = [stretches(random, self.config.explore, seed) for seed in self.seeds]
        policy = Explorer(agent.policy(self.parameters[None], len(self.seeds)), streams)
        info = {"task": agent.task, "policy": f"controller of round {self.run.round}, {self.config.policy}",
                "env_id": TASKS[agent.task].env_id}
        played = rollout(Recorder(world, self.folder, info), policy, self.seeds)
        return played.lengths.numpy(), played.returns.numpy()
