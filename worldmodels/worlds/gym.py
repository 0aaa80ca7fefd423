"""The dream, and the real game with V and M in front of it, as Gymnasium environments: two worlds that look the same,
so that what is trained in one acts in the other unchanged.

    import gymnasium, worldmodels
    dream = gymnasium.make("worldmodels/TakeCoverDream-v0", run="laptop", temperature=1.05)
    game = gymnasium.make("worldmodels/TakeCoverReal-v0", run="laptop")

and the same with CarRacing. `make_vec` advances all of its rollouts as one batch. Actions are the game's own; each is
held for as many frames as the run's agent holds it. Options of both:

    run                 a run's folder or name (runs.find); without it the published one
    observe             "features": what the controller sees | "z": V's latent of the frame alone
    max_episode_steps   truncates an episode after so many actions, unless the game's official length does so before
    render_mode         "rgb_array": the frame that V decodes from the dream, [64, 64, 3]; the game's own picture
    device              where V and M compute

of the dream those of DreamConfig (`temperature`, without which it is the run's own, `start`, `warmup`, and of a memory
that is uncertain `pessimism` and `uncertainty_quantile`), and of the game those that its environment takes (TakeCover:
`skill`, `repeat`; CarRacing: `repeat`, `drawing`).
"""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from worldmodels.agent import Agent, open_agent
from worldmodels.commandline import check_values
from worldmodels.latents import open_latents
from worldmodels.runs import Run
from worldmodels.types import State, UserError
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamWorld, pessimistic
from worldmodels.worlds.real import RealWorld, real_world


class Opened(NamedTuple):
    """A run's world, for an environment to show."""

    world: DreamWorld | RealWorld
    observe: Callable[[State], torch.Tensor]    # what an observation shows of a state, [B, size]
    frames: Callable[[], np.ndarray]        # pictures of the rollouts as they are now, [B, h, w, 3] uint8
    observation_space: Box                  # of one rollout
    action_space: Box
    fps: float                              # pictures in a second of the game


def open_world(task: str, world: str, run: str | Path | None = None, observe: str = "features",
               max_episode_steps: int | None = None, render_mode: str | None = None, device: str = "cpu",
               **settings) -> Opened:
    """The world of a run's last V and M."""
    choices = ("observe", observe, ("features", "z")), ("render_mode", render_mode, ("rgb_array", None))
    for name, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{name} {value!r}: must be {' or '.join(map(str, allowed))}")
    if max_episode_steps is not None:
        check_values(DreamConfig, {"max_steps": max_episode_steps}, {"max_steps": "max_episode_steps"})
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: must be cpu, or cuda where torch can use it")
    if multiprocessing.parent_process() is not None:  # one of many that another library started: it has a core at most,
        torch.set_num_threads(1)  # and where it was forked, torch's threads did not come along
    run, agent = open_agent(task, run, device)
    made, frames, repeat = WORLDS[world](agent, run, run.settings(CollectConfig, "collect"), max_episode_steps,
                                         render_mode, settings)
    memory = agent.memory
    size = memory.z_size if observe == "z" else sum(memory.feature_sizes.values())
    show = memory.latent if observe == "z" else lambda state: state.features
    most = np.finfo(np.float32).max                         # they are numbers without a bound of their own
    space = Box(-most, most, (size,), np.float32)
    return Opened(made, show, frames, space, agent.task.action_space, agent.task.fps / repeat)


def dream(agent: Agent, run: Run, collect: CollectConfig, max_episode_steps: int | None, render_mode: str | None,
          settings: dict) -> tuple[DreamWorld, Callable[[], np.ndarray], int]:
    """The dream, its frames, and the game's frames in a step."""
    official = agent.task.steps(collect.repeat)
    own = DreamConfig(run.settings(DreamConfig, "dream").temperature,
                      max_steps=min(max_episode_steps or official, official))
    config = with_options(own, settings, DREAM)
    latents = open_latents(run, collect.min_steps, agent.vision_digest, agent.memory.config.latent)
    world = DreamWorld(pessimistic(agent.memory, lambda: latents, config, seed=0), latents, config)
    return world, lambda: agent.decode(agent.memory.latent(world.state)), collect.repeat


def real(agent: Agent, run: Run, collect: CollectConfig, max_episode_steps: int | None, render_mode: str | None,
         settings: dict) -> tuple[RealWorld, Callable[[], np.ndarray], int]:
    """The game, its pictures, and its frames in a step."""
    task = agent.task
    collect = with_options(collect, settings, task.settings)
    frames = min(task.max_steps, (max_episode_steps or task.max_steps) * collect.repeat)
    world = real_world(agent, frames, env_settings(task, collect), render_mode)
    return world, lambda: np.stack([env.render() for env in world.envs]), collect.repeat


WORLDS = {"dream": dream, "real": real}
COMMON = ("run", "observe", "max_episode_steps", "render_mode", "device")
DREAM = ("temperature", "start", "warmup", "pessimism", "uncertainty_quantile")


def with_options(config, options: dict, known: Sequence[str]):
    """A config with other values; a UserError where an option is not known, or has a value that it cannot have."""
    if unknown := options.keys() - set(known):
        raise UserError(f"no option {', '.join(sorted(unknown))}: there are {', '.join((*COMMON, *known))}")
    check_values(type(config), options, {})
    return replace(config, **options)


def fresh_seed(rng: np.random.Generator) -> int:
    """The seed of an episode that was given none; below 2^31, as every game takes them."""
    return int(rng.integers(2**31))


class LatentEnv(gymnasium.Env):
    """One dream or game at a time. That of a seed is the world's own (DreamWorld, RealWorld)."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, task: str, world: str, render_mode: str | None = None, **options):
        self.world, self.observe, self.frames, self.observation_space, self.action_space, fps = open_world(
            task, world, render_mode=render_mode, **options)
        self.metadata, self.render_mode = self.metadata | {"render_fps": fps}, render_mode

    @torch.inference_mode()
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        state = self.world.reset([fresh_seed(self.np_random) if seed is None else seed])
        return observation(state, self.observe)[0].copy(), {}

    @torch.inference_mode()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        step = self.world.step(to_world(shaped(action, self.action_space)[None], self.world, self.action_space))
        outcome = step.reward.item(), step.terminated.item(), step.truncated.item()
        return observation(step.state, self.observe)[0].copy(), *outcome, {}

    @torch.inference_mode()
    def render(self) -> np.ndarray | None:
        return self.frames()[0] if self.render_mode else None

    def close(self):
        self.world.close()


class LatentVectorEnv(gymnasium.vector.VectorEnv):
    """Many of them as one batch. Each goes on as a LatentEnv of its seed would: one that has ended begins again at the
    next step, whose action is not for it (gymnasium's AutoresetMode.NEXT_STEP)."""

    metadata = LatentEnv.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, task: str, world: str, num_envs: int = 1, render_mode: str | None = None, **options):
        self.world, self.observe, self.frames, *spaces, fps = open_world(task, world, render_mode=render_mode,
                                                                         **options)
        self.metadata, self.render_mode, self.num_envs = self.metadata | {"render_fps": fps}, render_mode, num_envs
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in spaces)
        self.rngs, self.ended = [np.random.default_rng() for _ in range(num_envs)], None

    @torch.inference_mode()
    def reset(self, *, seed: int | Sequence[int | None] | None = None,
              options: dict | None = None) -> tuple[np.ndarray, dict]:
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        for i, given in enumerate(seed):
            if given is not None:
                self.rngs[i], _ = seeding.np_random(given)
        self.order = np.arange(self.num_envs)               # whose rollouts the world has, in its order
        self.ended = np.zeros(self.num_envs, bool)
        seeds = [fresh_seed(rng) if given is None else given for given, rng in zip(seed, self.rngs)]
        return self._observation(self.world.reset(seeds)), {}

    @torch.inference_mode()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        if self.ended is None:
            raise ResetNeeded("step before the first reset")
        action = shaped(action, self.action_space)
        reward, (terminated, truncated) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        rows, new = np.flatnonzero(~self.ended[self.order]), np.flatnonzero(self.ended)
        kept, seeds = self.order[rows], [fresh_seed(self.rngs[i]) for i in new]
        if len(kept):
            if len(new):
                self.world.select_and_reset(torch.from_numpy(rows), [])
            state, *outcome = self.world.step(to_world(action[kept], self.world, self.single_action_space))
            reward[kept], terminated[kept], truncated[kept] = (t.cpu().numpy() for t in outcome)
        if len(new):
            every = torch.arange(len(kept))
            state = self.world.select_and_reset(every, seeds) if len(kept) else self.world.reset(seeds)
        self.order, self.ended = np.concatenate([kept, new]), terminated | truncated
        return self._observation(state), reward, terminated, truncated, {}

    @torch.inference_mode()
    def render(self) -> tuple[np.ndarray, ...] | None:
        return tuple(self.frames()[np.argsort(self.order)]) if self.render_mode else None

    def close_extras(self, **kwargs):
        self.world.close()

    def _observation(self, state: State) -> np.ndarray:
        return observation(state, self.observe)[np.argsort(self.order)]


def observation(state: State, observe: Callable[[State], torch.Tensor]) -> np.ndarray:
    """What is shown of each rollout, [B, size] float32; on a CPU the world's own, to be copied before it is given
    away."""
    return observe(state).cpu().numpy()


def shaped(action, space: Box) -> np.ndarray:
    """An action, or a batch of them; a ValueError where its shape is another than the space's."""
    action = np.asarray(action)
    if action.shape != space.shape:
        raise ValueError(f"an action of shape {action.shape}: must be {space.shape}")
    return action


def to_world(action: np.ndarray, world: DreamWorld | RealWorld, space: Box) -> torch.Tensor:
    """Actions [B, A] as a world takes them: within their bounds, beyond which M knows of nothing."""
    return torch.from_numpy(np.clip(action, space.low, space.high).astype(np.float32)).to(world.device)
