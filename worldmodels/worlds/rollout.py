"""The one loop in which a policy lives, in the real game and in the dream."""

from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from worldmodels.types import Step, World


class Rollouts(NamedTuple):
    returns: Tensor         # [B] float32, the sum of rewards
    lengths: Tensor         # [B] int64, steps lived


@torch.inference_mode()
def rollout(world: World, policy, seeds: Sequence[int], watch: Callable[[Tensor, Step], None] | None = None) -> Rollouts:
    """Plays one episode for each seed, all advancing together; finished ones are dropped from the batch.

    `policy` maps a State to actions and has `rows(index)`, itself for some of the rollouts. `watch(action, step)`, if given,
    sees every step.
    """
    state = world.reset(seeds)
    returns = torch.zeros(len(seeds), device=state.features.device)
    lengths = torch.zeros_like(returns, dtype=torch.int64)
    row = torch.arange(len(seeds), device=returns.device)       # the rollouts still alive
    while len(row):
        action = policy(state)
        step = world.step(action)
        returns[row] += step.reward
        lengths[row] += 1
        if watch is not None:
            watch(action, step)
        state = step.state
        if step.done.any():
            alive = (~step.done).nonzero().squeeze(1)
            row, policy, state = row[alive], policy.rows(alive), world.keep(alive)
    return Rollouts(returns, lengths)
