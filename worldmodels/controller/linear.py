"""C: one linear layer from features to actions (Ha & Schmidhuber 2018, sec. 2.3; 867 and 1,088 parameters as in the paper)."""

from typing import Callable

import numpy as np
import torch
from torch import Tensor

from worldmodels.types import State


def parameter_count(feature_size: int, action_size: int, bias: bool) -> int:
    return (feature_size + bias) * action_size


class LinearPolicy:
    """A controller of its own for each rollout of a batch.

    `parameters` [B, n]: weights [F, A] and then, with `bias`, A biases. `squash` maps raw outputs [B, A] to actions.
    """

    def __init__(self, parameters: Tensor, action_size: int, bias: bool, squash: Callable[[Tensor], Tensor]):
        self.parameters, self.squash = parameters, squash
        layer = parameters.unflatten(-1, (-1, action_size))                 # [B, F (+ 1), A]
        self.weight = layer[:, :-1] if bias else layer
        self.bias = layer[:, -1] if bias else parameters.new_zeros(len(parameters), action_size)
        self._like = lambda p: LinearPolicy(p, action_size, bias, squash)

    def __call__(self, state: State) -> Tensor:
        return self.squash((state.features[:, None] @ self.weight).squeeze(1) + self.bias)

    def rows(self, index: Tensor) -> "LinearPolicy":
        """The controllers of the rollouts `index` [N]."""
        return self._like(self.parameters[index])


def population_policy(parameters: np.ndarray, episodes: int, device, **shape) -> LinearPolicy:
    """[P, n] -> one controller for each of P × E rollouts, a member's episodes beside each other."""
    rows = torch.as_tensor(parameters, dtype=torch.float32, device=device).repeat_interleave(episodes, 0)
    return LinearPolicy(rows, **shape)
