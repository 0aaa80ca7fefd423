"""A pessimistic memory: what it imagines is worth less, or ends, where it is uncertain.

MOPO (Yu et al. 2020): the reward is less by lambda times the uncertainty. MOReL (Kidambi et al. 2020): an episode ends
where the uncertainty is above a limit, which is set from the uncertainty along recorded episodes. (MOReL then pays a
penalty; its code pays 0, and so does this.)
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodels.latents import Latents
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import observed
from worldmodels.types import Dreamer, Imagined, Memory, Noise, State, UserError

EPISODES = 200          # that the limit is set from


class Pessimism(NamedTuple):
    weight: float = 0.0         # lambda
    limit: float = math.inf     # of the uncertainty

    def of(self, reward: Tensor, p_done: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor]:
        """The reward and the probability of an end that are imagined, each [B]."""
        reward = reward - self.weight * uncertainty if self.weight else reward      # not 0 times infinity
        return reward, torch.where(uncertainty > self.limit, 1.0, p_done)


class PessimisticMemory:
    """A memory in all but what it imagines."""

    def __init__(self, memory: Memory, pessimism: Pessimism):
        self.memory, self.pessimism = memory, pessimism

    def __getattr__(self, name: str):
        return getattr(self.memory, name)

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        imagined = self.memory.imagine(state, action, temperature, noise)
        reward, p_done = self.pessimism.of(imagined.reward, imagined.p_done, imagined.uncertainty)
        return imagined._replace(reward=reward, p_done=p_done, done=noise["done"][:, 0] < p_done)

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> "PessimisticDreamer":
        return PessimisticDreamer(self.memory.dreamer(batch, temperature, bfloat16), self.pessimism)


class PessimisticDreamer:
    """A dreamer in all but what its steps are worth."""

    def __init__(self, dreamer: Dreamer, pessimism: Pessimism):
        self.dreamer, self.pessimism = dreamer, pessimism
        self.load, self.features, self.select = dreamer.load, dreamer.features, dreamer.select

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        reward, p_done, uncertainty = self.dreamer.step(action, noise)
        return *self.pessimism.of(reward, p_done, uncertainty), uncertainty


def with_pessimism(memory: Memory, pessimism: Pessimism) -> Memory:
    """The memory itself where nothing is to change."""
    return memory if pessimism == Pessimism() else PessimisticMemory(memory, pessimism)


def pessimism_of(memory: Memory) -> Pessimism:
    return memory.pessimism if isinstance(memory, PessimisticMemory) else Pessimism()


@torch.no_grad()
def recorded_uncertainty(memory: Memory, latents: Latents, temperature: float, seed: int) -> np.ndarray:
    """The uncertainty of dreams of this temperature at every step of some recorded episodes, [N]. A UserError where
    there is none."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    found, like = [], next(memory.parameters())
    for number in rng.permutation(len(latents.lengths))[:EPISODES]:
        episode = latents.episode(number)
        z, action = episode.sample(generator)[None].to(like), torch.from_numpy(episode.action)[None].to(like)
        states = [*observed(memory, z, action, draw(memory.observe_noise, 1, generator, like))]
        noise = next(draw(memory.imagine_noise, action.shape[1], generator, like))
        found.append(memory.imagine(State.cat(states[:-1]), action[0], temperature, noise).uncertainty.cpu().numpy())
    uncertainty = np.concatenate(found)
    if not uncertainty.any():
        raise UserError(f"a memory of kind {memory.config.kind} with these settings is never uncertain: a pessimistic "
                        "dream takes an ensemble, or several prior heads")
    return uncertainty
