"""A population of controllers in the dream: `rollout` in a `DreamWorld`, at full speed.

On a CPU dreams that have ended are dropped (`dream`); on a GPU they are masked, and BLOCK steps are one CUDA graph
(`GraphedDream`). Both advance with `Batch.advance`.

A batch is always a multiple of WIDTH wide. Then no operation splits it differently than another batch, and on one CPU thread a
dream is the same to the last bit whatever is dreamt beside it, and so whatever the number of workers.
"""

from typing import Callable

import numpy as np
import torch
from torch import Tensor

from worldmodels.controller import LinearPolicy
from worldmodels.types import Memory, State
from worldmodels.worlds.dream import BLOCK, DreamConfig, NoiseStream
from worldmodels.worlds.rollout import Rollouts

WIDTH = 32


def whole_widths(count: int) -> int:
    """`count`, rounded up to a multiple of WIDTH."""
    return -(-count // WIDTH) * WIDTH


class Batch:
    """Dreams that begin at the states `start` [S], each under a controller of its own; `seed` [B] says which of the S starts
    and seeds a dream has."""

    def __init__(self, memory: Memory, policy: LinearPolicy, start: State, seed: Tensor, config: DreamConfig):
        self.count, self.max_steps = len(seed), config.max_steps
        width = whole_widths(self.count)
        self.dreamer = memory.dreamer(width, policy.bias.shape[1], config.temperature)
        self.decides = memory.noise_size[0] - 1                     # the number that decides whether a dream ends
        self.returns = start.features.new_empty(width)              # of the rollouts, as far as they are dropped
        self.lengths = torch.empty_like(self.returns)
        self.alive, self.total, self.steps = (torch.empty_like(self.returns) for _ in range(3))     # of the columns
        self.rollout = torch.arange(width, device=seed.device)
        self.seed = torch.empty_like(self.rollout)
        self.begin(policy, start, seed)

    def begin(self, policy: LinearPolicy, start: State, seed: Tensor):
        """Other dreams of the same number, in the same memory."""
        self.squash = policy.squash
        index = self.rollout.clamp(max=self.count - 1)              # the last dream fills the batch up
        self.seed.copy_(seed[index])
        self.dreamer.load(start.rows(self.seed), policy.weight[index], policy.bias[index])
        self.alive.copy_(self.rollout < self.count)
        self.total.zero_()
        self.steps.zero_()

    def advance(self, noise: Tensor):
        """Some steps; noise [steps, U + N, S]."""
        for numbers in noise:
            action = self.squash(self.dreamer.look().t()).t()
            mine = numbers.index_select(1, self.seed)
            reward, risk = self.dreamer.step(action, mine)
            self.total.addcmul_(reward, self.alive)
            self.steps += self.alive
            self.alive.masked_fill_(mine[self.decides] < risk, 0).mul_(self.steps < self.max_steps)

    def compact(self) -> bool:
        """Drops columns whose dream has ended, as far as whole WIDTHs go; returns whether any dream goes on."""
        self.returns[self.rollout], self.lengths[self.rollout] = self.total, self.steps
        order = self.alive.argsort(descending=True, stable=True)
        alive = int(self.alive.sum())
        if 0 < whole_widths(alive) < len(order):
            order = order[:whole_widths(alive)]
            self.dreamer.keep(order)
            for name in ("alive", "total", "steps", "rollout", "seed"):
                setattr(self, name, getattr(self, name)[order])
        return alive > 0


@torch.inference_mode()
def dream(memory: Memory, policy: LinearPolicy, start: State, seeds: np.ndarray, seed: Tensor, config: DreamConfig) -> Rollouts:
    """Dreams of the controllers `policy` [B]: dream b begins at start[seed[b]] and has the noise of seeds[seed[b]]."""
    batch, noise = Batch(memory, policy, start, seed, config), NoiseStream(seeds, memory.noise_size, start.features)
    left = config.max_steps
    while left > 0:
        batch.advance(noise.block()[:left])
        left -= BLOCK
        if not batch.compact():
            break
        kept, batch.seed = batch.seed.unique(return_inverse=True)
        noise.keep(kept.tolist())
    return Rollouts(batch.returns[:batch.count], batch.lengths[:batch.count].long())


class GraphedDream:
    """`dream` with memory of fixed shapes: what a GPU has to do in BLOCK steps is recorded once for each size of batch."""

    def __init__(self, memory: Memory, config: DreamConfig):
        self.memory, self.config = memory, config
        self.recorded = {}

    @torch.inference_mode()
    def __call__(self, policy: LinearPolicy, start: State, seeds: np.ndarray, seed: Tensor) -> Rollouts:
        noise = NoiseStream(seeds, self.memory.noise_size, start.features)
        numbers, size = noise.block(), (len(seed), len(seeds))
        if size not in self.recorded:
            batch, block = Batch(self.memory, policy, start, seed, self.config), numbers.clone()
            self.recorded[size] = batch, block, record(lambda: batch.advance(block), block.device)
        batch, block, advance = self.recorded[size]
        batch.begin(policy, start, seed)
        for _ in range(0, self.config.max_steps, BLOCK):
            block.copy_(numbers)
            advance()
            numbers = noise.block()                                 # drawn while the GPU dreams
            if not batch.alive.any():
                break
        return Rollouts(batch.total[:batch.count].clone(), batch.steps[:batch.count].long())


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`work` as a CUDA graph; where there is no GPU, `work` itself."""
    if device.type != "cuda":
        return work
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()                                                      # libraries set themselves up, which cannot be recorded
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
