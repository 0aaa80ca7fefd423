"""`MDNRNN.imagine` at full speed: in place, without anything beside its two matrix products that could be left out.

The numbers are those of `imagine` to rounding. What makes it fast on a CPU, where every value that is touched costs:

- tanh(x) = 1 - 2 sigmoid(-2x), and a sigmoid takes a third of the time of a tanh. So all gates are one sigmoid, the weights of g
  are multiplied by -2, and the cell is kept as -2c; powers of two change no digit.
- The batch is the last dimension. Then z, h, c, each gate and each mixture component are one piece of memory, a row of ones
  adds the biases within the products, and nothing large is allocated in a step.
- With `peek` the LSTM is asked twice: what C sees, without the action, and what comes of it. The product is the same but for
  the action's columns, so `step` adds those to what `look` left.
- The head puts out mu_1 and the differences mu_k+1 - mu_k. Where m_k is 1 if the uniform number lies beyond the first k weights,
  and else 0, the mean of the component drawn is mu_1 + sum_k m_k (mu_k+1 - mu_k): five multiplications and no branches.
"""

import math

import torch
from torch import Tensor

from worldmodels.memory.mixture import LOG_SIGMA
from worldmodels.types import State


class MDNRNNDreamer:
    """See types.Dreamer. Its state is `x`, whose rows are a, restart, z, 1, h, and c where controllers see it, and `c`."""

    def __init__(self, memory, batch: int, action_size: int, temperature: float):
        self.memory, self.tau = memory, temperature
        self.Z, self.H, self.K = memory.z_size, memory.config.hidden_size, memory.config.mixtures
        W, R, b = memory.lstm.input.weight, memory.lstm.recurrent.weight, memory.lstm.input.bias
        Z, H, K = self.Z, self.H, self.K
        laid_out = lambda of_input, bias, of_h: torch.cat([of_input[:, Z:], of_input[:, :Z], bias[:, None], of_h], 1)
        self.gate_weight = laid_out(W, b, R)                                            # [4H, rows of x up to h]
        self.gate_weight[3 * H:] *= -2                                                  # g
        if memory.between:
            of_h, of_input = memory.between.weight.split([H, W.shape[1]], 1)
            self.between_weight = laid_out(of_input, memory.between.bias, of_h)
        self.head_weight = torch.cat([memory.head.bias[:, None], memory.head.weight], 1)
        logits, mu, log_sigma = self.head_weight[:3 * K * Z].view(3, K, Z, -1)
        logits /= temperature
        for values in (mu, log_sigma):
            values[1:] -= values[:-1].clone()
        self.sizes = action_size, W.shape[1] - Z - action_size, Z, 1, H, memory.feature_size - Z - H
        self._allocate(*(W.new_empty(n, batch) for n in (sum(self.sizes), H)),
                       W.new_empty(action_size, memory.feature_size + 1, batch))

    def load(self, state: State, weight: Tensor, bias: Tensor):
        z, h, c, restart = state.inner
        self.restart.copy_(restart.t()[:len(self.restart)])
        self.z.copy_(z.t())
        self.one.fill_(1)
        self.h.copy_(h.t())
        torch.mul(c.t(), -2, out=self.c)
        self.cell.copy_(c.t()[:len(self.cell)])
        w_z, w_c, w_h = weight.split([self.Z, len(self.cell), self.H], 1)               # [B, F, A], as features lie
        self.controllers.copy_(torch.cat([w_z, bias[:, None], w_h, w_c], 1).permute(2, 1, 0))

    def look(self) -> Tensor:
        if self.memory.config.peek:                                             # the state stays as it is
            self.action.zero_()
            torch.mm(self.gate_weight, self.up_to_h, out=self.without_action)
            self._lstm(self.without_action, self.seen_h, self.room)
            self.seen_rest.copy_(self.z_one)
            self.seen_c.copy_(self.cell)
        return torch.mul(self.controllers, self.seen, out=self.products).sum(1)

    def step(self, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        self.action.copy_(action)
        if self.memory.config.peek:                                             # the rest of the sums is as look left it
            torch.addmm(self.without_action, self.gate_weight[:, :len(action)], action, out=self.gates)
        else:
            torch.mm(self.gate_weight, self.up_to_h, out=self.gates)
        self._lstm(self.gates, self.h, self.c)
        if len(self.cell):
            torch.mul(self.c, -0.5, out=self.cell)
        if self.memory.between:
            torch.mm(self.between_weight, self.up_to_h, out=self.one_seen[1:]).relu_()
        torch.mm(self.head_weight, self.one_seen, out=self.raw)
        if len(self.restart):
            self.restart.zero_()
        self._sample(noise[:self.Z], noise[self.Z + 1:])
        return self.reward, self.memory.risk(self.logit)

    def keep(self, index: Tensor):
        self._allocate(*(t.index_select(-1, index) for t in (self.x, self.c, self.controllers)))

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
        self.weights[:-1].lt_(self.each_weight[-1] * uniform)                   # 1 where the uniform number lies beyond, or 0
        drawn, *differences = self.each_component                               # of mu and log sigma
        for difference, beyond in zip(differences, self.each_weight):
            drawn.addcmul_(difference, beyond)
        mu, log_sigma = drawn
        torch.addcmul(mu, log_sigma.clamp_(-LOG_SIGMA, LOG_SIGMA).exp_(), normal, value=math.sqrt(self.tau), out=self.z)

    def _allocate(self, x: Tensor, c: Tensor, controllers: Tensor):
        """The state, room for what a step works out, and views of the parts of both."""
        self.x, self.c, self.controllers = x, c, controllers                            # c is -2 times the cell
        self.action, self.restart, self.z, self.one, self.h, self.cell = x.split(self.sizes)
        self.up_to_h, one_h, self.seen = (x[:-len(self.cell) or None], x[sum(self.sizes[:3]):sum(self.sizes[:5])],
                                          x[sum(self.sizes[:2]):])
        self.one_seen = x.new_ones(self.head_weight.shape[1], x.shape[1]) if self.memory.between else one_h  # what the head sees
        self.gates, self.raw = (x.new_empty(len(w), x.shape[1]) for w in (self.gate_weight, self.head_weight))
        if self.memory.config.peek:                                                     # sees an h that is not in the state
            self.z_one, self.seen = self.seen[:self.Z + 1], torch.empty_like(self.seen)
            self.seen_rest, self.seen_h, self.seen_c = self.seen.split([self.Z + 1, self.H, len(self.cell)])
            self.without_action, self.room = torch.empty_like(self.gates), torch.empty_like(c)
        self.products = torch.empty_like(controllers)
        self.each_gate = self.gates.chunk(4)
        self.reward, self.logit = self.raw[-2:]
        mixture = self.raw[:-2].view(3, self.K, self.Z, -1)
        self.weights, self.each_weight, self.each_component = mixture[0], mixture[0].unbind(0), mixture[1:].unbind(1)
