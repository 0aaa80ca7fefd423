"""The returns of policies in the real game and in the dream, as jobs for worker processes or in this one."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Sequence

import numpy as np
import torch
from tqdm import tqdm

from worldmodels.agent import Agent, load_agent
from worldmodels.controller import PolicySpec
from worldmodels.envs import Task
from worldmodels.memory.pessimism import Pessimism, pessimism_of, with_pessimism
from worldmodels.runs import Run
from worldmodels.types import Executor, State, UserError
from worldmodels.worlds.dream import DreamConfig, DreamWorld
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
def worker_agent(task: Task, run: Run, digest: str) -> Agent:
    """This process's agent, reused from job to job."""
    agent = load_agent(run, task=task)
    if agent.digest != digest:
        raise UserError(f"V or M in {run.folder} changed while a controller was being scored: run the command again")
    return agent


@lru_cache(maxsize=1)
def worker_world(task: Task, run: Run, digest: str, max_steps: int, settings: tuple) -> tuple[Agent, RealWorld]:
    """This process's agent and real world, reused from job to job."""
    agent = worker_agent(task, run, digest)
    return agent, real_world(agent, max_steps, settings)


@dataclass(frozen=True, repr=False)
class RealJob:
    """Plays one episode for each (policy, seed); a pure function of these and of the digest of V and M."""

    task: Task
    run: Run
    digest: str
    max_steps: int
    settings: tuple
    spec: PolicySpec            # N policies
    seeds: tuple[int, ...]      # N

    @property
    def deadline(self) -> float:
        return time_for(len(self.seeds) * self.max_steps)

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        agent, world = worker_world(self.task, self.run, self.digest, self.max_steps, self.settings)
        played = rollout(world, agent.policy_of(self.spec), self.seeds)
        return played.returns.numpy(), played.lengths.numpy()


class RealFitness:
    """Policies in the real game, spread over an executor's workers in jobs that do not depend on their number."""

    def __init__(self, executor: Executor, run: Run, agent: Agent, max_steps: int, settings: tuple):
        self.executor = executor
        self.job = partial(RealJob, agent.task, run, agent.digest, max_steps, settings)

    def __call__(self, spec: PolicySpec, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] -> returns [P, E]."""
        return self.play(spec, seeds, progress)[0]

    def play(self, spec: PolicySpec, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] -> returns and lengths, [2, P, E]."""
        members = len(next(iter(spec.arrays.values())))
        member = np.repeat(np.arange(members), len(seeds))          # a member's episodes beside each other
        all_seeds = list(seeds) * members
        jobs = [self.job(spec.select(member[part]), tuple(all_seeds[part])) for part in split_jobs(len(member))]
        results = self.executor.run(jobs, progress, weight=lambda result: len(result[0]))
        return np.concatenate(results, axis=1).reshape(2, members, len(seeds))


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
    """Dreams of some members; a pure function of its fields and of the digest of V and M."""

    task: Task
    run: Run
    digest: str
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
        agent = worker_agent(self.task, self.run, self.digest)
        agent = agent.with_memory(with_pessimism(agent.memory, self.pessimism))
        features, *inner = map(torch.from_numpy, self.start)
        spec, seed = self.spec.select(self.member), torch.from_numpy(self.seed)
        dreamt = dream(agent, spec, State(features, tuple(inner)), self.seeds, seed, self.config)
        return dreamt.returns.numpy(), dreamt.lengths.numpy()


class DreamFitness:
    """Policies in the dream, all members and episodes together: on the GPU, or spread over an executor's workers, or
    else in this process."""

    def __init__(self, agent: Agent, world: DreamWorld, executor: Executor | None = None, run: Run | None = None):
        on_gpu = world.device.type == "cuda"
        self.world, self.executor = world, None if on_gpu else executor
        self.job = partial(DreamJob, agent.task, run, agent.digest, pessimism_of(agent.memory), world.config)
        self.dream = GraphedDream(agent, world.config) if on_gpu else partial(dream, agent, config=world.config)

    def __call__(self, spec: PolicySpec, seeds: Sequence[int]) -> np.ndarray:
        """P policies, seeds [E] -> returns [P, E]."""
        return self.play(spec, seeds)[0]

    def play(self, spec: PolicySpec, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """P policies, seeds [E] -> returns and lengths, [2, P, E]."""
        members, episodes = len(next(iter(spec.arrays.values()))), len(seeds)
        seeds, start = np.asarray(seeds, np.int64), self.world.starts(seeds)
        member, seed = np.divmod(np.arange(members * episodes), episodes)       # a member's episodes beside each other
        if self.executor is None:
            dreamt = self.dream(spec.select(member), start, seeds, torch.from_numpy(seed).to(self.world.device))
            results = [[t.cpu().numpy() for t in dreamt]]
        else:
            size = whole_widths(-(-len(member) // self.executor.size))
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
        state = tuple(t[torch.from_numpy(used)].numpy() for t in (start.features, *start.inner))
        return self.job(state, seeds[used], spec.select(members), member, seed)
