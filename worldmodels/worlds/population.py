"""A population of controllers in the dream: `rollout` in a `DreamWorld`, at full speed.

On a CPU dreams that have ended are dropped (`dream_in_place`); on a GPU they are masked, and BLOCK steps are one CUDA
graph (`GraphedDream`). Both advance with `Batch.advance`. A policy that reads more than features, as a planner does,
dreams in `rollout` itself (`dream_by_states`).

A batch is always a multiple of WIDTH wide. Then no operation splits it differently than another batch, and on one CPU
thread a dream is the same to the last bit whatever is dreamt beside it, and so whatever the number of workers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.controller import CONTROLLERS, PolicySpec
from worldmodels.memory.noise import BLOCK, NoiseStream
from worldmodels.memory.unroll import advance
from worldmodels.types import Memory, Seeds, State
from worldmodels.worlds.dream import REWARD, DreamConfig, DreamWorld, gained_enough
from worldmodels.worlds.rollout import Rollouts, rollout

WIDTH = 32


def whole_widths(count: int) -> int:
    """`count`, rounded up to a multiple of WIDTH."""
    return -(-count // WIDTH) * WIDTH


class Batch:
    """Dreams that begin at the states `start` [S], one for each policy of a spec; `seed` [B] says which of the S starts
    and seeds a dream has."""

    def __init__(self, agent: Agent, spec: PolicySpec, start: State, seed: Tensor, config: DreamConfig):
        self.agent, self.count, self.config = agent, len(seed), config
        width = whole_widths(self.count)
        self.dreamer = agent.memory.dreamer(width, config.temperature, config.precision == "bfloat16")
        self.returns = start.features.new_empty(width)              # of the rollouts, as far as they are dropped
        self.lengths = torch.empty_like(self.returns)
        self.total, self.steps = (torch.empty_like(self.returns) for _ in range(2))     # of the columns
        self.alive = torch.empty_like(self.returns, dtype=torch.bool)
        self.rollout = torch.arange(width, device=seed.device)
        self.seed = torch.empty_like(self.rollout)
        self.policy: Any = None             # a Policy that has `act`
        self.begin(spec, start, seed)

    def begin(self, spec: PolicySpec, start: State, seed: Tensor):
        """Other dreams of the same number, in the same memory."""
        index = self.rollout.clamp(max=self.count - 1)              # the last dream fills the batch up
        self.seed.copy_(seed[index])
        self.dreamer.load(start.select(self.seed))
        policy: Any = self.agent.policy_of(spec.select(index.cpu().numpy()))
        policy.reset(range(len(index)))
        if self.policy is None:
            self.policy = policy
        else:
            policy.act(self.dreamer.features())                     # makes all that it acts with
            for old, new in zip(self.policy.tensors(), policy.tensors(), strict=True):
                old.copy_(new)
        self.alive.copy_(self.rollout < self.count)
        self.total.zero_()
        self.steps.zero_()

    def advance(self, noise: Tensor):
        """Some steps; noise [steps, U + N, S]."""
        size = self.agent.memory.imagine_noise
        mine = (size.split(numbers.index_select(1, self.seed), 0) for numbers in noise)
        rewards, survives = [], []
        for chance, reward, p_done, _ in advance(self.dreamer, self.policy.act, mine):
            rewards.append(reward.clone())
            survives.append(chance["done"][0] >= p_done)
        step = torch.arange(len(noise), device=noise.device)[:, None]
        gained = REWARD[self.config.reward](torch.stack(rewards))
        enough = gained_enough(self.config, self.total + gained.cumsum(0), self.steps + step + 1)
        goes_on = self.alive & (torch.stack(survives) & ~enough).cumprod(0).bool()      # [steps, B]
        plays = torch.cat([self.alive[None], goes_on[:-1]]) & (self.steps + step < self.config.max_steps)
        self.total += torch.where(plays, gained, 0).sum(0)              # a dead dream that diverges adds nothing
        self.steps += plays.sum(0)
        torch.logical_and(goes_on[-1], self.steps < self.config.max_steps, out=self.alive)

    def compact(self) -> bool:
        """Drops columns whose dream has ended, as far as whole WIDTHs go; returns whether any dream goes on."""
        self.returns[self.rollout], self.lengths[self.rollout] = self.total, self.steps
        order = self.alive.argsort(descending=True, stable=True)
        alive = int(self.alive.sum())
        if 0 < whole_widths(alive) < len(order):
            order = order[:whole_widths(alive)]
            self.dreamer.select(order)
            self.policy.select_and_reset(order, ())
            for name in ("alive", "total", "steps", "rollout", "seed"):
                setattr(self, name, getattr(self, name)[order])
        return alive > 0


def dream(agent: Agent, spec: PolicySpec, start: State, seeds: np.ndarray, seed: Tensor,
          config: DreamConfig) -> Rollouts:
    """Dreams of the policies of a spec [B]: dream b begins at start[seed[b]] and has the noise of seeds[seed[b]]."""
    return (dream_in_place if reads_features(spec) else dream_by_states)(agent, spec, start, seeds, seed, config)


def reads_features(spec: PolicySpec) -> bool:
    """Whether the policies of a spec act on features alone, and so in a Dreamer's batch."""
    return hasattr(CONTROLLERS[spec.config.kind], "act")


class DreamsInTurn(DreamWorld):
    """Dreams that begin at given states, one after the other."""

    def __init__(self, memory: Memory, start: State, config: DreamConfig, max_batch: int):
        super().__init__(memory, None, config)
        self.start, self.begun, self.max_batch = start, 0, max_batch

    def starts(self, seeds: Seeds) -> State:
        self.begun += len(seeds)
        return self.start.select(torch.arange(self.begun - len(seeds), self.begun, device=self.device))


def dream_by_states(agent: Agent, spec: PolicySpec, start: State, seeds: np.ndarray, seed: Tensor,
                    config: DreamConfig) -> Rollouts:
    """`dream` for any policy: it sees whole states."""
    world = DreamsInTurn(agent.memory, start.select(seed), config, agent.task.max_batch)
    return rollout(world, agent.policy_of(spec), seeds[seed.cpu().numpy()].tolist())


@torch.inference_mode()
def dream_in_place(agent: Agent, spec: PolicySpec, start: State, seeds: np.ndarray, seed: Tensor,
                   config: DreamConfig) -> Rollouts:
    batch = Batch(agent, spec, start, seed, config)
    noise = NoiseStream(seeds, agent.memory.imagine_noise, start.features)
    left = config.max_steps
    while left > 0:
        batch.advance(noise.block()[:left])
        left -= BLOCK
        if not batch.compact():
            break
        used, batch.seed = batch.seed.unique(return_inverse=True)
        noise.select(used.tolist())
    return Rollouts(batch.returns[:batch.count], batch.lengths[:batch.count].long())


class GraphedDream:
    """`dream` with memory of fixed shapes: what a GPU has to do in BLOCK steps is recorded once for each size of
    batch."""

    def __init__(self, agent: Agent, config: DreamConfig):
        self.agent, self.config = agent, config
        self.recorded = {}

    @torch.inference_mode()
    def __call__(self, spec: PolicySpec, start: State, seeds: np.ndarray, seed: Tensor) -> Rollouts:
        if not reads_features(spec):
            return dream_by_states(self.agent, spec, start, seeds, seed, self.config)
        noise = NoiseStream(seeds, self.agent.memory.imagine_noise, start.features)
        numbers, size = noise.block(), (len(seed), len(seeds), spec.config)
        if size not in self.recorded:
            batch, block = Batch(self.agent, spec, start, seed, self.config), numbers.clone()
            batch.policy.act(batch.dreamer.features())
            self.recorded[size] = batch, block, record(lambda: batch.advance(block), block.device)
        batch, block, advance_block = self.recorded[size]
        batch.begin(spec, start, seed)
        for _ in range(0, self.config.max_steps, BLOCK):
            block.copy_(numbers)
            advance_block()
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
        work()  # libraries set themselves up, which cannot be recorded
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
