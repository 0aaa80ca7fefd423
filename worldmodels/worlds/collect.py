"""Stage 1: random rollouts of the real game, one job for each episode; explore.py has those of later rounds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldmodels import episodes
from worldmodels.commandline import Count, Range, Share, Skill, Weight, Whole
from worldmodels.envs import Task
from worldmodels.files import write_atomic
from worldmodels.runs import EPISODES_PER_STAGE
from worldmodels.types import Seeds, State


@dataclass(frozen=True)
class CollectConfig:
    # to train on, of the first round: played by the random policy, and longer than min_steps
    episodes: Annotated[int, Range(1, EPISODES_PER_STAGE)] = 10_000
    # in each later one, by the controller of the round before
    episodes_per_round: Annotated[int, Range(1, EPISODES_PER_STAGE)] = 10_000
    explore_share: Share = 0.5      # of such an episode the random policy plays a share that is drawn from 0 to this
    weight_noise: Share = 0.0       # of the variance of its parameters a share, drawn from 0 to this, is noise
    # it is then another controller, trained in dreams in which each unit of M's uncertainty earns so much more
    disagreement_bonus: Weight = 0.0
    max_steps: Count = 999          # an episode is cut here, counted in the game's own frames
    repeat: Count = 1               # the agent acts every so many frames of the game, here and ever after (paper: 1)
    min_steps: Whole = 0            # episodes of no more steps are not trained on (released code: 100 in TakeCover)
    # whether the random policy plays on after a game's end, up to max_steps (released code: CarRacing)
    ignore_end: bool = False
    policy: str = "paper"           # a random policy of the task
    skill: Skill = 4                # TakeCover: Doom's difficulty
    # CarRacing: ours, or gymnasium's own frames, from which scores always come
    drawing: Literal["fast", "official"] = "fast"


def env_settings(task: Task, config: CollectConfig) -> tuple:
    """The settings that a task's environment takes beside max_steps, as (name, value) pairs."""
    return tuple((name, getattr(config, name)) for name in task.settings)


@lru_cache(maxsize=4)
def make_env(task: Task, max_steps: int, settings: tuple) -> gymnasium.Env:
    """This process's environment, reused across jobs: starting a game engine costs more than a short episode."""
    return task.env(max_steps=max_steps, **dict(settings))


class RandomPolicy:
    """One of a task's random policies, for each rollout its own."""

    def __init__(self, policy: Callable, device):
        self.policy, self.device, self.streams = policy, device, []

    def reset(self, seeds: Seeds):
        self.streams = [self.policy(np.random.default_rng([seed, 1])) for seed in seeds]

    def __call__(self, state: State) -> Tensor:
        return torch.from_numpy(np.stack([next(stream) for stream in self.streams])).to(self.device)

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        kept = [self.streams[i] for i in index.tolist()]
        self.reset(seeds)
        self.streams = kept + self.streams


JOBS = 64           # at least, where there are as many episodes ...
TOGETHER = 8        # ... and this many episodes in a job at most


class Collected(NamedTuple):
    """N episodes that a job has played."""

    steps: np.ndarray           # [N]
    returns: np.ndarray         # [N]
    files: dict[int, bytes]     # what is to be stored of them, by seed

    def write(self, folder: Path):
        """One file an episode."""
        for seed, data in self.files.items():
            write_atomic(episodes.episode_path(folder, seed), data)


@dataclass(frozen=True)
class CollectJob:
    """Plays an episode for each seed with a random policy; with `kept`, their files are in the result."""

    task: Task
    config: CollectConfig
    seeds: tuple[int, ...]
    kept: bool = False

    def __call__(self) -> Collected:
        tracks, files = list(map(self.play, self.seeds)), {}
        for track in tracks if self.kept else ():
            info = {"task": self.task.name, "seed": track.seed, "policy": self.config.policy,
                    "env_id": self.task.env_id}
            files[track.seed] = episodes.packed(track.episode(), info)
        returns = [float(sum(reward for _, reward, *_ in track.moments)) for track in tracks]
        return Collected(np.array([len(track.moments) for track in tracks]), np.array(returns), files)

    def play(self, seed: int) -> episodes.Track:
        env = make_env(self.task, self.config.max_steps, env_settings(self.task, self.config))
        frame, _ = env.reset(seed=seed)
        track = episodes.Track(seed, [frame], [])
        for action in self.task.policies[self.config.policy](np.random.default_rng([seed, 1])):
            frame, reward, terminated, truncated, _ = env.step(action)
            terminated = terminated and not self.config.ignore_end
            track.seen.append(frame)
            track.moments.append((action, reward, terminated, truncated))
            if terminated or truncated:
                break
        return track


def collect_jobs(task: Task, config: CollectConfig, seeds: Seeds, kept: bool = False) -> list[CollectJob]:
    """Episodes of a random policy, several in a job where they are many: to send a job takes as long as to play a short
    episode."""
    size = min(TOGETHER, -(-len(seeds) // JOBS))
    return [CollectJob(task, config, tuple(seeds[i:i + size]), kept) for i in range(0, len(seeds), max(1, size))]
