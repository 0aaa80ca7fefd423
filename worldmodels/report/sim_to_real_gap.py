"""Where a dream and the game part: what M expects, held against episodes of the real game that a controller played."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.controller import PolicySpec
from worldmodels.envs import Task
from worldmodels.episodes import Episode, locate
from worldmodels.executors import Shared
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import Trajectory, states_at, unroll
from worldmodels.types import State
from worldmodels.worlds.fitness import time_for, worker_world
from worldmodels.worlds.record import recorded

HORIZON = 40            # steps that are dreamt on from a moment of the game
MOMENTS = 12            # for each episode, drawn at random from all
DREAMS = 16             # from each moment
TOGETHER = 4096         # dreams that are imagined as one batch
BEFORE = (1, 2, 4, 6, 8, 12, 16, 24, 32)    # steps before a death, at which M is asked whether it sees one coming


@dataclass(frozen=True, repr=False)
class WatchJob:
    """Plays an episode for each seed in the real game; returns them with latents where an Episode has frames."""

    task: Task
    agent: Shared               # V and M
    max_steps: int
    settings: tuple
    spec: PolicySpec            # one policy
    seeds: tuple[int, ...]

    @property
    def deadline(self) -> float:
        return time_for(len(self.seeds) * self.max_steps)

    def __call__(self) -> list[Episode]:
        agent, world = worker_world(self.task, self.agent, self.max_steps, self.settings)
        see = lambda: list(agent.memory.latent(world.state).numpy().copy())
        return recorded(world, agent.policy_of(self.spec), self.seeds, see)


class SimToRealGap(NamedTuple):
    """N moments of the game, D dreams from each, H steps ahead."""

    left: np.ndarray            # [N] steps of the game until death; inf where there was none
    # [N, D] steps lived in dreams from there, the controller acting; HORIZON + 1 where it outlived these
    lived: np.ndarray
    # of the dreams from so many steps before a death, the share that died no more than 2 steps after it
    before: dict[int, float]
    error: np.ndarray  # [H] distance in z between the game and a dream that gets the game's actions, root mean square
    spread: np.ndarray          # [H] the same between two such dreams: what the error would be if M were right
    reward: np.ndarray          # [2, H] mean reward of the game, and of these dreams


@torch.inference_mode()
def sim_to_real_gap(agent: Agent, spec: PolicySpec, played: Sequence[Episode], temperature: float,
                    seed: int) -> SimToRealGap:
    """Compares the dream with episodes of the game that a controller played."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    lengths = np.array([len(episode.action) for episode in played])
    died = np.array([episode.terminated[-1] and agent.task.survival for episode in played])

    # of all moments alike: as many from each episode would be too many from those that end soon
    episode, step = locate(rng.integers(lengths.sum(), size=MOMENTS * len(played)), lengths)
    lived = steps_lived(agent, states(agent, played, episode, step, generator), spec, temperature, HORIZON, generator)
    left = np.where(died, lengths, np.inf)[episode] - step

    before = {}
    for k in BEFORE:
        fatal = np.flatnonzero(died & (lengths >= k))
        if len(fatal):
            moments = states(agent, played, fatal, lengths[fatal] - k, generator)
            before[k] = float((steps_lived(agent, moments, spec, temperature, k + 2, generator) <= k + 2).mean())

    horizon = min(HORIZON, int(np.median(lengths)))
    begins = np.maximum(0, lengths - horizon + 1)
    episode, step = locate(rng.integers(begins.sum(), size=MOMENTS * len(played)), begins)
    ahead = [(played[e], slice(t, t + horizon), slice(t + 1, t + horizon + 1)) for e, t in zip(episode, step)]
    z, action, reward = (torch.from_numpy(np.stack(rows))
                         for rows in zip(*((e.frames[then], e.action[now], e.reward[now]) for e, now, then in ahead)))
    moments = states(agent, played, episode, step, generator)
    one, other = (follow(agent, moments, action, temperature, generator) for _ in range(2))
    apart = lambda a, b: (a - b).square().sum(-1).mean(0).sqrt().numpy()
    rewards = torch.stack([reward.mean(0), one.reward.mean(0)]).numpy()
    return SimToRealGap(left, lived, before, apart(one.latent[:, 1:], z), apart(one.latent[:, 1:], other.latent[:, 1:]),
                        rewards)


def states(agent: Agent, played: Sequence[Episode], episode: np.ndarray, step: np.ndarray,
           generator: torch.Generator) -> State:
    """What M has made of the episodes up to these steps [N] of theirs, as one State."""
    last = max(step) + 1
    padded = lambda arrays: torch.from_numpy(np.stack([a[np.minimum(np.arange(last + 1), len(a) - 1)] for a in arrays]))
    z, action = padded([e.frames for e in played]), padded([e.action for e in played])
    noise = draw(agent.memory.observe_noise, len(played), generator, z)
    return states_at(agent.memory, z, action, torch.from_numpy(episode), torch.from_numpy(step), noise)


def steps_lived(agent: Agent, state: State, spec: PolicySpec, temperature: float, steps: int,
                generator: torch.Generator) -> np.ndarray:
    """Dreams DREAMS times from each of N states -> the steps lived [N, DREAMS], steps + 1 where the dream did not
    end."""
    found, policy = [], agent.policy_of(spec)
    for rows in torch.arange(len(state.features)).repeat_interleave(DREAMS).split(TOGETHER):
        policy.reset(range(len(rows)))
        noise = draw(agent.memory.imagine_noise, len(rows), generator, state.features)
        done = unroll(agent.memory, policy, state.select(rows), noise, steps, temperature).done
        found.append(torch.where(done.any(1), done.int().argmax(1) + 1, steps + 1))
    return torch.cat(found).view(-1, DREAMS).numpy()


def follow(agent: Agent, state: State, action: Tensor, temperature: float, generator: torch.Generator) -> Trajectory:
    """Dreams from N states with given actions [N, T, A]."""
    noise = draw(agent.memory.imagine_noise, len(action), generator, state.features)
    return unroll(agent.memory, action, state, noise, action.shape[1], temperature)


@torch.inference_mode()
def dream_from(agent: Agent, z: np.ndarray, action: np.ndarray, start: int, temperature: float,
               seed: int) -> np.ndarray:
    """An episode's latents [T+1, Z], seen by M up to step `start` and from there on dreamt, given the same actions [T,
    A]."""
    generator = torch.Generator().manual_seed(seed)
    moment = states(agent, [Episode(z, action, None, None, None)], np.array([0]), np.array([start]), generator)
    dreamt = follow(agent, moment, torch.from_numpy(action[None, start:]), temperature, generator)
    return np.concatenate([z[:start], dreamt.latent[0].numpy()])
