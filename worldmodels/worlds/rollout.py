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
    """Plays one episode for each seed, `world.lanes` of them advancing together. As soon as more than the share `world.slack`
    of the batch is finished, the finished ones make way for those that have not begun.

    `policy` maps a State to actions and has `rows(index)`, itself for some of the rollouts.
    """
    begun = min(world.lanes, len(seeds))
    state = world.reset(seeds[:begun])
    device = state.features.device
    returns = torch.zeros(len(seeds), device=device)
    lengths = torch.zeros_like(returns, dtype=torch.int64)
    row = torch.arange(begun, device=device)                    # the rollouts in the batch
    alive = torch.ones_like(row, dtype=torch.bool)              # which of them are not finished
    everyone, policy = policy, policy.rows(row)
    while len(row):
        step = world.step(policy(state))
        returns[row] += torch.where(alive, step.reward, 0)
        lengths[row] += alive
        state = step.state
        alive &= ~step.done
        finished = len(row) - int(alive.sum())
        if finished > world.slack * len(row) or finished == len(row):
            index, new = alive.nonzero().squeeze(1), min(finished, len(seeds) - begun)
            state = world.go_on(index, seeds[begun:begun + new])
            row = torch.cat([row[index], torch.arange(begun, begun + new, device=device)])
            alive = torch.ones_like(row, dtype=torch.bool)
            policy = everyone.rows(row)
            begun += new
    return Rollouts(returns, lengths)
