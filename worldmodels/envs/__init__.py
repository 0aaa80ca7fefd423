"""The tasks as Gymnasium environments: 64×64×3 uint8 observations, one continuous action space each. TASKS has them
all; a user's own environment joins them by `register_task`."""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

import worldmodels
from worldmodels.envs import policies
from worldmodels.envs.car_racing import CarRacing, visible_part
from worldmodels.envs.image_env import ImageEnv, arrow_keys, continuous, random_actions, squash_to, to_frame
from worldmodels.envs.take_cover import TakeCover, shrink, shrink_screen
from worldmodels.envs.toy import Toy
from worldmodels.types import UserError


def squash_car(x: Tensor) -> Tensor:
    """[B, 3] -> steering, gas, brake (released code): tanh; gas = (x+1)/2; brake = clip(x, 0, 1)."""
    steer, gas, brake = torch.tanh(x).unbind(-1)
    return torch.stack([steer, (gas + 1) / 2, brake.clamp(0, 1)], -1)


def squash_car_smoothly(x: Tensor) -> Tensor:
    """The same, but brake = (tanh(x - 2) + 1) / 2: 0.02 at zero, and a gradient everywhere."""
    steer, gas, brake = torch.tanh(x - x.new_tensor([0, 0, 2])).unbind(-1)
    return torch.stack([steer, (gas + 1) / 2, (brake + 1) / 2], -1)


@dataclass(frozen=True, eq=False)
class Task:
    """All that the library knows of a game."""

    name: str
    env_id: str                                     # as scores name it
    env: Callable[..., gymnasium.Env]               # env(max_steps=..., **settings)
    action_space: Box                               # of actions [A]
    squash: Callable[[Tensor], Tensor]              # a controller's outputs [B, A] -> actions [B, A]
    max_steps: int                                  # the game's official length in frames ...
    fps: int                                        # ... of which a second has so many
    policies: dict[str, Callable]  # random policies by name, the first of which collects if none is named
    baselines: tuple[str, ...]                      # those of them that a controller is compared with
    survival: bool = True                           # an end before max_steps is a death, and the return is time
    goes_on: bool = False                           # it can be played on after its end
    settings: tuple[str, ...] = ()                  # settings of CollectConfig that env() takes beside max_steps
    max_batch: int = 32  # episodes that a worker plays together: many for V and M, few for its caches
    # of env(raw=True): observations [B, ...] -> [B, 64, 64, 3]
    shrink: Callable[[np.ndarray], np.ndarray] | None = None
    # the game's own picture [h, w, 3] -> what V sees, [64, 64, 3]
    to_frame: Callable[[np.ndarray], np.ndarray] = to_frame
    # `squash` with a gradient everywhere, for who learns by it, where it has none
    smooth: Callable[[Tensor], Tensor] | None = None
    # "left", "right", "up", "down": what each adds to an action
    keys: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __eq__(self, other) -> bool:
        return isinstance(other, Task) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce_ex__(self, protocol: int):
        """A task of this library travels to workers by its name; another one, which they may not know, as it is."""
        return (find_task, (self.name,)) if any(self is task for task in OURS) else super().__reduce_ex__(protocol)

    @property
    def action_size(self) -> int:
        return self.action_space.shape[0]

    @property
    def smooth_squash(self) -> Callable[[Tensor], Tensor]:
        """Outputs [B, A] -> actions, for a controller that learns by gradients."""
        return self.smooth or self.squash

    def steps(self, repeat: int) -> int:
        """The actions in the game's official length, each held for `repeat` frames."""
        return -(-self.max_steps // repeat)


TASKS = {task.name: task for task in (
    Task("car_racing", "CarRacing-v3", CarRacing, Box(np.array([-1, 0, 0], np.float32), 1, dtype=np.float32),
         squash_car, max_steps=1000, fps=50,
         policies={"smooth": policies.smooth_driver, "paper": policies.random_controller}, baselines=("paper",),
         survival=False, goes_on=True, settings=("repeat", "drawing"), max_batch=16, to_frame=visible_part,
         smooth=squash_car_smoothly,
         keys={"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, 1, 0), "down": (0, 0, 1)}),
    Task("take_cover", "VizdoomTakeCover (stock take_cover.cfg)", TakeCover, TakeCover.action_space, torch.tanh,
         max_steps=2100, fps=35,
         policies={"held": policies.held_uniform, "fresh": policies.fresh_uniform, "varied": policies.varied_strokes,
                   "mixed": policies.mixed_strokes}, baselines=("held", "fresh"),
         settings=("skill", "repeat"), shrink=shrink, to_frame=shrink_screen, keys={"left": (-1,), "right": (1,)}),
    Task("toy", "Toy", Toy, Toy.action_space, torch.tanh, max_steps=40, fps=10,
         policies={"fresh": policies.fresh_uniform}, baselines=("fresh",)),
)}
OURS = list(TASKS.values())


def find_task(name: str) -> Task:
    """A task by its name; a UserError where none is registered under it. No module is imported: a downloaded run names
    its task too."""
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"no task {name} here; there are: {', '.join(TASKS)}. A task of your own is named as "
                        "--task my_module:TASK, or registered by worldmodels.register_task")
    return TASKS[name]


def import_task(name: str) -> Task:
    """A task by its name, or as my_module:TASK, for who has typed it."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        return find_task(name)
    try:
        task = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:            # whatever a module does when it is imported
        raise UserError(f"--task {name}: {type(error).__name__}: {error}") from None
    if not isinstance(task, Task):
        raise UserError(f"--task {name}: it is a {type(task).__name__}, not what worldmodels.register_task returns")
    return TASKS.setdefault(task.name, task)


def register_task(name: str, make_env: Callable[[], gymnasium.Env], max_steps: int, fps: int = 30,
                  survival: bool = False) -> Task:
    """Makes a task of a user's own environment: pictures of any size as observations, actions a Discrete or a Box with
    bounds.

    `make_env` takes no arguments and can be imported where worker processes are (a function of a module). `max_steps`
    is the length of an episode in frames, of which a second of the game has `fps`. With `survival` an end before that
    is a death. The task is known by its name from then on, also as worldmodels/<name>Dream-v0 and
    worldmodels/<name>Real-v0 of gymnasium, and `--task my_module:TASK` finds what this returns in my_module.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"a task's name {name!r}: must be of letters, digits, _ and -")
    if name in TASKS and TASKS[name].env_id != f"{name} (registered)":
        raise UserError(f"there is a task {name} already")
    env = make_env()
    try:
        space, picture = env.action_space, env.observation_space
        if not (isinstance(picture, Box) and picture.dtype == np.uint8
                and (len(picture.shape) == 2 or picture.shape[2:] in ((1,), (3,)))):
            raise UserError(f"observations {picture}: must be pictures, a Box [h, w, 3] of uint8 "
                            "(gymnasium.wrappers.AddRenderObservation makes such ones)")
        box = continuous(space)
    finally:
        env.close()
    TASKS[name] = Task(name, f"{name} (registered)", partial(ImageEnv, make_env), box, squash_to(space), max_steps, fps,
                       {"held": random_actions(space, 8), "fresh": random_actions(space, 1)}, ("fresh",),
                       survival=survival, settings=("repeat",),
                       keys=arrow_keys(space))
    if f"worldmodels/{name}Dream-v0" not in gymnasium.registry:
        worldmodels.register_worlds(name, name)
    return TASKS[name]
