"""V, M and C of a run, to act with:

    agent = worldmodels.Agent.load("take_cover/laptop")
    agent.reset(seed=0)
    action = agent.act(frame)               # the game's own picture, or 64×64 of it; once every agent.repeat frames
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodels.commandline import Range
from worldmodels.controller import CONTROLLERS, ControllerConfig, PolicySpec, build
from worldmodels.controller.cma_es import SEARCH
from worldmodels.envs import Task, find_task
from worldmodels.executors import Shared
from worldmodels.files import ARRAYS_BYTES, pack, unpack
from worldmodels.memory import MEMORIES
from worldmodels.memory.noise import OBSERVE, NoiseStream
from worldmodels.runs import Run, config_of, find, plain, to_arrays, to_tensors
from worldmodels.types import Memory, Policy, Seeds, State, TorchModule, UserError, Vision
from worldmodels.vision import VISIONS

Module = TypeVar("Module", bound=TorchModule)

LARGEST = ARRAYS_BYTES // 12        # parameters of V or of M: a checkpoint has them, and two numbers of Adam's for each


class Observer:
    """V and M in front of a batch of episodes: frames [B, 64, 64, 3] uint8 -> State. The chance in it is that of each
    episode's own seed."""

    def __init__(self, vision: Vision, memory: Memory):
        self.encode, self.memory, self.device = vision.fast_encoder(), memory, next(vision.parameters()).device
        self.rngs: list[np.random.Generator] = []
        self.noise = NoiseStream([], memory.observe_noise, next(memory.parameters()), OBSERVE)
        self.state: State | None = None

    def select_and_begin(self, index: Tensor, frames: np.ndarray, seeds: Seeds) -> State:
        """Goes on with the episodes `index` [N] only, and behind them new ones that begin with these frames."""
        self.rngs = [self.rngs[i] for i in index.tolist()]
        self.noise.select(index.tolist())
        self.state = self.state and self.state.select(index)
        if len(seeds):
            rngs = [np.random.default_rng([seed, 2]) for seed in seeds]
            noise = NoiseStream(seeds, self.noise.size, self.noise.like, OBSERVE)
            begun = self.memory.initial(self._sample(frames, rngs), noise.step())
            self.rngs += rngs
            self.noise.join(noise)
            self.state = State.cat([self.state, begun]) if len(index) else begun
        return self.state

    def observe(self, action: Tensor, frames: np.ndarray) -> State:
        """The state after actions [B, A] led to these frames."""
        self.state = self.memory.observe(self.state, action, self._sample(frames, self.rngs), self.noise.step())
        return self.state

    def _sample(self, frames: np.ndarray, rngs: list[np.random.Generator]) -> Tensor:
        """z [B, Z] of frames, each drawn by its own generator."""
        posterior = self.encode(torch.from_numpy(frames).to(self.device)).as_latent(self.memory.config.latent)
        drawn = np.stack([rng.standard_normal(posterior.mean.shape[-1], np.float32) for rng in rngs])
        return posterior.sample(torch.from_numpy(drawn).to(self.device))


class Agent:
    """V and M, frozen, with the controller if there is one. Loading runs no code from the run's folder."""

    def __init__(self, task: Task, vision: Vision, memory: Memory, digest: str = "",
                 controller: PolicySpec | None = None, repeat: int = 1):
        self.task, self.vision, self.memory = task, vision, memory
        self.digest = digest                # of V and M: "<V's>-<M's>"
        self.controller = controller
        self.repeat = repeat                # frames of the game that an action is held for
        self.policy: Policy | None = None   # from `reset` on

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> "Agent":
        """The agent of a run: "<task>/<run>", published or in data/, or the run's folder. The last round that has a
        controller."""
        run = Run(Path(name))
        if not run.config.exists():
            task, _, rest = str(name).partition("/")
            run = find(task, rest or None)
        run = run.last("controller")
        agent = load_agent(run, device)
        agent.controller = load_controller(run, agent)
        return agent

    def with_memory(self, memory: Memory) -> "Agent":
        """The same agent with this memory, which dreams otherwise and observes the same."""
        agent = copy(self)
        agent.memory = memory
        return agent

    def untrained(self, names: Sequence[str], seed: int) -> "Agent":
        """The same agent, whose "vision", "memory" or both have the weights that training begins with."""
        agent, device = copy(self), next(self.memory.parameters()).device.type
        agent.__dict__.pop("shared", None)
        info = plain({"vision": self.vision.config, "memory": self.memory.config})
        build: dict[str, Callable[[], TorchModule]] = {
            "vision": partial(build_vision, info), "memory": partial(build_memory, info, self.task)}
        torch.manual_seed(seed)
        for name in names:
            setattr(agent, name, freeze(build[name](), device))
        agent.digest = "-".join(f"untrained {seed}" if name in names else digest
                                for name, digest in zip(build, self.digest.split("-")))
        return agent

    @property
    def vision_digest(self) -> str:
        """Of V alone, by which latents are known."""
        return self.digest.split("-")[0]

    def reset(self, seed: int = 0):
        """An episode begins; `seed` is all the chance in what the agent makes of it."""
        if self.controller is None:
            raise UserError("this agent has no controller: Agent.load opens a finished run")
        self.policy, self.observer = self.policy_of(self.controller), Observer(self.vision, self.memory)
        self.seed = seed
        self.action: Tensor | None = None
        self.policy.reset([seed])

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """The game's picture [h, w, 3] uint8, or the 64×64 of it that V sees -> action [A]."""
        if self.policy is None:
            raise UserError("reset the agent before it acts")
        frame = observation if observation.shape == (64, 64, 3) else self.task.to_frame(observation)
        if self.action is None:
            state = self.observer.select_and_begin(torch.zeros(0, dtype=torch.int64), frame[None], [self.seed])
        else:
            state = self.observer.observe(self.action, frame[None])
        self.action = self.policy(state)
        return self.action[0].cpu().numpy()

    @torch.no_grad()
    def decode(self, z: np.ndarray | Tensor) -> np.ndarray:
        """V's picture of latents [..., Z], [..., 64, 64, 3] uint8."""
        z = torch.as_tensor(z, device=next(self.vision.parameters()).device)
        return self.vision.decode(z.reshape(-1, z.shape[-1])).view(*z.shape[:-1], 64, 64, 3).cpu().numpy()

    @cached_property
    def shared(self) -> Shared:
        """V and M for jobs elsewhere, which `agent_of` opens."""
        arrays = {f"{name}.{key}": value for name, module in (("vision", self.vision), ("memory", self.memory))
                  for key, value in to_arrays(module.state_dict()).items()}
        info = {"vision": self.vision.config, "memory": self.memory.config, "digest": self.digest,
                "repeat": self.repeat}
        return Shared(pack(arrays, plain(info)))

    def policy_of(self, spec: PolicySpec) -> Policy:
        """A spec's policies, ready to be reset."""
        return build(spec, self)

    def parameter_count(self, config: ControllerConfig) -> int:
        """How many parameters a controller of this config has."""
        return CONTROLLERS[config.kind].size(config, self)


def build_vision(info: dict, tensors: dict[str, Tensor] | None = None) -> Vision:
    """V as the info of its checkpoint describes it, with these weights; see `built`."""
    config = config_of(VISIONS, info["vision"])
    return built(partial(VISIONS[config.kind], config), tensors)


def build_memory(info: dict, task: Task, tensors: dict[str, Tensor] | None = None) -> Memory:
    """M as the info of its checkpoint describes it, with these weights; see `built`."""
    config, z_size = config_of(MEMORIES, info["memory"]), config_of(VISIONS, info["vision"]).z_size
    return built(partial(MEMORIES[config.kind], config, z_size, task.action_size), tensors)


def built(make: Callable[[], Module], tensors: dict[str, Tensor] | None) -> Module:
    """A new V or M, with weights if `tensors` has them: a ValueError where they are not of its sizes, a UserError where
    it is larger than LARGEST. Both are found out on torch's "meta" device, before memory is taken for it."""
    with torch.device("meta"):
        outline = make()
    count = sum(parameter.numel() for parameter in outline.parameters())
    if count > LARGEST:
        raise UserError(f"a network of {count:,} parameters: {LARGEST:,} are the most, choose smaller sizes")
    if tensors is None:
        return make()
    try:
        outline.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(str(error).splitlines()[-1].strip()) from None
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("its weights are not finite")
    module = make()
    module.load_state_dict(tensors)
    return module


def load_agent(run: Run, device: str = "cpu", task: Task | None = None) -> Agent:
    """A run's trained V and M; its task is looked up by name where none is given."""
    vision_tensors, vision_info = run.load("vision", "train_vision")
    memory_tensors, memory_info = run.load("memory", "train_memory")
    if memory_info.get("vision_digest", vision_info["digest"]) != vision_info["digest"]:
        raise UserError(f"{run.path('memory')} was trained on what another V saw, not on {run.path('vision')}")
    task = task or find_task(memory_info.get("task"))
    opened: list[Any] = []
    built_with: dict[str, tuple] = {"vision": (vision_info, build_vision, vision_tensors),
                                    "memory": (memory_info, partial(build_memory, task=task), memory_tensors)}
    for name, (info, make, tensors) in built_with.items():
        try:
            module = make(info, tensors=tensors)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{run.path(name)} is of another version of this program ({error})") from None
        except ValueError as error:
            raise UserError(f"{run.path(name)} does not fit its own config ({error}): delete it and run "
                            f"`python -m pipeline.train_{name}`") from None
        opened.append(freeze(module, device))
    vision, memory = opened
    if memory.z_size != vision.config.z_size:
        raise UserError(f"{run.path('memory')} models {memory.z_size} latents, and V has {vision.config.z_size}")
    collect = memory_info.get("collect", {})
    repeat = collect.get("repeat", 1) if isinstance(collect, dict) else None
    if type(repeat) is not int or Range(1).error(repeat):
        raise UserError(f"{run.path('memory')} is damaged (collect.repeat {repeat}): delete it and run "
                        "`python -m pipeline.train_memory`")
    return Agent(task, vision, memory, f"{vision_info['digest']}-{memory_info['digest']}", repeat=repeat)


def agent_of(shared: Shared, task: Task, device: str = "cpu") -> Agent:
    """V and M as `Agent.shared` packed them."""
    arrays, info = unpack(shared.data)
    tensors: dict[str, dict[str, Tensor]] = {"vision": {}, "memory": {}}
    for key, tensor in to_tensors(arrays).items():
        name, own_key = key.split(".", 1)
        tensors[name][own_key] = tensor
    vision, memory = build_vision(info, tensors["vision"]), build_memory(info, task, tensors["memory"])
    return Agent(task, freeze(vision, device), freeze(memory, device), info["digest"], repeat=info["repeat"])


def freeze(module: Module, device: str) -> Module:
    """The same trained network, ready for use."""
    return module.to(device).eval().requires_grad_(False)


def open_agent(task: str, run: str | Path | None = None, device: str = "cpu",
               with_checkpoint: str = "memory") -> tuple[Run, Agent]:
    """A run by its folder or name (runs.find), at the last round that has this checkpoint, and its agent."""
    found = find(task, run).last(with_checkpoint)
    agent = load_agent(found, device)
    if agent.task.name != task:
        raise UserError(f"{found.root} is a run of {agent.task.name}, not of {task}")
    return found, agent


def load_controller(run: Run, agent: Agent) -> PolicySpec:
    """The controller of a run's round, which has to be one for this V and M."""
    tensors, info = run.load("controller", "train_controller")
    if info.get("agent_digest") != agent.digest:
        raise UserError(f"{run.path('controller')} was trained with another V or M than those of {run.folder}")
    try:
        spec = controller_spec(tensors, info)
    except (KeyError, TypeError) as error:
        raise UserError(f"{run.path('controller')} is of another version of this program ({error})") from None
    try:
        fits = spec.arrays["parameters"].shape == (1, agent.parameter_count(spec.config))
        if fits:
            build(spec, agent).reset([0])
        fits = fits and all(np.isfinite(array).all() for array in spec.arrays.values())
    except (KeyError, RuntimeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(f"{run.path('controller')} does not fit its own config, or is not finite: delete it and run "
                        "`python -m pipeline.train_controller`")
    return spec


def controller_spec(tensors: dict[str, Tensor], info: dict) -> PolicySpec:
    """The controller in a checkpoint."""
    config = config_of(CONTROLLERS, info["controller"])
    return PolicySpec(config, {name: tensor.numpy()[None] for name, tensor in tensors.items() if name not in SEARCH})
