"""The real game, with V and M between it and the controller."""

from typing import Callable, Sequence

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldmodels.types import Memory, State, Step
from worldmodels.vision import VAE


class RealWorld:
    """Several episodes of a game in lockstep, so that V and M see a batch.

    `make_env` makes one environment; they are kept and reused. z is sampled with a generator of the episode's own seed.
    """

    slack = 0.0             # a finished game cannot be stepped

    def __init__(self, make_env: Callable[[], gymnasium.Env], vision: VAE, memory: Memory):
        self.make_env, self.vision, self.memory = make_env, vision, memory
        self.pool: list[gymnasium.Env] = []
        self.device = next(vision.parameters()).device

    def reset(self, seeds: Sequence[int]) -> State:
        while len(self.pool) < len(seeds):          # engines are started one after the other
            self.pool.append(self.make_env())
        self.envs = self.pool[:len(seeds)]
        self.noise = [np.random.default_rng([seed, 2]) for seed in seeds]
        self.frames = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(self.envs, seeds)])
        self.state = self.memory.initial(self._encode())
        return self.state

    def step(self, action: Tensor) -> Step:
        outcomes = [env.step(a) for env, a in zip(self.envs, action.cpu().numpy())]
        self.frames = np.stack([frame for frame, *_ in outcomes])
        reward, terminated, truncated = (torch.tensor(column, device=self.device) for column in
                                         zip(*((float(r), bool(te), bool(tr)) for _, r, te, tr, _ in outcomes)))
        self.state = self.memory.observe(self.state, action, self._encode())
        return Step(self.state, reward.float(), terminated | truncated)

    def keep(self, index: Tensor) -> State:
        self.envs = [self.envs[i] for i in index.tolist()]
        self.noise = [self.noise[i] for i in index.tolist()]
        self.frames = self.frames[index.cpu().numpy()]
        self.state = self.state.rows(index)
        return self.state

    def _encode(self) -> Tensor:
        mu, log_var = self.vision.encode(torch.from_numpy(self.frames).to(self.device))
        noise = np.stack([rng.standard_normal(mu.shape[-1], np.float32) for rng in self.noise])
        return mu + torch.exp(0.5 * log_var) * torch.from_numpy(noise).to(self.device)
