"""What V keeps of the game and what M expects of it, on episodes that neither was trained on. The notebooks draw it."""

import numpy as np
import torch

from worldmodels.agent import Agent
from worldmodels.memory.mdn_rnn import Expected
from worldmodels.memory.unroll import observed
from worldmodels.types import State


def explained(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The share of each pixel's variance over frames [N, h, w, 3] that what V kept of them explains, [h, w]; at most 1,
    nan where nothing ever changes."""
    frames, kept = frames.astype(np.float32), kept.astype(np.float32)
    variance = ((frames - frames.mean(0))**2).sum((0, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, 1 - ((frames - kept)**2).sum((0, 3)) / variance, np.nan)


def traverse(agent: Agent, z: np.ndarray, dimension: int, values: np.ndarray) -> np.ndarray:
    """V's pictures of a latent z [Z] with one of its dimensions set to each of `values` [N], [N, 64, 64, 3] uint8."""
    rows = np.repeat(z[None].astype(np.float32), len(values), 0)
    rows[:, dimension] = values
    return agent.decode(rows)


@torch.inference_mode()
def expected(agent: Agent, z: np.ndarray, action: np.ndarray) -> Expected:
    """What an MDN-RNN expected at each of the T steps of an episode, z [T+1, Z], action [T, A]."""
    z, action = torch.from_numpy(z[None]), torch.from_numpy(action[None])
    return agent.memory.expect(State.cat([*observed(agent.memory, z, action)][:-1]), action[0])
