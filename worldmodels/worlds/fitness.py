"""The returns of policies in the real game and in the dream, as jobs for worker processes or in this one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from tqdm import tqdm

from worldmodels.agent import Agent, agent_of
from worldmodels.controller import PolicySpec
from worldmodels.controller.learner import OnPolicyEpisode
from worldmodels.envs import Task
from worldmodels.executors import Shared
from worldmodels.memory.pessimism import Pessimism, pessimism_of, with_pessimism
from worldmodels.types import Executor, Seeds, State
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.on_policy import on_policy_episodes
from worldmodels.worlds.population import GraphedDream, dream, whole_widths
from worldmodels.worlds.real import RealWorld, real_world
from worldmodels.worlds.rollout import rollout

SMALLEST, LARGEST = 16, 128     # episodes in one job ...
SHARE = 3                       # ... which is this part of those that are left
SLOWEST = 10                    # frames of a game a second, below which a worker is taken to hang ...
FASTER = 100                    # ... and a dream has so many times as many steps


def time_for(frames: int) -> float:
    """The seconds that a job of so many frames may take."""
    return 600 + frames / SLOWEST


@lru_cache(maxsize=1)
def worker_agent(task: Task, shared: Shared, device: str = "cpu") -> Agent:
    """This process's agent, reused from job to job."""
    return agent_of(shared, task, device)


@lru_cache(maxsize=1)
def worker_world(task: Task, shared: Shared, max_steps: int, settings: tuple) -> tuple[Agent, RealWorld]:
    """This process's agent and real world, reused from job to job."""
    agent = worker_agent(task, shared)
    return agent, real_world(agent, max_steps, settings)


@lru_cache(maxsize=1)
def worker_dream(task: Task, shared: Shared, device: str, pessimism: Pessimism, config: DreamConfig) -> Callable:
    """This process's dream, reused from job to job."""
    agent = worker_agent(task, shared, device)
    return dream_of(agent.with_memory(with_pessimism(agent.memory, pessimism)), device, config)


def dream_of(agent: Agent, device: str, config: DreamConfig) -> Callable:
    """(spec, start, seeds, seed) -> Rollouts: `population.dream` of this agent."""
    return partial(dream, agent, config=config) if device == "cpu" else GraphedDream(agent, config)


@dataclass(frozen=True, repr=False)
class PlayJob:
    """Plays the real game."""

    task: Task
    agent: Shared               # V and M
    max_steps: int
    settings: tuple
    spec: PolicySpec            # N policies
    seeds: tuple[int, ...]      # N

    @property
    def deadline(self) -> float:
        return time_for(len(self.seeds) * self.max_steps)


class RealJob(PlayJob):
    """One episode for each (policy, seed)."""

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        agent, world = worker_world(self.task, self.agent, self.max_steps, self.settings)
        played = rollout(world, agent.policy_of(self.spec), self.seeds)
        return played.returns.numpy(), played.lengths.numpy()


class OnPolicyJob(PlayJob):
    """One episode for each seed, by one actor with its noise: what it saw and did."""

    def __call__(self) -> list[OnPolicyEpisode]:
        agent, world = worker_world(self.task, self.agent, self.max_steps, self.settings)
        return on_policy_episodes(world, agent, self.spec, self.seeds)


class RealFitness:
    """Policies in the real game, spread over an executor's workers in jobs that do not depend on their number."""

    def __init__(self, executor: Executor, agent: Agent, max_steps: int, settings: tuple):
        self.executor = executor
        about = agent.task, agent.shared, max_steps, settings
        self.job, self.on_policy_job = partial(RealJob, *about), partial(OnPolicyJob, *about)

    def __call__(self, spec: PolicySpec, seeds: Seeds, progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] or [P, E] -> returns [P, E]."""
        return self.play(spec, seeds, progress)[0]

    def play(self, spec: PolicySpec, seeds: Seeds, progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] or [P, E] -> returns and lengths, [2, P, E]."""
        members = len(next(iter(spec.arrays.values())))
        episodes = np.shape(seeds)[-1]
        member = np.repeat(np.arange(members), episodes)            # a member's episodes beside each other
        all_seeds = np.broadcast_to(seeds, (members, episodes)).flatten().tolist()
        jobs = [self.job(spec.select(member[part]), tuple(all_seeds[part])) for part in split_jobs(len(member))]
        results = self.executor.run(jobs, progress, weight=lambda result: len(result[0]))
        return np.concatenate(results, axis=1).reshape(2, members, episodes)

    def on_policy(self, spec: PolicySpec, seeds: Seeds) -> list[OnPolicyEpisode]:
        """An episode for each seed, with one actor and its noise."""
        jobs = [self.on_policy_job(spec, tuple(seeds[i:i + SMALLEST])) for i in range(0, len(seeds), SMALLEST)]
        return sum(self.executor.run(jobs), [])


def split_jobs(count: int) -> list[slice]:
    """Cuts `count` episodes into jobs for any number of workers: large ones first, for a worker is fastest with many at
    once, then smaller and smaller, so that all workers end together (guided self-scheduling, Polychronopoulos & Kuck
    1987)."""
    cuts = [0]
    while cuts[-1] < count:
        left = count - cuts[-1]
        size = min(LARGEST, left // SHARE // SMALLEST * SMALLEST)  # full batches in games that all last as long
        cuts.append(cuts[-1] + min(left, max(SMALLEST, size)))
    return [slice(*pair) for pair in zip(cuts, cuts[1:])]


@dataclass(frozen=True, repr=False)
class DreamJob:
    """Dreams of some members."""

    task: Task
    agent: Shared                   # V and M
    device: str
    gpus: int                       # that it asks for
    pessimism: Pessimism
    config: DreamConfig
    start: tuple[np.ndarray, ...]   # the state in which each seed's dream begins: features and what is inside, [S, ...]
    seeds: np.ndarray               # S
    spec: PolicySpec                # M policies
    member: np.ndarray              # [B], each dream's policy ...
    seed: np.ndarray                # [B] ... and seed

    @property
    def deadline(self) -> float:
        return time_for(len(self.member) * self.config.max_steps // FASTER)

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        dream = worker_dream(self.task, self.agent, self.device, self.pessimism, self.config)
        features, *inner = (torch.from_numpy(array).to(self.device) for array in self.start)
        spec, seed = self.spec.select(self.member), torch.from_numpy(self.seed).to(self.device)
        dreamt = dream(spec, State(features, tuple(inner)), self.seeds, seed)
        return dreamt.returns.cpu().numpy(), dreamt.lengths.cpu().numpy()


class DreamFitness:
    """Policies in the dream, all members and episodes together: on `gpus` GPUs of an executor, or on that of this
    process, or spread over an executor's workers, or else in this process."""

    def __init__(self, agent: Agent, world: DreamWorld, executor: Executor | None = None, gpus: int = 0):
        here = world.device.type
        self.world, self.gpus = world, gpus
        self.executor = executor if here == "cpu" or gpus else None
        if self.executor is None:
            self.dream = dream_of(agent, here, world.config)
        else:
            self.job = partial(DreamJob, agent.task, agent.shared, "cuda" if gpus else here, min(1, gpus),
                               pessimism_of(agent.memory), world.config)

    def __call__(self, spec: PolicySpec, seeds: Seeds) -> np.ndarray:
        """P policies, seeds [E] or [P, E] -> returns [P, E]."""
        return self.play(spec, seeds)[0]

    def play(self, spec: PolicySpec, seeds: Seeds, progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] or [P, E] -> returns and lengths, [2, P, E]."""
        members, episodes = len(next(iter(spec.arrays.values()))), np.shape(seeds)[-1]
        member = np.repeat(np.arange(members), episodes)            # a member's episodes beside each other
        all_seeds = np.broadcast_to(np.asarray(seeds, np.int64), (members, episodes)).flatten()
        seeds, seed = np.unique(all_seeds, return_inverse=True)
        start = self.world.starts(seeds)
        if self.executor is None:
            dreamt = self.dream(spec.select(member), start, seeds, torch.from_numpy(seed).to(self.world.device))
            results = [[t.cpu().numpy() for t in dreamt]]
        else:
            size = whole_widths(-(-len(member) // (self.gpus or self.executor.size)))
            cuts = [slice(i, min(i + size, len(member))) for i in range(0, len(member), size)]
            jobs = [self._job(start, seeds, spec, member[cut], seed[cut]) for cut in cuts]
            results = self.executor.run(jobs, progress, weight=lambda result: len(result[0]))
        return np.concatenate(results, axis=1).reshape(2, members, episodes)

    def _job(self, start: State, seeds: np.ndarray, spec: PolicySpec, member: np.ndarray, seed: np.ndarray) -> DreamJob:
        """The job of these dreams, with what they need and no more."""
        members, member = np.unique(member, return_inverse=True)
        if len(members) == 1:               # of several: it acts as beside others, to the last bit
            members = members.repeat(2)
        used, seed = np.unique(seed, return_inverse=True)
        state = tuple(t.cpu()[torch.from_numpy(used)].numpy() for t in (start.features, *start.inner))
        return self.job(state, seeds[used], spec.select(members), member, seed)
