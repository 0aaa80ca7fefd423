"""C with a hidden layer of tanh units, the paper's ablation "z and a hidden layer" (Ha & Schmidhuber 2018, sec. 3.3: 40
units)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodels.commandline import Size
from worldmodels.controller.network import forward, layers_of, parameter_count, random_parameters
from worldmodels.controller.policy import ParameterConfig, ParameterPolicy, visible


@dataclass(frozen=True)
class MLPConfig(ParameterConfig):
    kind: str = "mlp"                   # which of CONTROLLERS
    hidden_size: Size = 40              # tanh units (paper: 40)


class MLPPolicy(ParameterPolicy):
    """A row of parameters is a network's, F features -> H -> A."""

    Config = MLPConfig

    @staticmethod
    def size(config: MLPConfig, agent) -> int:
        return parameter_count(sizes(config, agent))

    @staticmethod
    def start(config: MLPConfig, agent, linear: Tensor, rng: np.random.Generator) -> Tensor:
        return random_parameters(sizes(config, agent), rng, 0.1).to(linear)

    def prepare(self, rows: Tensor):
        self.layers = layers_of(rows, sizes(self.config, self.agent))

    def output(self, x: Tensor) -> Tensor:
        # tanh(W_2 tanh(W_1 x + b_1) + b_2), the outer one being the task's
        return forward(self.layers, x, torch.tanh)


def sizes(config: MLPConfig, agent) -> list[int]:
    seen = visible(config.sees, agent.memory.feature_sizes)
    return [seen.stop - seen.start, config.hidden_size, agent.task.action_size]
