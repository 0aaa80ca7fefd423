"""A policy as it is stored, and what the kinds made of a vector of parameters share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodels.types import Seeds, State


@dataclass(frozen=True)
class ControllerConfig:
    kind: str = ""                      # which of CONTROLLERS


@dataclass(frozen=True)
class ParameterConfig(ControllerConfig):
    sees: Literal["all", "z", "h"] = "all"  # which features: all of them, V's latent, or what M adds to it


class PolicySpec(NamedTuple):
    """P policies of one kind, as they are stored and sent to workers; `controller.build` makes them act. Rollout i, in
    the order in which rollouts begin, has policy i, or the only one."""

    config: ControllerConfig
    arrays: dict[str, np.ndarray]       # each [P, ...]

    def select(self, index: Sequence[int] | np.ndarray) -> "PolicySpec":
        """The policies `index` [N], in that order; rows may repeat. The only policy stays the only one."""
        if len(next(iter(self.arrays.values()))) == 1:
            return self
        return PolicySpec(self.config, {name: array[index] for name, array in self.arrays.items()})


def visible(sees: str, feature_sizes: dict[str, int]) -> slice:
    """Where the features that a controller sees lie in `State.features`, z being the first part."""
    z, total = next(iter(feature_sizes.values())), sum(feature_sizes.values())
    return {"all": slice(0, total), "z": slice(0, z), "h": slice(z, total)}[sees]


class ParameterPolicy:
    """A policy of arrays {"parameters": [P, n]}.

    A subclass says how long a row is (`size(config, agent)` -> n), makes one that a fit can begin with from the best
    linear layer (`start(config, agent, linear [F + 1, A], rng)` -> [n]; the layer's last line are biases), splits rows,
    [B, n], into arrays (`prepare(rows)`), and acts with these: `output(x)`, visible features [B, F] -> [B, A], before
    they are squashed to actions. Where it is `shared`, the only row is not repeated for each rollout: rows [1, n].
    """

    config: Any                         # of the subclass's Config
    shared = False

    def __init__(self, config: ParameterConfig, agent, arrays: dict[str, np.ndarray]):
        self.config, self.agent = config, agent
        self.visible = visible(config.sees, agent.memory.feature_sizes)
        self.parameters = torch.as_tensor(arrays["parameters"], dtype=torch.float32,
                                          device=next(agent.memory.parameters()).device)

    def reset(self, seeds: Seeds):
        self.begun, self.row = 0, torch.zeros(0, dtype=torch.int64, device=self.parameters.device)
        self.select_and_reset(self.row, seeds)

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        new = torch.arange(self.begun, self.begun + len(seeds), device=self.row.device)
        self.begun += len(seeds)
        self.row = torch.cat([self.row[index], new if len(self.parameters) > 1 else torch.zeros_like(new)])
        self.rows = self.parameters if self.shared and len(self.parameters) == 1 else self.parameters[self.row]
        self.prepare(self.rows)

    def prepare(self, rows: Tensor):
        raise NotImplementedError

    def output(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, state: State) -> Tensor:
        return self.squash(self.output(state.features[:, self.visible]))

    def act(self, features: Tensor) -> Tensor:
        """The same with the batch last, as dreamers have it: features and a row of ones [F + 1, B] -> action [A, B]."""
        return self.squash(self.output(features[self.visible].t())).t()

    def squash(self, x: Tensor) -> Tensor:
        """Outputs [B, A] -> actions."""
        return self.agent.task.squash(x)

    def tensors(self) -> list[Tensor]:
        """All that it acts with: a CUDA graph finds the next population in the same place."""
        return [t for t in vars(self).values() if isinstance(t, Tensor)]
