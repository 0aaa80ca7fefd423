"""`RSSM.imagine` at full speed, for a Gaussian s and one prior: in place, with as little as possible beside its matrix
products.

The numbers are those of `imagine` to rounding. What makes it fast is what makes the MDN-RNN's dreamer fast. The batch
is the last dimension, so that z, s, h and each gate are one piece of memory. A row of ones adds the biases within the
products; each layer's output has such a row, as the next layer's input. tanh(x) = 1 - 2 sigmoid(-2x). Nothing large is
allocated in a step.
"""

import math

import torch
from torch import Tensor, nn

from worldmodels.memory.heads import DEATH
from worldmodels.memory.stochastic import MIN_STD
from worldmodels.types import Noise, State


class RSSMDreamer:
    """See types.Dreamer. Its state is `visible`, whose rows are z, s, h, 1."""

    def __init__(self, memory: nn.Module, batch: int, temperature: float):
        self.memory, self.scale = memory, math.sqrt(temperature)
        self.p_done = DEATH[memory.config.death]
        self.sizes = *memory.feature_sizes.values(), 1
        with_bias = lambda weight, bias: torch.cat([weight, bias[:, None]], 1)
        S, H, cell, (prior,) = self.sizes[1], self.sizes[2], memory.cell, memory.priors
        self.input_weight = with_bias(memory.input.weight, memory.input.bias)
        self.x_weight = with_bias(cell.weight_ih, cell.bias_ih)
        self.h_weight = with_bias(cell.weight_hh, cell.bias_hh)
        for weight in (self.x_weight, self.h_weight):
            weight[2 * H:] *= -2                                        # of the candidate, a tanh
        self.prior_weights, self.head_weights = (
            [with_bias(layer.weight, layer.bias) for layer in network if isinstance(layer, nn.Linear)]
            for network in (prior, memory.head))
        self.prior_weights[1][S:] /= 2                                  # std = 2 sigmoid(x / 2) + MIN_STD
        self.z_std = self.scale * memory.log_sigma.exp()[:, None]
        self._allocate(memory.log_sigma.new_ones(sum(self.sizes), batch))

    def load(self, state: State):
        self.visible[:-1].copy_(state.features.t())

    def features(self) -> Tensor:
        return self.visible

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        self.s_in.copy_(self.s)
        self.a_in.copy_(action)
        torch.mm(self.input_weight, self.input, out=self.x).relu_()
        torch.mm(self.x_weight, self.x_and_one, out=self.from_x)
        torch.mm(self.h_weight, self.h_and_one, out=self.from_h)
        self.gates.add_(self.gates_of_h).sigmoid_()
        candidate = self.candidate.addcmul_(self.reset, self.candidate_of_h).sigmoid_().mul_(-2).add_(1)
        torch.lerp(candidate, self.h, self.update, out=self.h)          # (1 - update) candidate + update h
        mean, std = self._network(self.prior_weights, self.h_and_one, self.parameters).chunk(2)
        std.sigmoid_().mul_(2 * self.scale).add_(MIN_STD * self.scale)  # tau scales the variance
        torch.addcmul(mean, std, noise["s"], out=self.s)
        out = self._network(self.head_weights, self.s_h_and_one, self.out)
        torch.addcmul(out[:-2], self.z_std, noise["z"], out=self.z)
        return out[-2], self.p_done(out[-1]), self.zeros

    def select(self, index: Tensor):
        self._allocate(self.visible.index_select(-1, index))

    def _network(self, weights: list[Tensor], x: Tensor, out: Tensor) -> Tensor:
        """Two layers."""
        torch.mm(weights[0], x, out=self.hidden).relu_()
        return torch.mm(weights[1], self.hidden_and_one, out=out)

    def _allocate(self, visible: Tensor):
        """The state, room for what a step works out, and views of the parts of both."""
        self.visible, B, (_, S, H, _) = visible, visible.shape[1], self.sizes
        self.z, self.s, self.h, _ = visible.split(self.sizes)
        self.s_h_and_one, self.h_and_one = visible[-S - H - 1:], visible[-H - 1:]
        room = lambda rows: visible.new_ones(rows, B)
        self.input = room(self.input_weight.shape[1])
        self.s_in, self.a_in, _ = self.input.split([S, self.memory.action_size, 1])
        self.x_and_one, self.hidden_and_one = (room(self.memory.config.units + 1) for _ in range(2))
        self.x, self.hidden = self.x_and_one[:-1], self.hidden_and_one[:-1]
        self.from_x, self.from_h = room(3 * H), room(3 * H)
        (self.gates, self.candidate), (self.gates_of_h, self.candidate_of_h) = (
            t.split([2 * H, H]) for t in (self.from_x, self.from_h))
        self.reset, self.update = self.gates.chunk(2)
        self.parameters, self.out = room(len(self.prior_weights[1])), room(len(self.head_weights[1]))
        self.zeros = torch.zeros_like(self.out[0])
