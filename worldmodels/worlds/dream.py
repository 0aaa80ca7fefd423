"""The dream: M as a world of its own (Ha & Schmidhuber 2018, sec. 4). A whole population lives in it as one batch."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldmodels.commandline import Count, Number, Share, Temperature, Weight, Whole
from worldmodels.episodes import locate
from worldmodels.latents import Latents
from worldmodels.memory.noise import OBSERVE, NoiseStream
from worldmodels.memory.pessimism import Pessimism, PessimisticMemory, recorded_uncertainty
from worldmodels.memory.unroll import states_at
from worldmodels.types import Memory, Seeds, State, Step


@dataclass(frozen=True)
class DreamConfig:
    temperature: Temperature = 1.0  # tau: above 1 the dream is less certain and harder to exploit
    # an episode's first frame, or any stored frame, M warmed on those before it
    start: Literal["first", "anywhere"] = "first"
    warmup: Whole = 50              # real frames that M sees before a start "anywhere"
    max_steps: Count = 2100         # a dream is cut here
    # and ends where its rewards, without the cost of its steps, reach what there is to gain in the game (CarRacing's
    # tiles pay 1,000, and a frame costs 0.1); 0: nothing is enough
    enough: Weight = 0.0
    step_cost: Weight = 0.0
    # a step's reward is what M predicts, or 1, also of the step that ends the dream (paper: TakeCover)
    reward: Literal["predicted", "alive"] = "predicted"
    # of the matrix products as a population dreams; bfloat16: about twice as fast where the CPU has it, to 3 digits
    precision: Literal["float32", "bfloat16"] = "float32"
    # lambda: a reward is less by lambda times the uncertainty of M (MOPO); below zero, more (Plan2Explore)
    pessimism: Number = 0.0
    # a dream ends where the uncertainty is above this quantile of that along recorded episodes (MOReL); 1: nowhere
    uncertainty_quantile: Share = 1.0

    def plain(self, max_steps: int) -> "DreamConfig":
        """Dreams that end as these do, or after so many steps: from first frames on, of M as it is."""
        return DreamConfig(self.temperature, max_steps=max_steps, enough=self.enough, step_cost=self.step_cost,
                           reward=self.reward)


def pessimistic(memory: Memory, latents: Callable[[], Latents], config: DreamConfig, seed: int) -> Memory:
    """The memory as the config's dreams have it; itself, where they are not pessimistic. `latents` opens the recorded
    episodes."""
    if not config.pessimism and config.uncertainty_quantile == 1:
        return memory
    uncertainty = recorded_uncertainty(memory, latents(), config.temperature, seed)
    limit = math.inf if config.uncertainty_quantile == 1 else np.quantile(uncertainty, config.uncertainty_quantile)
    return PessimisticMemory(memory, Pessimism(config.pessimism, float(limit)))


REWARD = {"predicted": lambda reward: reward, "alive": torch.ones_like}


def gained_enough(config: DreamConfig, total: Tensor, steps: Tensor) -> Tensor:
    """Whether dreams of these returns after so many steps have gained all that there is in the game; of any shape."""
    if not config.enough:
        return torch.zeros_like(total, dtype=torch.bool)
    return total + config.step_cost * steps >= config.enough


class DreamWorld:
    """Memory as a world. A dream is a function of its seed and of what is done in it."""

    max_batch = math.inf
    compact_above = 0.05    # dropping rollouts copies the rest: cheaper once for many than at every death

    def __init__(self, memory: Memory, latents: Latents, config: DreamConfig):
        self.memory, self.latents, self.config = memory, latents, config
        self.device = next(memory.parameters()).device

    def reset(self, seeds: Seeds) -> State:
        return self.begin(self.starts(seeds), seeds)

    def begin(self, state: State, seeds: Seeds) -> State:
        """The same from given states, one for each seed."""
        self.state, self.noise = state, self._noise(seeds)
        self.steps = torch.zeros(len(seeds), dtype=torch.int64, device=self.device)
        self.total = state.features.new_zeros(len(seeds))
        return state

    def step(self, action: Tensor) -> Step:
        imagined = self.memory.imagine(self.state, action, self.config.temperature, self.noise.step())
        reward = REWARD[self.config.reward](imagined.reward)
        self.state, self.steps, self.total = imagined.state, self.steps + 1, self.total + reward
        self.info = {"p_done": imagined.p_done, "uncertainty": imagined.uncertainty}     # of this step, each [B]
        done = imagined.done | gained_enough(self.config, self.total, self.steps)
        return Step(self.state, reward, done, ~done & (self.steps >= self.config.max_steps))

    def select_and_reset(self, index: Tensor, seeds: Seeds) -> State:
        self.noise.select(index.tolist())
        self.steps, self.total, self.state = self.steps[index], self.total[index], self.state.select(index)
        if len(seeds):
            self.noise.join(self._noise(seeds))
            self.steps, self.total = (torch.cat([kept, kept.new_zeros(len(seeds))])
                                      for kept in (self.steps, self.total))
            self.state = State.cat([self.state, self.starts(seeds)])
        return self.state

    def close(self):
        """There is nothing to close."""

    @torch.no_grad()
    def starts(self, seeds: Seeds) -> State:
        """Where the dreams of these seeds begin, one each."""
        return STARTS[self.config.start](self, np.asarray(seeds, np.int64))

    def _start_first(self, seeds: np.ndarray) -> State:
        """Each seed starts at the first frame of some episode."""
        starts = [int(rng.integers(len(self.latents.lengths))) for rng in self._generators(seeds)]
        z = self._sample(starts, np.zeros((len(seeds), 1), int), seeds)
        return self.memory.initial(z[:, 0], self._observing(seeds).step())

    def _start_anywhere(self, seeds: np.ndarray) -> State:
        """Each seed starts at some frame, after M has observed the `warmup` frames before it (all, if there are
        fewer)."""
        total = int(self.latents.lengths.sum())
        transition = np.array([rng.integers(total) for rng in self._generators(seeds)])             # [S]
        episode, t = locate(transition, self.latents.lengths)          # t is never after the last action
        begin = np.maximum(0, t - self.config.warmup)
        steps = np.minimum(begin[:, None] + np.arange(self.config.warmup + 1), t[:, None])          # [S, W+1]
        z = self._sample(episode, steps, seeds)
        # [S, W, A]
        action = np.stack([self.latents.episode(e).action[before] for e, before in zip(episode, steps[:, :-1])])
        rows, noise = torch.arange(len(seeds)), self._observing(seeds)
        return states_at(self.memory, z, torch.from_numpy(action).to(self.device), rows.to(self.device),
                         torch.from_numpy(t - begin).to(self.device), iter(noise.step, None))

    def _generators(self, seeds: Seeds) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, 0]) for seed in seeds]

    def _noise(self, seeds: Seeds) -> NoiseStream:
        return NoiseStream(seeds, self.memory.imagine_noise, next(self.memory.parameters()))

    def _observing(self, seeds: Seeds) -> NoiseStream:
        return NoiseStream(seeds, self.memory.observe_noise, next(self.memory.parameters()), OBSERVE)

    def _sample(self, episodes: Iterable[int], frames: np.ndarray, seeds: Seeds) -> Tensor:
        """Latents [S, N, Z] of the frames [S, N] of episodes [S], each row drawn with its own seed."""
        rows = [stored.sample(torch.Generator().manual_seed(int(seed)), frame)
                for stored, frame, seed in zip(map(self.latents.episode, episodes), frames, seeds)]
        return torch.stack(rows).to(self.device)


class DreamFrom(DreamWorld):
    """Dreams that begin at given states [N], of which each seed draws one."""

    def __init__(self, memory: Memory, states: State, config: DreamConfig):
        super().__init__(memory, None, config)
        self.states = states

    def starts(self, seeds: Seeds) -> State:
        drawn = [int(rng.integers(len(self.states.features))) for rng in self._generators(seeds)]
        return self.states.select(torch.tensor(drawn, device=self.device))


STARTS = {"first": DreamWorld._start_first, "anywhere": DreamWorld._start_anywhere}
