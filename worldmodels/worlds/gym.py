"""The dream, and the real game with V and M in front of it, as Gymnasium environments: two worlds that look the same,
so that what is trained in one acts in the other unchanged.

    import gymnasium, worldmodels
    dream = gymnasium.make("worldmodels/TakeCoverDream-v0", run="laptop", temperature=1.05)
    game = gymnasium.make("worldmodels/TakeCoverReal-v0", run="laptop")
    many = gymnasium.make_vec("worldmodels/TakeCoverDream-v0", num_envs=64, autoreset_mode="SameStep")

and the same with CarRacing. `make_vec` advances all of its rollouts as one batch, and begins ended ones again by
gymnasium's AutoresetMode NEXT_STEP (the default) or SAME_STEP. Options of both worlds:

    run                 a run's folder or name (runs.find); without it the published one
    observe             "features": what the controller sees | "z": V's latent of the frame alone
    max_episode_steps   truncates an episode after so many actions, unless the game's official length does so before
    render_mode         "rgb_array": the frame that V decodes from the dream, [64, 64, 3]; the game's own picture
    device              where V and M compute

of the dream those of DreamConfig (`temperature`, `enough` and `step_cost`, without which they are the run's own,
`start`, `warmup`, and of a memory that is uncertain `pessimism` and `uncertainty_quantile`), and of the game those that
its environment takes (TakeCover: `skill`, `repeat`; CarRacing: `repeat`, `drawing`).

Actions are the game's own; each is held for as many frames as the run's agent holds it. CarRacing's are steering in
[-1, 1], gas and brake in [0, 1]: for an algorithm that expects every action in [-1, 1], wrap the environment in
gymnasium.wrappers.RescaleAction(env, -1, 1), a batch in that of gymnasium.wrappers.vector. An action that is not finite
is a ValueError, one beyond the bounds is the action at them. `reset` takes no options.

`info` has the `seed` of the episode, with which `reset(seed=...)` begins it again. A dream's step adds `p_done`, M's
probability that the episode ends with it, and `uncertainty`, the disagreement of an ensemble (0 of a single M).
`spec.max_episode_steps` is the length of an episode in actions.

A memory that is no run's has `dream_env` and `dream_vector_env`. Stable-Baselines3 takes a batch through
worlds/stable_baselines.py.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from worldmodels.agent import Agent, open_agent
from worldmodels.commandline import check_values
from worldmodels.latents import open_latents
from worldmodels.runs import Run
from worldmodels.types import Memory, State, UserError
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamFrom, DreamWorld, pessimistic
from worldmodels.worlds.real import RealWorld, real_world


class Opened(NamedTuple):
    """A world for an environment to show."""

    world: DreamWorld | RealWorld
    observe: Callable[[State], torch.Tensor]            # what an observation shows of a state, [B, size]
    frames: Callable[[], np.ndarray] | None             # pictures of the rollouts as they are now, [B, h, w, 3] uint8
    observation_space: Box                              # of one rollout
    action_space: Box
    max_episode_steps: int                              # actions after which the world truncates an episode
    fps: float                                          # pictures in a second of the game
    render_mode: str | None


def opened(world: DreamWorld | RealWorld, frames: Callable[[], np.ndarray] | None, action_space: Box,
           max_episode_steps: int, fps: float, observe: str, render_mode: str | None) -> Opened:
    """The world with what is observed of it; a UserError where `observe` or `render_mode` cannot be."""
    choices = ("observe", observe, ("features", "z")), ("render_mode", render_mode, ("rgb_array", None))
    for name, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{name} {value!r}: must be {' or '.join(map(str, allowed))}")
    memory = world.memory
    size = memory.z_size if observe == "z" else sum(memory.feature_sizes.values())
    show = memory.latent if observe == "z" else lambda state: state.features
    most = np.finfo(np.float32).max                         # they are numbers without a bound of their own
    space = Box(-most, most, (size,), np.float32)
    return Opened(world, show, frames, space, action_space, max_episode_steps, fps, render_mode)


def open_world(task: str, world: str, run: str | Path | None = None, observe: str = "features",
               max_episode_steps: int | None = None, render_mode: str | None = None, device: str = "cpu",
               **settings) -> Opened:
    """The world of a run's last V and M."""
    if max_episode_steps is not None:
        check_values(DreamConfig, {"max_steps": max_episode_steps}, {"max_steps": "max_episode_steps"})
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: must be cpu, or cuda where torch can use it")
    if multiprocessing.parent_process() is not None:  # one of many that another library started: it has a core at most,
        torch.set_num_threads(1)  # and where it was forked, torch's threads did not come along
    run, agent = open_agent(task, run, device)
    collect = run.settings(CollectConfig, "collect")
    made, frames, steps, repeat = WORLDS[world](agent, run, collect, max_episode_steps, render_mode, settings)
    return opened(made, frames, agent.task.action_space, steps, agent.task.fps / repeat, observe, render_mode)


def dream(agent: Agent, run: Run, collect: CollectConfig, max_episode_steps: int | None, render_mode: str | None,
          settings: dict) -> tuple[DreamWorld, Callable[[], np.ndarray], int, int]:
    """The dream, its frames, its length in actions, and the game's frames in a step."""
    official = agent.task.steps(collect.repeat)
    own = run.settings(DreamConfig, "dream").plain(min(max_episode_steps or official, official))
    config = with_options(own, settings, DREAM)
    latents = open_latents(run, collect.min_steps, agent.vision_digest, agent.memory.config.latent)
    world = DreamWorld(pessimistic(agent.memory, lambda: latents, config, seed=0), latents, config)
    return world, lambda: agent.decode(agent.memory.latent(world.state)), config.max_steps, collect.repeat


def real(agent: Agent, run: Run, collect: CollectConfig, max_episode_steps: int | None, render_mode: str | None,
         settings: dict) -> tuple[RealWorld, Callable[[], np.ndarray], int, int]:
    """The game, its pictures, its length in actions, and its frames in a step."""
    task = agent.task
    collect = with_options(collect, settings, task.settings)
    frames = min(task.max_steps, (max_episode_steps or task.max_steps) * collect.repeat)
    world = real_world(agent, frames, env_settings(task, collect), render_mode)
    pictures = lambda: np.stack([env.render() for env in world.envs])
    return world, pictures, -(-frames // collect.repeat), collect.repeat


WORLDS = {"dream": dream, "real": real}
COMMON = ("run", "observe", "max_episode_steps", "render_mode", "device")
DREAM = ("temperature", "start", "warmup", "enough", "step_cost", "pessimism", "uncertainty_quantile")


def with_options(config, options: dict, known: Sequence[str]):
    """A config with other values; a UserError where an option is not known, or has a value that it cannot have."""
    if unknown := options.keys() - set(known):
        raise UserError(f"no option {', '.join(sorted(unknown))}: there are {', '.join((*COMMON, *known))}")
    check_values(type(config), options, {})
    return replace(config, **options)


def fresh_seed(rng: np.random.Generator) -> int:
    """The seed of an episode that was given none; below 2^31, as every game takes them."""
    return int(rng.integers(2**31))


class Shown:
    """A world that an environment shows: what one rollout and a batch of them have in common."""

    def __init__(self, opened: Opened):
        self.world, self.observe, self.frames = opened.world, opened.observe, opened.frames
        self.render_mode, self.max_episode_steps = opened.render_mode, opened.max_episode_steps
        self.metadata = self.metadata | {"render_modes": ["rgb_array"] if opened.frames else [],
                                         "render_fps": opened.fps}
        self.spec = None
        self.ended: Any = None      # whether the episode is over, of a batch [num_envs]; None before the first reset

    @property
    def spec(self) -> EnvSpec | None:
        """What gymnasium.make gave it, with the length that the world has."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None):
        self._spec = spec and replace(spec, max_episode_steps=self.max_episode_steps)

    def _pictures(self) -> np.ndarray:
        """Of each rollout of the world, [B, h, w, 3] uint8."""
        if self.ended is None:
            raise ResetNeeded("render before the first reset")
        return self.frames()

    def _observation(self) -> np.ndarray:
        """What is shown of each rollout of the world, [B, size] float32; on a CPU the world's own memory, to be copied
        before it is given away."""
        return self.observe(self.world.state).cpu().numpy()

    def _action(self, action, space: Box) -> np.ndarray:
        """An action, or a batch of them, that has the shape of the space and is finite."""
        action = np.asarray(action)
        if action.shape != space.shape:
            raise ValueError(f"an action of shape {action.shape}: must be {space.shape}")
        if not np.isfinite(action).all():
            raise ValueError(f"an action of {action[~np.isfinite(action)][0]}: must be finite")
        return action

    def _to_world(self, action: np.ndarray, space: Box) -> torch.Tensor:
        """Actions [B, A] as the world takes them: within their bounds, beyond which M knows of nothing."""
        return torch.from_numpy(np.clip(action, space.low, space.high).astype(np.float32)).to(self.world.device)


class WorldEnv(Shown, gymnasium.Env):
    """One dream or game at a time. That of a seed is the world's own (DreamWorld, RealWorld)."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, opened: Opened):
        super().__init__(opened)
        self.observation_space, self.action_space = opened.observation_space, opened.action_space

    @torch.inference_mode()
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        without_options(options)
        super().reset(seed=seed)
        self.episode_seed = fresh_seed(self.np_random) if seed is None else seed
        self.world.reset([self.episode_seed])
        self.ended = False
        return self._observation()[0].copy(), {"seed": self.episode_seed}

    @torch.inference_mode()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.ended is not False:
            raise ResetNeeded("step before the first reset" if self.ended is None else "the episode is over: reset")
        step = self.world.step(self._to_world(self._action(action, self.action_space)[None], self.action_space))
        self.ended = step.done.item()
        info = {name: value.item() for name, value in self.world.info.items()} | {"seed": self.episode_seed}
        outcome = step.reward.item(), step.terminated.item(), step.truncated.item()
        return self._observation()[0].copy(), *outcome, info

    @torch.inference_mode()
    def render(self) -> np.ndarray | None:
        return self._pictures()[0] if self.render_mode else None

    def close(self):
        self.world.close()


class WorldVectorEnv(Shown, gymnasium.vector.VectorEnv):
    """Many of them as one batch. Each goes on as a WorldEnv of its seed would. One that has ended begins again

        NEXT_STEP   at the next step, whose action is not for it
        SAME_STEP   at once: the observation is the new episode's first, and `info` has the last one of the old as
                    `final_obs` and its info as `final_info`

    (gymnasium.vector.AutoresetMode, or its value: "NextStep", "SameStep".)"""

    metadata = WorldEnv.metadata

    def __init__(self, opened: Opened, num_envs: int = 1,
                 autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP):
        super().__init__(opened)
        modes = [mode.value for mode in AUTORESET]
        if getattr(autoreset_mode, "value", autoreset_mode) not in modes:
            raise UserError(f"autoreset_mode {autoreset_mode!r}: must be {' or '.join(modes)}")
        self.autoreset_mode, self.num_envs = AutoresetMode(autoreset_mode), num_envs
        self.metadata |= {"autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = opened.observation_space, opened.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]

    @torch.inference_mode()
    def reset(self, *, seed: int | Sequence[int | None] | None = None,
              options: dict | None = None) -> tuple[np.ndarray, dict]:
        without_options(options)
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        for i, given in enumerate(seed):
            if given is not None:
                self.rngs[i], _ = seeding.np_random(given)
        self.seeds = np.array([fresh_seed(rng) if given is None else given for given, rng in zip(seed, self.rngs)])
        self.order = np.arange(self.num_envs)       # whose rollouts the world has, in its order
        self.ended = np.zeros(self.num_envs, bool)
        self.world.reset(self.seeds.tolist())
        return self._observations(), self._seed_info()

    @torch.inference_mode()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        if self.ended is None:
            raise ResetNeeded("step before the first reset")
        return AUTORESET[self.autoreset_mode](self, self._action(action, self.action_space))

    @torch.inference_mode()
    def render(self) -> tuple[np.ndarray, ...] | None:
        return tuple(self._pictures()[np.argsort(self.order)]) if self.render_mode else None

    def close_extras(self, **kwargs):
        self.world.close()

    def _next_step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        begin = self.ended
        self._go_on(~begin, np.zeros_like(begin))
        reward, terminated, truncated, said = self._advance(action)
        self._go_on(~begin, begin)
        self.ended = terminated | truncated
        return self._observations(), reward, terminated, truncated, masked(said, ~begin) | self._seed_info()

    def _same_step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        reward, terminated, truncated, said = self._advance(action)
        ended, info = terminated | truncated, masked(said, ~(terminated | truncated))
        if ended.any():
            last, final = self._observations(), np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final[i] = last[i]
            info |= {"final_obs": final, "_final_obs": ended.copy(),
                     "final_info": masked(said | {"seed": self.seeds}, ended), "_final_info": ended.copy()}
            self._go_on(~ended, ended)
        return self._observations(), reward, terminated, truncated, info | self._seed_info()

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of the rollouts that the world has: reward, terminated, truncated, and what the world says of the
        step, each [num_envs], zero for the others."""
        reward, (terminated, truncated), said = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool), {}
        if len(self.order):
            step = self.world.step(self._to_world(action[self.order], self.single_action_space))
            for array, values in zip((reward, terminated, truncated), step[1:]):
                array[self.order] = values.cpu().numpy()
            for name, values in self.world.info.items():
                said[name] = np.zeros(self.num_envs)
                said[name][self.order] = values.cpu().numpy()
        return reward, terminated, truncated, said

    def _go_on(self, keep: np.ndarray, begin: np.ndarray):
        """The world goes on with those of its rollouts that `keep` [num_envs] has, and behind them new ones of
        `begin`."""
        rows, new = np.flatnonzero(keep[self.order]), np.flatnonzero(begin)
        if len(rows) == len(self.order) and not len(new):
            return
        self.seeds[new] = [fresh_seed(self.rngs[i]) for i in new]
        self.world.select_and_reset(torch.from_numpy(rows), self.seeds[new].tolist())
        self.order = np.concatenate([self.order[rows], new])

    def _observations(self) -> np.ndarray:
        return self._observation()[np.argsort(self.order)]

    def _seed_info(self) -> dict[str, np.ndarray]:
        return masked({"seed": self.seeds}, np.ones(self.num_envs, bool))


AUTORESET = {AutoresetMode.NEXT_STEP: WorldVectorEnv._next_step, AutoresetMode.SAME_STEP: WorldVectorEnv._same_step}


class LatentEnv(WorldEnv):
    """A dream or game of a run, as gymnasium.make makes it."""

    def __init__(self, task: str, world: str, **options):
        super().__init__(open_world(task, world, **options))


class LatentVectorEnv(WorldVectorEnv):
    """Many of them, as gymnasium.make_vec makes them."""

    def __init__(self, task: str, world: str, num_envs: int = 1,
                 autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **options):
        super().__init__(open_world(task, world, **options), num_envs, autoreset_mode)


def dream_env(memory: Memory, starts: State, action_space: Box, **options) -> WorldEnv:
    """The dreams of a user's own memory, as an environment. `starts` are states [N] of that memory, of which each
    dream's seed draws one; `action_space` is that of one action [memory.action_size]. Options:

        temperature         tau, 1 without it
        max_episode_steps   actions after which a dream is truncated, 2100 without it
        observe             "features" or "z"
        decode              z [B, Z] -> pictures [B, h, w, 3] uint8, an array; render_mode="rgb_array" shows them ...
        fps                 ... so many in a second, 30 without it
    """
    env = WorldEnv(own_dream(memory, starts, action_space, **options))
    env.spec = EnvSpec("worldmodels/OwnDream-v0",
                       lambda **changed: dream_env(memory, starts, action_space, **options | changed))
    return env


def dream_vector_env(memory: Memory, starts: State, action_space: Box, num_envs: int = 1,
                     autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **options) -> WorldVectorEnv:
    """Many of them as one batch; options as of `dream_env`."""
    return WorldVectorEnv(own_dream(memory, starts, action_space, **options), num_envs, autoreset_mode)


def own_dream(memory: Memory, starts: State, action_space: Box, temperature: float = DreamConfig.temperature,
              max_episode_steps: int = DreamConfig.max_steps, observe: str = "features",
              decode: Callable[[torch.Tensor], np.ndarray] | None = None, fps: float = 30,
              render_mode: str | None = None) -> Opened:
    """See dream_env."""
    if not isinstance(action_space, Box) or action_space.shape != (memory.action_size,):
        raise UserError(f"action_space {action_space}: must be a Box of shape ({memory.action_size},)")
    if render_mode is not None and decode is None:
        raise UserError(f"render_mode {render_mode!r}: there are no pictures without decode")
    check_values(DreamConfig, {"temperature": temperature, "max_steps": max_episode_steps},
                 {"max_steps": "max_episode_steps"})
    world = DreamFrom(memory, starts, DreamConfig(temperature, max_steps=max_episode_steps))
    frames = decode and (lambda: decode(memory.latent(world.state)))
    return opened(world, frames, action_space, max_episode_steps, fps, observe, render_mode)


def without_options(options: dict | None):
    """A ValueError where `reset` is given options, for it has none."""
    if options:
        raise ValueError(f"no option {', '.join(map(str, options))}: reset takes none")


def masked(values: dict[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    """Values [num_envs] of the environments `which` as a batch's info has them: zero elsewhere, and for each a mask
    under its name after a _. Nothing where there are none."""
    if not which.any():
        return {}
    return ({name: np.where(which, value, np.zeros_like(value)) for name, value in values.items()}
            | {f"_{name}": which.copy() for name in values})
