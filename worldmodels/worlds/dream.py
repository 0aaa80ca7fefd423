"""The dream: M as a world of its own (Ha & Schmidhuber 2018, sec. 4). A whole population lives in it as one batch."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels.episodes import located
from worldmodels.memory.latents import Latents, sample
from worldmodels.types import Memory, Noise, State, Step


@dataclass(frozen=True)
class DreamConfig:
    temperature: float = 1.0        # tau: above 1 the dream is less certain and harder to exploit
    start: str = "first"            # first: an episode's first frame | anywhere: any stored frame, M warmed on those before it
    warmup: int = 50                # real frames that M sees before a start "anywhere"
    max_steps: int = 2100           # a dream is cut here


BLOCK = 16              # steps whose noise is drawn together


def noise_blocks(seed: int, noise_size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The chance in a dream, a function of its seed and nothing else: the next BLOCK steps' numbers [BLOCK, U + N], uniform ones first.

    Dreams of a seed share it, whoever dreams them, so that members of a generation are compared on equal terms; and no dream
    depends on those beside it. The streams [seed, 0] to [seed, 2] are those of starts, of random policies and of V in the game.
    """
    rng, (U, N) = np.random.default_rng([seed, 3]), noise_size
    while True:
        yield np.concatenate([rng.random((BLOCK, U), np.float32), rng.standard_normal((BLOCK, N), np.float32)], 1)


class NoiseStream:
    """The chance in some dreams that begin together, BLOCK steps at a time."""

    def __init__(self, seeds: Sequence[int], noise_size: tuple[int, int], like: Tensor):
        self.like, self.blocks = like, [noise_blocks(seed, noise_size) for seed in seeds]

    def block(self) -> Tensor:
        """The next BLOCK steps' numbers, [BLOCK, U + N, seeds], on the device and of the type of `like`."""
        return torch.from_numpy(np.stack(list(map(next, self.blocks)))).to(self.like).permute(1, 2, 0).contiguous()

    def keep(self, index: Sequence[int]):
        """Goes on with these seeds only."""
        self.blocks = [self.blocks[i] for i in index]


class DreamWorld:
    """Memory as a world. A dream is a function of its seed and of what is done in it."""

    lanes = math.inf
    slack = 0.05            # dropping rollouts copies the rest: cheaper once for many than at every death

    def __init__(self, memory: Memory, latents: Latents, config: DreamConfig):
        self.memory, self.latents, self.config = memory, latents, config
        self.device = next(memory.parameters()).device

    def reset(self, seeds: Sequence[int]) -> State:
        self.noise, self.steps = [], torch.zeros(0, dtype=torch.int64, device=self.device)
        self.state = self._begin(seeds)
        return self.state

    def step(self, action: Tensor) -> Step:
        numbers = torch.from_numpy(np.stack(list(map(next, self.noise)))).to(self.state.features)       # [B, U + N]
        noise = Noise(*numbers.split(self.memory.noise_size, 1))
        self.state, reward, done, _ = self.memory.imagine(self.state, action, self.config.temperature, noise)
        self.steps = self.steps + 1
        return Step(self.state, reward, done, ~done & (self.steps >= self.config.max_steps))

    def go_on(self, index: Tensor, seeds: Sequence[int]) -> State:
        self.noise, self.steps = [self.noise[i] for i in index.tolist()], self.steps[index]
        self.state = self.state.rows(index)
        if seeds:
            self.state = State.joined([self.state, self._begin(seeds)])
        return self.state

    def close(self):
        """There is nothing to close."""

    def _begin(self, seeds: Sequence[int]) -> State:
        """Starts a dream for each seed, behind those that are dreamt, and returns the states of the new ones."""
        self.noise += [chain.from_iterable(noise_blocks(seed, self.memory.noise_size)) for seed in seeds]
        self.steps = torch.cat([self.steps, self.steps.new_zeros(len(seeds))])
        return self.starts(seeds)

    @torch.inference_mode()
    def starts(self, seeds: Sequence[int]) -> State:
        """Where the dreams of these seeds begin, one each."""
        return STARTS[self.config.start](self, np.asarray(seeds, np.int64))

    def _start_first(self, seeds: np.ndarray) -> State:
        """Each seed starts at the first frame of some episode."""
        starts = [int(rng.integers(len(self.latents.lengths))) for rng in self._generators(seeds)]
        return self.memory.initial(self._sample(starts, np.zeros((len(seeds), 1), int), seeds)[:, 0])

    def _start_anywhere(self, seeds: np.ndarray) -> State:
        """Each seed starts at some frame, after M has observed the `warmup` frames before it (all, if there are fewer)."""
        total = int(self.latents.lengths.sum())
        transition = np.array([rng.integers(total) for rng in self._generators(seeds)])             # [U]
        episode, t = located(transition, self.latents.lengths)         # t is never after the last action
        steps = np.maximum(0, t[:, None] + np.arange(-self.config.warmup, 1))                       # [U, W+1]
        z = self._sample(episode, steps, seeds)
        action = np.stack([self.latents.episode(e).action[before] for e, before in zip(episode, steps[:, :-1])])    # [U, W, A]
        action = torch.from_numpy(action).to(self.device)
        moves = torch.from_numpy(np.diff(steps) > 0).to(self.device)   # False while an episode has not yet begun  [U, W]
        state = self.memory.initial(z[:, 0])
        for i in range(self.config.warmup):
            after = self.memory.observe(state, action[:, i], z[:, i + 1])
            state = State(*(_where(moves[:, i], new, old) for new, old in zip(after, state)))
        return state

    def _generators(self, seeds: np.ndarray) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, 0]) for seed in seeds]

    def _sample(self, episodes: Sequence[int], frames: np.ndarray, seeds: np.ndarray) -> Tensor:
        """Latents [U, N, Z] of the frames [U, N] of episodes [U], each row drawn with its own seed."""
        rows = []
        for stored, frame, seed in zip(map(self.latents.episode, episodes), frames, seeds):
            rows.append(sample(stored.mu[frame], stored.log_var[frame], torch.Generator().manual_seed(int(seed))))
        return torch.stack(rows).to(self.device)


def _where(condition: Tensor, new, old):
    """`new` where `condition` [B] holds, else `old`: tensors [B, ...], or tuples of them."""
    if isinstance(new, tuple):
        return tuple(_where(condition, a, b) for a, b in zip(new, old))
    return torch.where(condition.view(-1, *[1] * (new.dim() - 1)), new, old)


STARTS = {"first": DreamWorld._start_first, "anywhere": DreamWorld._start_anywhere}
