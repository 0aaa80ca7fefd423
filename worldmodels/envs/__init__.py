"""The tasks as Gymnasium environments: 64×64×3 uint8 observations, one continuous action space each."""

from dataclasses import dataclass
from typing import Callable

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from worldmodels.envs import policies
from worldmodels.envs.car_racing import CarRacing
from worldmodels.envs.take_cover import TakeCover, shrink
from worldmodels.envs.toy import Toy


def squash_car(x: Tensor) -> Tensor:
    """[B, 3] -> steering, gas, brake (released code): tanh; gas = (x+1)/2; brake = clip(x, 0, 1)."""
    steer, gas, brake = torch.tanh(x).unbind(-1)
    return torch.stack([steer, (gas + 1) / 2, brake.clamp(0, 1)], -1)


@dataclass(frozen=True)
class Task:
    """All that the rest of the house knows of a game."""

    name: str
    env_id: str                                     # as scores name it
    env: Callable[..., gymnasium.Env]               # env(max_steps=..., **settings)
    action_space: Box
    squash: Callable[[Tensor], Tensor]              # the controller's raw outputs [B, A] -> actions [B, A]
    max_steps: int                                  # the game's official length in frames ...
    fps: int                                        # ... of which a second has so many
    policies: dict[str, Callable]                   # random policies by name
    baselines: tuple[str, ...]                      # those of them that a controller is compared with
    survival: bool = True                           # an end before max_steps is a death, and the return is time
    settings: tuple[str, ...] = ()                  # settings of CollectConfig that env() takes beside max_steps
    lanes: int = 32                                 # episodes that a worker plays together: many for V and M, few for its caches
    shrink: Callable[[np.ndarray], np.ndarray] | None = None    # of env(raw=True): observations [B, ...] -> [B, 64, 64, 3]

    @property
    def action_size(self) -> int:
        return self.action_space.shape[0]

    def steps(self, repeat: int) -> int:
        """The actions in the game's official length, each held for `repeat` frames."""
        return -(-self.max_steps // repeat)


TASKS = {task.name: task for task in (
    Task("car_racing", "CarRacing-v3", CarRacing, Box(np.array([-1, 0, 0], np.float32), 1, dtype=np.float32), squash_car, 1000, 50,
         {"smooth": policies.smooth_driver, "paper": policies.random_controller}, ("paper",),
         survival=False, settings=("repeat", "drawing"), lanes=16),
    Task("take_cover", "VizdoomTakeCover (stock take_cover.cfg)", TakeCover, TakeCover.action_space, torch.tanh, 2100, 35,
         {"held": policies.held_uniform, "fresh": policies.fresh_uniform, "varied": policies.varied_strokes,
          "mixed": policies.mixed_strokes},
         ("held", "fresh"), settings=("skill", "repeat"), shrink=shrink),
    Task("toy", "Toy", Toy, Toy.action_space, torch.tanh, 40, 10, {"fresh": policies.fresh_uniform}, ("fresh",)),
)}
