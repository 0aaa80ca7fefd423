"""Stage 1: random rollouts of the real game, one job for each episode; explore.py has those of later rounds."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from worldmodels import episodes
from worldmodels.envs import TASKS


@dataclass(frozen=True)
class CollectConfig:
    episodes: int = 10_000          # how many are played in the first round, with the random policy ...
    again: int = 10_000             # ... and in each later one, by the controller of the round before
    explore: float = 0.5            # the share of such an episode that is left to the random policy is drawn from 0 to this
    max_steps: int = 999            # each is cut here, counted in the game's own frames
    repeat: int = 1                 # the agent acts every so many frames of the game, here and ever after (paper: 1)
    min_steps: int = 0              # those of no more steps are not trained on (released code: 100 in TakeCover)
    policy: str = "paper"           # a random policy of the task (worldmodels/envs/policies.py)
    skill: int = 4                  # TakeCover: Doom's difficulty
    drawing: str = "fast"           # CarRacing: fast | official (gymnasium's own frames, from which scores always come)


def env_settings(task: str, config: CollectConfig) -> tuple:
    """The settings that a task's environment takes beside max_steps, as (name, value) pairs."""
    return tuple((name, getattr(config, name)) for name in TASKS[task].settings)


@lru_cache(maxsize=4)
def make_env(task: str, max_steps: int, settings: tuple):
    """This process's environment, reused across jobs: starting a game engine costs more than a short episode."""
    return TASKS[task].env(max_steps=max_steps, **dict(settings))


@dataclass(frozen=True)
class CollectJob:
    """Plays one episode with a random policy and, given a folder, stores it; returns (steps, return)."""

    task: str
    config: CollectConfig
    seed: int
    folder: Path | None = None

    @property
    def seeds(self) -> tuple[int]:
        return self.seed,

    def __call__(self) -> tuple[int, float]:
        task = TASKS[self.task]
        env = make_env(self.task, self.config.max_steps, env_settings(self.task, self.config))
        frame, _ = env.reset(seed=self.seed)
        track = episodes.Track(self.seed, [frame], [])
        for action in task.policies[self.config.policy](np.random.default_rng([self.seed, 1])):
            frame, reward, terminated, truncated, _ = env.step(action)
            track.seen.append(frame)
            track.moments.append((action, reward, terminated, truncated))
            if terminated or truncated:
                break
        if self.folder is not None:
            info = {"task": self.task, "seed": self.seed, "policy": self.config.policy, "env_id": task.env_id}
            episodes.write(episodes.episode_path(self.folder, self.seed), track.episode(), info)
        return len(track.moments), float(sum(reward for _, reward, *_ in track.moments))
