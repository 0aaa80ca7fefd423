"""Collecting again, with a controller (the iterative procedure of Ha & Schmidhuber 2018, sec. 5): it plays, and now and then leaves
the game to a random policy for a while, so that M learns what comes of other actions where the controller leads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels.envs import TASKS
from worldmodels.episodes import Track, episode_path, write
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
    """The real game, of which `see()` tells what there is to remember of each rollout, [B, ...], and whose episodes are handed to
    `end` as they end, in that order."""

    slack = RealWorld.slack

    def __init__(self, world: RealWorld, see: Callable[[], np.ndarray], end: Callable[[Track], None]):
        self.world, self.see, self.end, self.lanes = world, see, end, world.lanes

    def reset(self, seeds: Sequence[int]) -> State:
        state = self.world.reset(seeds)
        self.tracks = [Track(seed, [seen.copy()], []) for seed, seen in zip(seeds, self.see())]
        return state

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        for track, seen, *moment in zip(self.tracks, self.see(), *(t.numpy() for t in (action, *step[1:]))):
            track.seen.append(seen.copy())
            track.moments.append(moment)
        for track, done in zip(self.tracks, step.done):
            if done:
                self.end(track)
        return step

    def go_on(self, index: Tensor, seeds: Sequence[int]) -> State:
        state = self.world.go_on(index, seeds)
        self.tracks = [self.tracks[i] for i in index.tolist()]
        new = self.see()[len(self.tracks):]
        self.tracks += [Track(seed, [seen.copy()], []) for seed, seen in zip(seeds, new)]
        return state


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
        end = lambda track: write(episode_path(self.folder, track.seed), track.episode(), info | {"seed": track.seed})
        played = rollout(Recorder(world, lambda: world.frames, end), policy, self.seeds)
        return played.lengths.numpy(), played.returns.numpy()
