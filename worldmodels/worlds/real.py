"""The real game, with V and M between it and the controller."""

from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldmodels.agent import Agent, Observer
from worldmodels.types import Memory, Seeds, State, Step, Vision


class RealWorld:
    """Several episodes of a game in lockstep, so that V and M see a batch.

    `make_env` makes one environment; they are kept and reused. `shrink` makes [B, 64, 64, 3] of their observations,
    where those are not.
    """

    compact_above = 0.0             # a finished game cannot be stepped
    info: dict[str, Tensor] = {}    # a game says no more of a step than its outcome

    def __init__(self, make_env: Callable[[], gymnasium.Env], vision: Vision, memory: Memory,
                 shrink: Callable[[np.ndarray], np.ndarray] | None = None, max_batch: int = 32):
        self.make_env, self.memory, self.max_batch = make_env, memory, max_batch
        self.observer = Observer(vision, memory)
        self.shrink = shrink or (lambda observations: observations)
        self.pool: list[gymnasium.Env] = []
        self.device = self.observer.device

    @property
    def state(self) -> State:
        return self.observer.state

    def reset(self, seeds: Seeds) -> State:
        self.envs, self.frames = [], np.empty((0, 64, 64, 3), np.uint8)
        return self.select_and_reset(torch.zeros(0, dtype=torch.int64), seeds)

    def step(self, action: Tensor) -> Step:
        steps = (env.step(a) for env, a in zip(self.envs, action.cpu().numpy()))
        frames, rewards, terminated, truncated, _ = zip(*steps)
        self.frames = self.shrink(np.stack(frames))
        state = self.observer.observe(action, self.frames)
        reward, terminated, truncated = (torch.tensor(values, device=self.device)
                                         for values in (rewards, terminated, truncated))
        return Step(state, reward.float(), terminated, truncated & ~terminated)

    def select_and_reset(self, index: Tensor, seeds: Seeds) -> State:
        """See types.World. Engines are started one after the other."""
        self.envs = [self.envs[i] for i in index.tolist()]
        free = [env for env in self.pool if env not in self.envs]
        while len(free) < len(seeds):
            free.append(self.make_env())
            self.pool.append(free[-1])
        begun = [env.reset(seed=int(seed))[0] for env, seed in zip(free, seeds)]
        frames = self.shrink(np.stack(begun)) if begun else self.frames[:0]
        self.envs += free[:len(seeds)]
        self.frames = np.concatenate([self.frames[index.cpu().numpy()], frames])
        return self.observer.select_and_begin(index, frames, seeds)

    def close(self):
        for env in self.pool:
            env.close()


def real_world(agent: Agent, max_steps: int, settings: tuple, render_mode: str | None = None) -> RealWorld:
    """The agent's game, `max_steps` frames long, with the environment's `settings` (collect.env_settings)."""
    task, settings = agent.task, dict(settings)
    if task.shrink is not None:
        settings["raw"] = True
    make_env = lambda: task.env(max_steps=max_steps, render_mode=render_mode, **settings)
    return RealWorld(make_env, agent.vision, agent.memory, task.shrink, task.max_batch)
