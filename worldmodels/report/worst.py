"""Where a controller does worst: the moment at which an episode of the game was lost, as V, M and C saw it."""

from collections.abc import Sequence

import numpy as np
import torch

from worldmodels.agent import Agent
from worldmodels.episodes import Episode
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import observed
from worldmodels.types import State
from worldmodels.worlds.record import Recording

TIMES = (-8, -5, -3, -1, 1, 3, 6, 10)       # steps before and after that moment, which are shown
BAR = 9                                     # pixels: the height of an action's bar


def worst(watched: Sequence[Episode], share: float = 0.1) -> list[int]:
    """The numbers of the episodes of lowest return, the worst first."""
    order = np.argsort([episode.reward.sum() for episode in watched], kind="stable")
    return order[:max(1, round(share * len(watched)))].tolist()


def lost_at(reward: np.ndarray, survival: bool) -> int:
    """The step at which an episode's longest stretch without a gain began; where time alone is gained, its last one."""
    gains = np.flatnonzero(reward > 0)
    if survival or not len(gains):
        return len(reward) - 1 if survival else 0
    stretches = np.diff([*gains, len(reward)])
    return int(gains[stretches.argmax()])


@torch.inference_mode()
def moments(agent: Agent, played: Recording, around: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Rows of pictures of an episode [T+1, h, w, 3] uint8, by what they are of, and which of them are around a step."""
    z, action = torch.from_numpy(played.latent[None]), torch.from_numpy(played.action[None])
    generator, like = torch.Generator().manual_seed(0), next(agent.memory.parameters())
    states = State.cat([*observed(agent.memory, z, action, draw(agent.memory.observe_noise, 1, generator, like))][:-1])
    noise = next(draw(agent.memory.imagine_noise, len(action[0]), generator, like))
    expected = agent.memory.imagine(states, action[0], 1.0, noise).mean()
    rows = {"the game": played.seen, "kept by V": agent.decode(played.latent),
            "expected by M, a step before": agent.decode(torch.cat([z[0, :1], expected])),
            "done by C": bars(played.action, agent.task.action_space.low, agent.task.action_space.high)}
    times = (around + step for step in TIMES)
    return rows, [t for t in times if 0 <= t < len(played.seen)]


def bars(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions [T, A] as pictures [T+1, A * BAR, 64, 3]: a bar for each, from 0 on; the last picture stays empty."""
    pictures = np.full((len(action) + 1, len(low) * BAR, 64, 3), 255, np.uint8)
    column = lambda value, a: int(round(63 * (value - low[a]) / (high[a] - low[a])))
    for t, values in enumerate(action):
        for a, value in enumerate(values):
            begin, end = sorted((column(min(max(0.0, low[a]), high[a]), a), column(value, a)))
            pictures[t, a * BAR + 2:(a + 1) * BAR - 1, begin:end + 1] = (40, 90, 160)
    return pictures
