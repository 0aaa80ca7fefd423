"""C: one linear layer from features to actions (Ha & Schmidhuber 2018, sec. 2.3; 867 and 1,088 parameters as in the
paper)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.controller.policy import ParameterConfig, ParameterPolicy, visible
from worldmodels.memory.passes import passes_for


@dataclass(frozen=True)
class LinearConfig(ParameterConfig):
    kind: str = "linear"                # which of CONTROLLERS
    bias: bool = True                   # the layer has one (paper: CarRacing yes, TakeCover no)


class LinearPolicy(ParameterPolicy):
    """A row of parameters: weights [F, A] and then, with `bias`, A biases."""

    Config = LinearConfig

    @staticmethod
    def size(config: LinearConfig, agent) -> int:
        seen = visible(config.sees, agent.memory.feature_sizes)
        return (seen.stop - seen.start + config.bias) * agent.task.action_size

    @staticmethod
    def start(config: LinearConfig, agent, linear: Tensor, rng: np.random.Generator) -> Tensor:
        return (linear if config.bias else linear[:-1]).flatten()

    def prepare(self, rows: Tensor):
        layer = rows.unflatten(-1, (-1, self.agent.task.action_size))                   # [B, F (+ 1), A]
        self.weight = layer[:, :-1] if self.config.bias else layer
        self.bias = layer[:, -1] if self.config.bias else torch.zeros_like(layer[:, 0])
        self.columns: Tensor | None = None

    def output(self, x: Tensor) -> Tensor:
        return (x[:, None] @ self.weight).squeeze(1) + self.bias

    def act(self, features: Tensor) -> Tensor:
        """One sum of products with weights that lie as the features do."""
        if self.columns is None:
            unseen = self.visible.start, len(features) - 1 - self.visible.stop
            weight = F.pad(self.weight, (0, 0, *unseen))                                # zeros there
            self.columns = torch.cat([weight, self.bias[:, None]], 1).permute(2, 1, 0).contiguous()  # [A, F + 1, B]
            self.outputs = torch.empty_like(self.columns[:, 0])
        passes_for(features).weighted_sums(self.columns, features, self.outputs)
        return self.squash(self.outputs.t()).t()
