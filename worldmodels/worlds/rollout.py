"""The one loop in which a policy lives, in the real game and in the dream."""

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from worldmodels.types import World


class Rollouts(NamedTuple):
    returns: Tensor         # [B] float32, the sum of rewards
    lengths: Tensor         # [B] int64, steps lived


@torch.inference_mode()
def rollout(world: World, policy, seeds: Sequence[int]) -> Rollouts:
    """Plays one episode for each seed, all advancing together; finished ones are dropped from the batch
    as soon as they are more than the share `world.slack` of it.

    `policy` maps a State to actions and has `rows(index)`, itself for some of the rollouts.
    """
    state = world.reset(seeds)
    returns = torch.zeros(len(seeds), device=state.features.device)
    lengths = torch.zeros_like(returns, dtype=torch.int64)
    row = torch.arange(len(seeds), device=returns.device)       # the rollouts still in the batch
    alive = torch.ones_like(row, dtype=torch.bool)              # which of them are not finished
    while len(row):
        action = policy(state)
        step = world.step(action)
        returns[row] += torch.where(alive, step.reward, 0)
        lengths[row] += alive
        state = step.state
        alive &= ~step.done
        if len(row) - int(alive.sum()) > world.slack * len(row) or not alive.any():
            index = alive.nonzero().squeeze(1)
            row, alive, policy, state = row[index], alive[index], policy.rows(index), world.keep(index)
    return Rollouts(returns, lengths)
