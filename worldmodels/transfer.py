"""Where a dream and the game part: what M expects, held against episodes of the real game that a controller played."""

from dataclasses import dataclass
from typing import NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels.envs import TASKS
from worldmodels.episodes import Episode, located
from worldmodels.memory.latents import observed
from worldmodels.runs import Run
from worldmodels.types import Noise, Policy, State
from worldmodels.worlds.agent import Agent, worker_world
from worldmodels.worlds.explore import Recorder
from worldmodels.worlds.rollout import rollout

HORIZON = 40            # steps that are dreamt on from a moment of the game
MOMENTS = 12            # for each episode, drawn at random from all
DREAMS = 16             # from each moment
BEFORE = (1, 2, 4, 6, 8, 12, 16, 24, 32)    # steps before a death, at which M is asked whether it sees one coming


@dataclass(frozen=True, repr=False)
class WatchJob:
    """Plays an episode for each seed in the real game; returns them with latents where an Episode has frames."""

    run: Run
    digest: str
    max_steps: int
    settings: tuple
    parameters: np.ndarray      # [n]
    seeds: tuple[int, ...]

    def __call__(self) -> list[Episode]:
        agent, world = worker_world(self.run, self.digest, self.max_steps, self.settings)
        played, z_size = [], agent.vision.config.z_size
        recorder = Recorder(world, lambda: world.state.features[:, :z_size].numpy(), lambda track: played.append(track.episode()))
        rollout(recorder, agent.policy(self.parameters[None], len(self.seeds)), self.seeds)
        return played


class Transfer(NamedTuple):
    """What came of it; N moments of the game, D dreams from each, H steps ahead."""

    left: np.ndarray            # [N] steps of the game until death; inf where there was none
    lived: np.ndarray           # [N, D] steps lived in dreams from there, the controller acting; HORIZON + 1 where it outlived these
    before: dict[int, float]    # of the dreams from so many steps before a death, the share that died no more than 2 steps after it
    error: np.ndarray           # [H] distance in z between the game and a dream that gets the game's actions, root mean square
    spread: np.ndarray          # [H] the same between two such dreams: what the error would be if M were right
    reward: np.ndarray          # [2, H] mean reward of the game, and of these dreams


@torch.inference_mode()
def transfer(agent: Agent, controller: np.ndarray, played: Sequence[Episode], temperature: float, seed: int) -> Transfer:
    """Compares the dream with episodes of the game that the controller [n] played."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    lengths = np.array([len(episode.action) for episode in played])
    died = np.array([episode.terminated[-1] and TASKS[agent.task].survival for episode in played])
    act = lambda count: agent.policy(controller[None], count * DREAMS)

    # of all moments alike: as many from each episode would be too many from those that end soon
    episode, step = located(rng.integers(lengths.sum(), size=MOMENTS * len(played)), lengths)
    lived = dream_on(agent, states(agent, played, episode, step), act(len(step)), temperature, HORIZON, generator)
    left = np.where(died, lengths, np.inf)[episode] - step

    before = {}
    for k in BEFORE:
        fatal = np.flatnonzero(died & (lengths >= k))
        if len(fatal):
            moments = states(agent, played, fatal, lengths[fatal] - k)
            before[k] = float((dream_on(agent, moments, act(len(fatal)), temperature, k + 2, generator) <= k + 2).mean())

    horizon = min(HORIZON, int(np.median(lengths)))
    begins = np.maximum(0, lengths - horizon + 1)
    episode, step = located(rng.integers(begins.sum(), size=MOMENTS * len(played)), begins)
    ahead = [(played[e], slice(t, t + horizon), slice(t + 1, t + horizon + 1)) for e, t in zip(episode, step)]
    z, action, reward = (torch.from_numpy(np.stack(rows)) for rows in zip(*((e.frames[then], e.action[now], e.reward[now])
                                                                            for e, now, then in ahead)))
    moments = states(agent, played, episode, step)
    (one, dreamt), (other, _) = (dream_along(agent, moments, action, temperature, generator) for _ in range(2))
    apart = lambda a, b: (a - b).square().sum(-1).mean(0).sqrt().numpy()
    return Transfer(left, lived, before, apart(one, z), apart(one, other), torch.stack([reward.mean(0), dreamt.mean(0)]).numpy())


@torch.inference_mode()
def states(agent: Agent, played: Sequence[Episode], episode: np.ndarray, step: np.ndarray) -> State:
    """What M has made of the episodes up to these steps [N] of theirs, as one State."""
    last = max(step) + 1
    padded = lambda arrays: torch.from_numpy(np.stack([a[np.minimum(np.arange(last + 1), len(a) - 1)] for a in arrays]))
    z, action = padded([e.frames for e in played]), padded([e.action for e in played])
    found, order = [], []
    for t, state in enumerate(observed(agent.memory, z, action[:, :last])):
        here = np.flatnonzero(step == t)
        found.append(state.rows(torch.from_numpy(episode[here])))
        order.append(here)
    return State.joined(found).rows(torch.from_numpy(np.argsort(np.concatenate(order))))


def noise(agent: Agent, count: int, generator: torch.Generator) -> Noise:
    U, N = agent.memory.noise_size
    return Noise(torch.rand(count, U, generator=generator), torch.randn(count, N, generator=generator))


def dream_on(agent: Agent, state: State, policy: Policy, temperature: float, steps: int, generator: torch.Generator) -> np.ndarray:
    """Dreams DREAMS times from each of N states -> the steps lived [N, DREAMS], steps + 1 where the dream did not end."""
    state = state.rows(torch.arange(len(state.features)).repeat_interleave(DREAMS))
    lived = torch.full((len(state.features),), steps + 1)
    for t in range(1, steps + 1):
        state, _, done, _ = agent.memory.imagine(state, policy(state), temperature, noise(agent, len(lived), generator))
        lived[done & (lived > steps)] = t
    return lived.view(-1, DREAMS).numpy()


@torch.inference_mode()
def dream_along(agent: Agent, state: State, action: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Dreams from N states with given actions [N, H, A] -> latents [N, H, Z], rewards [N, H]."""
    latents, rewards, z_size = [], [], agent.vision.config.z_size
    for t in range(action.shape[1]):
        state, reward, *_ = agent.memory.imagine(state, action[:, t], temperature, noise(agent, len(action), generator))
        latents.append(state.features[:, :z_size])
        rewards.append(reward)
    return torch.stack(latents, 1), torch.stack(rewards, 1)


def dreamt_on(agent: Agent, z: np.ndarray, action: np.ndarray, start: int, temperature: float, seed: int) -> np.ndarray:
    """An episode's latents [T+1, Z], seen by M up to step `start` and from there on dreamt, given the same actions [T, A]."""
    moment = states(agent, [Episode(z, action, None, None, None)], np.array([0]), np.array([start]))
    dreamt, _ = dream_along(agent, moment, torch.from_numpy(action[None, start:]), temperature, torch.Generator().manual_seed(seed))
    return np.concatenate([z[:start + 1], dreamt[0].numpy()])
