"""No learning: for a controller that has no parameters, as a planner, which is as good as M at once."""

from dataclasses import dataclass

import numpy as np
import torch

from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.policy import ControllerConfig, PolicySpec
from worldmodels.runs import Run
from worldmodels.types import UserError


@dataclass(frozen=True)
class UntrainedConfig(LearnerConfig):
    kind: str = "untrained"             # which of LEARNERS


class Untrained:
    """The learner: stores the controller and returns it."""

    Config = UntrainedConfig

    def __init__(self, config: UntrainedConfig):
        self.config = config

    def learn(self, agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        if count := agent.parameter_count(config):
            raise UserError(f"--controller.kind {config.kind} has {count} parameters to learn: choose a --learner.kind "
                            "that learns them")
        spec = PolicySpec(config, {"parameters": np.zeros((1, 0))})
        run.save("controller", {name: torch.from_numpy(array[0]) for name, array in spec.arrays.items()}, info)
        return spec
