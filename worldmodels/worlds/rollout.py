"""The one loop in which a policy lives, in the real game and in the dream."""

from typing import NamedTuple

import torch
from torch import Tensor

from worldmodels.types import Policy, Seeds, World


class Rollouts(NamedTuple):
    returns: Tensor         # [B] float32, the sum of rewards
    lengths: Tensor         # [B] int64, steps lived


@torch.inference_mode()
def rollout(world: World, policy: Policy, seeds: Seeds, max_steps: int | None = None) -> Rollouts:
    """Plays one episode for each seed, `world.max_batch` of them advancing together, to its end or for `max_steps`
    steps. As soon as more than the share `world.compact_above` of the batch is finished, the finished ones make way for
    those that have not begun.
    """
    begun = int(min(world.max_batch, len(seeds)))
    state = world.reset(seeds[:begun])
    policy.reset(seeds[:begun])
    device = state.features.device
    returns = torch.zeros(len(seeds), device=device)
    lengths = torch.zeros_like(returns, dtype=torch.int64)
    row = torch.arange(begun, device=device)                    # the rollouts in the batch
    alive = torch.ones_like(row, dtype=torch.bool)              # which of them are not finished
    while len(row):
        step = world.step(policy(state))
        returns[row] += torch.where(alive, step.reward, 0)
        lengths[row] += alive
        state = step.state
        alive &= ~step.done
        if max_steps:
            alive &= lengths[row] < max_steps
        finished = len(row) - int(alive.sum())
        if finished > world.compact_above * len(row) or finished == len(row):
            index, new = alive.nonzero().squeeze(1), min(finished, len(seeds) - begun)
            if not len(index) + new:
                break
            state = world.select_and_reset(index, seeds[begun:begun + new])
            policy.select_and_reset(index, seeds[begun:begun + new])
            row = torch.cat([row[index], torch.arange(begun, begun + new, device=device)])
            alive = torch.ones_like(row, dtype=torch.bool)
            begun += new
    return Rollouts(returns, lengths)
