"""V and M of a run, and the fitness of controllers that look through them: in worker processes in the real game, as one
batch in the dream."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodels.controller import population_policy
from worldmodels.envs import TASKS
from worldmodels.memory import MEMORIES, MemoryConfig
from worldmodels.runs import Run, find
from worldmodels.types import Executor, State, UserError
from worldmodels.vision import VAE, VisionConfig
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.population import GraphedDream, dream, whole_widths
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.rollout import rollout

SMALLEST, LARGEST = 16, 128     # episodes in one job ...
SHARE = 3                       # ... which is this part of those that are left


class Agent(NamedTuple):
    """V and M, frozen."""

    task: str
    vision: VAE
    memory: torch.nn.Module

    @torch.inference_mode()
    def decode(self, z: np.ndarray | Tensor) -> np.ndarray:
        """V's picture of latents [..., Z], [..., 64, 64, 3] uint8."""
        z = torch.as_tensor(z, device=next(self.vision.parameters()).device)
        return self.vision.decode(z.reshape(-1, z.shape[-1])).view(*z.shape[:-1], 64, 64, 3).cpu().numpy()

    def policy(self, parameters: np.ndarray, episodes: int = 1):
        """Controllers [P, n] as the policy of P × `episodes` rollouts."""
        task = TASKS[self.task]
        size = self.memory.feature_size * task.action_size
        bias = parameters.shape[-1] != size
        device = next(self.memory.parameters()).device
        return population_policy(parameters, episodes, device, action_size=task.action_size, bias=bias, squash=task.squash)


def build_vision(info: dict) -> VAE:
    """V as the info of its checkpoint describes it."""
    return VAE(VisionConfig(**info["vision"]))


def build_memory(info: dict) -> torch.nn.Module:
    """M as the info of its checkpoint describes it."""
    config = MemoryConfig(**info["memory"])
    return MEMORIES[config.kind](config, info["vision"]["z_size"], TASKS[info["task"]].action_size)


def load_agent(run: Run, device: str = "cpu") -> tuple[Agent, str]:
    """A run's trained V and M, and the digest of both."""
    vision_tensors, vision_info = run.load("vision", "train_vision")
    memory_tensors, memory_info = run.load("memory", "train_memory")
    if memory_info.get("vision_digest", vision_info["digest"]) != vision_info["digest"]:
        raise UserError(f"{run.path('memory')} was trained on what another V saw, not on {run.path('vision')}")
    try:
        vision, memory = build_vision(vision_info), build_memory(memory_info)
    except (KeyError, TypeError) as error:
        raise UserError(f"V or M in {run.folder} is of another version of this program ({error})") from None
    for name, module, tensors in (("vision", vision, vision_tensors), ("memory", memory, memory_tensors)):
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"{run.path(name)} does not fit its own config ({str(error).splitlines()[-1].strip()}): "
                            f"delete it and run `python -m pipeline.train_{name}`") from None
        module.to(device).eval().requires_grad_(False)
    return Agent(memory_info["task"], vision, memory), f"{vision_info['digest']}-{memory_info['digest']}"


def found_agent(task: str, run: str | Path | None = None, device: str = "cpu", last: str = "memory") -> tuple[Run, Agent, str]:
    """A run by its folder or name (runs.find), at the last round that has the checkpoint `last`; its agent, and the digest of V and M."""
    found = find(task, run).last(last)
    agent, digest = load_agent(found, device)
    if agent.task != task:
        raise UserError(f"{found.root} is a run of {agent.task}, not of {task}")
    return found, agent, digest


def load_controller(run: Run, digest: str) -> dict[str, Tensor]:
    """What evolution came to, "parameters" [n] first of all; `digest`: of the V and M that it has to be of."""
    tensors, info = run.load("controller", "train_controller")
    if info["agent_digest"] != digest:
        raise UserError(f"{run.path('controller')} was evolved with another V or M than those of {run.folder}")
    return tensors


def real_world(agent: Agent, max_steps: int, settings: tuple, render_mode: str | None = None) -> RealWorld:
    """The agent's game, `max_steps` frames long, with the environment's `settings` (collect.env_settings)."""
    task, settings = TASKS[agent.task], dict(settings)
    if task.shrink is not None:
        settings["raw"] = True
    make_env = lambda: task.env(max_steps=max_steps, render_mode=render_mode, **settings)
    return RealWorld(make_env, agent.vision, agent.memory, task.shrink, task.lanes)


@lru_cache(maxsize=1)
def worker_agent(run: Run, digest: str) -> Agent:
    """This process's agent, reused from job to job."""
    agent, found = load_agent(run)
    if found != digest:
        raise UserError(f"V or M in {run.folder} changed while a controller was being scored: run the command again")
    return agent


@lru_cache(maxsize=1)
def worker_world(run: Run, digest: str, max_steps: int, settings: tuple) -> tuple[Agent, RealWorld]:
    """This process's agent and real world, reused from job to job."""
    agent = worker_agent(run, digest)
    return agent, real_world(agent, max_steps, settings)


@dataclass(frozen=True, repr=False)
class RealJob:
    """Plays one episode for each (parameters [n], seed); a pure function of these and of the digest of V and M."""

    run: Run
    digest: str
    max_steps: int
    settings: tuple
    parameters: np.ndarray      # [N, n]
    seeds: tuple[int, ...]      # N

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        agent, world = worker_world(self.run, self.digest, self.max_steps, self.settings)
        played = rollout(world, agent.policy(self.parameters), self.seeds)
        return played.returns.numpy(), played.lengths.numpy()


class RealFitness:
    """Controllers in the real game, spread over an executor's workers in jobs that do not depend on their number."""

    def __init__(self, executor: Executor, run: Run, digest: str, max_steps: int, settings: tuple):
        self.executor = executor
        self.job = lambda parameters, seeds: RealJob(run, digest, max_steps, settings, parameters, seeds)

    def __call__(self, parameters: np.ndarray, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """Parameters [P, n], seeds [E] -> returns [P, E]."""
        return self.play(parameters, seeds, progress)[0]

    def play(self, parameters: np.ndarray, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """Parameters [P, n], seeds [E] -> returns and lengths, [2, P, E]."""
        rows = np.repeat(parameters, len(seeds), 0)                 # [P*E, n], a member's episodes beside each other
        all_seeds = list(seeds) * len(parameters)
        jobs = [self.job(rows[part], tuple(all_seeds[part])) for part in parts(len(rows))]
        results = self.executor.run(jobs, progress, weight=lambda result: len(result[0]))
        return np.concatenate(results, axis=1).reshape(2, len(parameters), len(seeds))


def parts(count: int) -> list[slice]:
    """Cuts `count` episodes into jobs for any number of workers: large ones first, for a worker is fastest with many at once,
    then smaller and smaller, so that all workers end together (guided self-scheduling, Polychronopoulos & Kuck 1987)."""
    cuts = [0]
    while cuts[-1] < count:
        left = count - cuts[-1]
        size = min(LARGEST, left // SHARE // SMALLEST * SMALLEST)           # full lanes in games that all last as long
        cuts.append(cuts[-1] + min(left, max(SMALLEST, size)))
    return [slice(*pair) for pair in zip(cuts, cuts[1:])]


@dataclass(frozen=True, repr=False)
class DreamJob:
    """Dreams of some members; a pure function of its fields."""

    run: Run
    digest: str
    config: DreamConfig
    start: tuple[np.ndarray, ...]   # the state in which each seed's dream begins: features and what is inside, [S, ...]
    seeds: np.ndarray               # S
    parameters: np.ndarray          # [M, n]
    member: np.ndarray              # [B], each dream's row of `parameters` ...
    seed: np.ndarray                # [B] ... and of `seeds`

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        agent = worker_agent(self.run, self.digest)
        features, *inner = map(torch.from_numpy, self.start)
        policy = agent.policy(self.parameters[self.member])
        dreamt = dream(agent.memory, policy, State(features, tuple(inner)), self.seeds, torch.from_numpy(self.seed), self.config)
        return dreamt.returns.numpy(), dreamt.lengths.numpy()


class DreamFitness:
    """Controllers in the dream, all members and episodes together: on the GPU, or spread over an executor's workers, or else
    in this process."""

    def __init__(self, agent: Agent, world: DreamWorld, executor: Executor | None = None, run: Run | None = None,
                 digest: str = ""):
        on_gpu = world.device.type == "cuda"
        self.agent, self.world, self.executor = agent, world, None if on_gpu else executor
        self.job = partial(DreamJob, run, digest, world.config)
        self.dream = GraphedDream(agent.memory, world.config) if on_gpu else partial(dream, agent.memory, config=world.config)

    def __call__(self, parameters: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Parameters [P, n], seeds [E] -> returns [P, E]."""
        return self.play(parameters, seeds)[0]

    def play(self, parameters: np.ndarray, seeds: Sequence[int], progress: tqdm | None = None) -> np.ndarray:
        """Parameters [P, n], seeds [E] -> returns and lengths, [2, P, E]."""
        count, episodes = len(parameters) * len(seeds), len(seeds)
        seeds, start = np.asarray(seeds, np.int64), self.world.starts(seeds)
        member, seed = np.divmod(np.arange(count), episodes)        # a member's episodes beside each other
        if self.executor is None:
            seed = torch.from_numpy(seed).to(self.world.device)
            dreamt = self.dream(self.agent.policy(parameters[member]), start, seeds, seed)
            results = [[t.cpu().numpy() for t in dreamt]]
        else:
            size = whole_widths(-(-count // self.executor.size))
            cuts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
            jobs = [self._job(start, seeds, parameters, member[cut], seed[cut]) for cut in cuts]
            results = self.executor.run(jobs, progress, weight=lambda result: len(result[0]))
        return np.concatenate(results, axis=1).reshape(2, len(parameters), episodes)

    def _job(self, start: State, seeds: np.ndarray, parameters: np.ndarray, member: np.ndarray, seed: np.ndarray) -> DreamJob:
        """The job of these dreams, with what they need and no more."""
        members, member = np.unique(member, return_inverse=True)
        used, seed = np.unique(seed, return_inverse=True)
        state = tuple(t[torch.from_numpy(used)].numpy() for t in (start.features, *start.inner))
        return self.job(state, seeds[used], parameters[members], member, seed)
