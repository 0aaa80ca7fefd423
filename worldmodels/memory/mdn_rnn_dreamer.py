"""`MDNRNN.imagine` at full speed: in place, with as little as possible beside its two matrix products.

The numbers are those of `imagine` to rounding. What makes it fast on a CPU, where every value that is touched costs:

- tanh(x) = 1 - 2 sigmoid(-2x), and a sigmoid takes a third of the time of a tanh. So all gates are one sigmoid, the
  weights of g are multiplied by -2, and the cell is kept as -2c; powers of two change no digit.
- The batch is the last dimension. Then z, h, c, each gate and each mixture component are one piece of memory, a row of
  ones adds the biases within the products, and nothing large is allocated in a step.
- With `sees_current_frame` the LSTM is asked twice: for the features, without the action, and for the step. The product
  is the same but for the action's columns, so `step` adds those to what `features` left.
- The head puts out mu_1 and the differences mu_k+1 - mu_k. Where m_k is 1 if the uniform number lies beyond the first k
  weights, and else 0, the mean of the component drawn is mu_1 + sum_k m_k (mu_k+1 - mu_k): five multiplications and no
  branches.
"""

import math

import torch
from torch import Tensor

from worldmodels.memory.mixture import LOG_SIGMA
from worldmodels.types import Noise, State


class MDNRNNDreamer:
    """See types.Dreamer. Its state is `x`, whose rows are a, restart, z, h, 1, and `c`, which is -2 times the cell."""

    def __init__(self, memory, batch: int, temperature: float):
        self.memory, self.tau = memory, temperature
        self.Z, self.H, self.K = memory.z_size, memory.config.hidden_size, memory.config.mixtures
        W, R, b = memory.lstm.input.weight, memory.lstm.recurrent.weight, memory.lstm.input.bias
        Z, H, K = self.Z, self.H, self.K
        as_in_x = lambda of_input, of_h, bias: torch.cat([of_input[:, Z:], of_input[:, :Z], of_h, bias[:, None]], 1)
        self.gate_weight = as_in_x(W, R, b)                                             # [4H, rows of x]
        self.gate_weight[3 * H:] *= -2                                                  # g
        if memory.between:
            of_h, of_input = memory.between.weight.split([H, W.shape[1]], 1)
            self.between_weight = as_in_x(of_input, of_h, memory.between.bias)
        self.head_weight = torch.cat([memory.head.weight, memory.head.bias[:, None]], 1)
        logits, mu, log_sigma = self.head_weight[:3 * K * Z].view(3, K, Z, -1)
        logits /= temperature
        for values in (mu, log_sigma):
            values[1:] -= values[:-1].clone()
        self.sizes = memory.action_size, W.shape[1] - Z - memory.action_size, Z, H, 1
        self._allocate(*(W.new_empty(n, batch) for n in (sum(self.sizes), H)))

    def load(self, state: State):
        z, h, c, restart = state.inner
        self.restart.copy_(restart.t()[:len(self.restart)])
        self.z.copy_(z.t())
        self.one.fill_(1)
        self.h.copy_(h.t())
        torch.mul(c.t(), -2, out=self.c)

    def features(self) -> Tensor:
        config = self.memory.config
        if config.sees_current_frame:                                           # the state stays as it is
            self.action.zero_()
            torch.mm(self.gate_weight, self.x, out=self.without_action)
            self._lstm(self.without_action, self.visible_h, self.room)
        elif config.cell_feature:
            self.visible_h.copy_(self.h)
        if config.cell_feature or config.sees_current_frame:
            self.visible_z.copy_(self.z)
            torch.mul(self.c[:len(self.visible_c)], -0.5, out=self.visible_c)
        return self.visible

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        self.action.copy_(action)
        if self.memory.config.sees_current_frame:  # the rest of the sums is as `features` left it
            torch.addmm(self.without_action, self.gate_weight[:, :len(action)], action, out=self.gates)
        else:
            torch.mm(self.gate_weight, self.x, out=self.gates)
        self._lstm(self.gates, self.h, self.c)
        if self.memory.between:
            torch.mm(self.between_weight, self.x, out=self.head_input[:-1]).relu_()
        torch.mm(self.head_weight, self.head_input, out=self.raw)
        if len(self.restart):
            self.restart.zero_()
        self._sample(noise["component"], noise["z"])
        return self.reward, self.memory.p_done(self.logit), self.zeros

    def select(self, index: Tensor):
        self._allocate(*(t.index_select(-1, index) for t in (self.x, self.c)))

    def _lstm(self, sums: Tensor, h: Tensor, c: Tensor):
        """The next h and -2c, written where they are wanted, from the sums within the gates."""
        torch.sigmoid(sums, out=self.gates)
        i, f, o, q = self.each_gate                                             # g = 1 - 2q
        torch.mul(self.c, f, out=c).addcmul_(i, q, value=4).sub_(i, alpha=2)    # -2c' = f(-2c) - 2i(1 - 2q)
        s = torch.sigmoid(c, out=i)                                             # tanh(c') = 1 - 2s
        torch.addcmul(o, o, s, value=-2, out=h)

    def _sample(self, uniform: Tensor, normal: Tensor):
        self.weights.sub_(torch.amax(self.weights, 0)).exp_()
        for before, weight in zip(self.each_weight, self.each_weight[1:]):
            weight.add_(before)                                                 # cumulated
        self.weights[:-1].lt_(self.each_weight[-1] * uniform)  # 1 where the uniform number lies beyond, or 0
        drawn, *differences = self.each_component                               # of mu and log sigma
        for difference, beyond in zip(differences, self.each_weight):
            drawn.addcmul_(difference, beyond)
        mu, log_sigma = drawn
        torch.addcmul(mu, log_sigma.clamp_(-LOG_SIGMA, LOG_SIGMA).exp_(), normal, value=math.sqrt(self.tau), out=self.z)

    def _allocate(self, x: Tensor, c: Tensor):
        """The state, room for what a step works out, and views of the parts of both."""
        self.x, self.c, config = x, c, self.memory.config
        self.action, self.restart, self.z, self.h, self.one = x.split(self.sizes)
        self.visible = x[sum(self.sizes[:2]):]                                          # z, h, 1
        if config.cell_feature or config.sees_current_frame:  # or z, c, h, 1 in a place of their own
            self.visible = x.new_ones(sum(self.memory.feature_sizes.values()) + 1, x.shape[1])
            cells = self.H * config.cell_feature
            self.visible_z, self.visible_c, self.visible_h, _ = self.visible.split([self.Z, cells, self.H, 1])
        self.head_input = x[sum(self.sizes[:3]):]                                       # h, 1
        if self.memory.between:
            self.head_input = x.new_ones(self.head_weight.shape[1], x.shape[1])
        self.gates, self.raw = (x.new_empty(len(w), x.shape[1]) for w in (self.gate_weight, self.head_weight))
        if config.sees_current_frame:
            self.without_action, self.room = torch.empty_like(self.gates), torch.empty_like(c)
        self.each_gate = self.gates.chunk(4)
        self.reward, self.logit = self.raw[-2:]
        self.zeros = torch.zeros_like(self.reward)
        mixture = self.raw[:-2].view(3, self.K, self.Z, -1)
        self.weights, self.each_weight, self.each_component = mixture[0], mixture[0].unbind(0), mixture[1:].unbind(1)
