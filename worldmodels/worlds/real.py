"""The real game, with V and M between it and the controller."""

from typing import Callable, Sequence

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldmodels.types import Memory, State, Step
from worldmodels.vision import VAE, frozen_encoder


class RealWorld:
    """Several episodes of a game in lockstep, so that V and M see a batch.

    `make_env` makes one environment; they are kept and reused. `shrink` makes [B, 64, 64, 3] of their observations, where those
    are not. z is sampled with a generator of the episode's own seed.
    """

    slack = 0.0             # a finished game cannot be stepped

    def __init__(self, make_env: Callable[[], gymnasium.Env], vision: VAE, memory: Memory,
                 shrink: Callable[[np.ndarray], np.ndarray] | None = None, lanes: int = 32):
        self.make_env, self.memory, self.lanes = make_env, memory, lanes
        self.shrink = shrink or (lambda observations: observations)
        self.encode = frozen_encoder(vision)
        self.pool: list[gymnasium.Env] = []
        self.device = next(vision.parameters()).device

    def reset(self, seeds: Sequence[int]) -> State:
        self.envs, self.noise, self.frames = [], [], np.empty((0, 64, 64, 3), np.uint8)
        self.state = self._begin(seeds)
        return self.state

    def step(self, action: Tensor) -> Step:
        frames, rewards, terminated, truncated, _ = zip(*(env.step(a) for env, a in zip(self.envs, action.cpu().numpy())))
        self.frames = self.shrink(np.stack(frames))
        self.state = self.memory.observe(self.state, action, self._sample(self.frames, self.noise))
        reward, terminated, truncated = (torch.tensor(values, device=self.device) for values in (rewards, terminated, truncated))
        return Step(self.state, reward.float(), terminated, truncated & ~terminated)

    def go_on(self, index: Tensor, seeds: Sequence[int]) -> State:
        kept = index.tolist()
        self.envs, self.noise = [self.envs[i] for i in kept], [self.noise[i] for i in kept]
        self.frames, self.state = self.frames[kept], self.state.rows(index)
        if seeds:
            self.state = State.joined([self.state, self._begin(seeds)])
        return self.state

    def close(self):
        for env in self.pool:
            env.close()

    def _begin(self, seeds: Sequence[int]) -> State:
        """Starts an episode for each seed, behind those that are played, and returns the states of the new ones."""
        free = [env for env in self.pool if env not in self.envs]
        while len(free) < len(seeds):               # engines are started one after the other
            free.append(self.make_env())
            self.pool.append(free[-1])
        envs, noise = free[:len(seeds)], [np.random.default_rng([seed, 2]) for seed in seeds]
        frames = self.shrink(np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds)]))
        self.envs, self.noise, self.frames = self.envs + envs, self.noise + noise, np.concatenate([self.frames, frames])
        return self.memory.initial(self._sample(frames, noise))

    def _sample(self, frames: np.ndarray, noise: list[np.random.Generator]) -> Tensor:
        """z of frames [B, 64, 64, 3], each drawn by its own generator."""
        mu, log_var = self.encode(torch.from_numpy(frames).to(self.device))
        drawn = np.stack([rng.standard_normal(mu.shape[-1], np.float32) for rng in noise])
        return mu + torch.exp(0.5 * log_var) * torch.from_numpy(drawn).to(self.device)
