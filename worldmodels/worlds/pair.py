"""A dream and the real game side by side: from the same first frame on, given the same actions. To play in, and to look
at."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from worldmodels.agent import Agent
from worldmodels.memory.noise import OBSERVE, NoiseStream
from worldmodels.types import Policy, Step
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.real import real_world

COLDEST = 0.05          # the lowest temperature that one can play at


@dataclass
class Progress:
    """How far an episode has come."""

    score: float = 0.0              # the sum of its rewards
    steps: int = 0                  # actions
    terminated: bool = False
    truncated: bool = False

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def add(self, step: Step):
        """One step [1] more."""
        self.score, self.steps = self.score + step.reward.item(), self.steps + 1
        self.terminated, self.truncated = bool(step.terminated), bool(step.truncated)


class Pair:
    """What has ended stands still; a dream does so at the latest after as many steps as the game has."""

    def __init__(self, agent: Agent, collect: CollectConfig, temperature: float):
        self.agent, self.task = agent, agent.task
        self.game = real_world(agent, self.task.max_steps, env_settings(self.task, collect))
        self.dream = DreamWorld(agent.memory, None, DreamConfig(temperature, max_steps=self.task.steps(collect.repeat)))

    @property
    def temperature(self) -> float:
        return self.dream.config.temperature

    @temperature.setter
    def temperature(self, tau: float):
        self.dream.config = replace(self.dream.config, temperature=max(COLDEST, tau))

    @torch.inference_mode()
    def begin(self, seed: int):
        """The game of this seed, and the dream of what it shows first."""
        self.game.reset([seed])
        self.played, self.seed = Progress(), seed
        self.wake()

    def wake(self):
        """The dream goes on from the game's present: M has seen the real frames up to here."""
        seeds, memory = [self.seed + self.played.steps], self.agent.memory
        self.dream.begin(self.game.state, seeds)
        self.corrections = NoiseStream(seeds, memory.observe_noise, next(memory.parameters()), OBSERVE)
        self.dreamed = Progress()

    @torch.inference_mode()
    def step(self, action: np.ndarray):
        """One action [A] in both."""
        for world, progress in ((self.dream, self.dreamed), (self.game, self.played)):
            if not progress.over:
                progress.add(world.step(torch.from_numpy(action[None])))

    @torch.inference_mode()
    def act(self, policy: Policy, sees: str) -> np.ndarray:
        """The action [A] of a policy that sees the "dream" or the "game"."""
        state = self.dream.state if sees == "dream" else self.game.state
        return policy(state)[0].numpy()

    @torch.inference_mode()
    def replace_latent(self, z: np.ndarray):
        """The dream's present is this z [Z] from now on."""
        self.dream.state = self.agent.memory.correct(self.dream.state, torch.from_numpy(z[None]),
                                                     self.corrections.step())

    @property
    @torch.inference_mode()
    def latent(self) -> np.ndarray:
        """z [Z] of the dream."""
        return self.agent.memory.latent(self.dream.state)[0].numpy()

    def pictures(self) -> dict[str, np.ndarray]:
        """The dream, the game as V keeps it, and the game, each [64, 64, 3] uint8."""
        dream, kept = (self.agent.decode(self.agent.memory.latent(world.state)[0]) for world in (self.dream, self.game))
        return {"dream": dream, "kept": kept, "game": self.game.frames[0]}

    def close(self):
        self.game.close()
