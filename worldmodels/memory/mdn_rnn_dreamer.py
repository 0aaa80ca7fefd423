"""`MDNRNN.imagine` at full speed: in place, with as little as possible beside its two matrix products.

The numbers are those of `imagine` to rounding. What makes it fast on a CPU, where every value that is touched costs:

- All that lies between two products is one pass over their results (passes.py).
- The batch is the last dimension. Then z, h, c, each gate and each mixture component are one piece of memory, a row of
  ones adds the biases within the products, and nothing large is allocated in a step.
- With `sees_current_frame` the LSTM is asked twice: for the features, without the action, and for the step. The product
  is the same but for the action's columns, so `step` adds those to what `features` left.

The products' operands and results may be bfloat16. The cell, the activations, what is drawn, the reward and the logit
of the end are float32 all the same; a policy sees z and h as the products do, and the cell as it is.
"""

import math

import torch
from torch import Tensor

from worldmodels.memory.passes import passes_for
from worldmodels.training import cpu_has_bfloat16
from worldmodels.types import Noise, State, UserError


class MDNRNNDreamer:
    """See types.Dreamer. Its state is `x`, whose rows are a, restart, z, h, 1, and the cell `c`."""

    def __init__(self, memory, batch: int, temperature: float, bfloat16: bool = False):
        self.memory, self.deviation = memory, math.sqrt(temperature)       # sqrt(tau): tau scales the variance
        self.Z, self.H = Z, H = memory.z_size, memory.config.hidden_size
        W, R, b = memory.lstm.input.weight, memory.lstm.recurrent.weight, memory.lstm.input.bias
        as_in_x = lambda of_input, of_h, bias: torch.cat([of_input[:, Z:], of_input[:, :Z], of_h, bias[:, None]], 1)
        if bfloat16 and W.device.type == "cpu" and not cpu_has_bfloat16():
            raise UserError("--dream.precision bfloat16: this CPU has neither AVX-512 BF16 nor AMX: take float32")
        precision = torch.bfloat16 if bfloat16 else W.dtype
        self.gate_weight = as_in_x(W, R, b).to(precision)                                       # [4H, rows of x]
        if memory.between:
            of_h, of_input = memory.between.weight.split([H, W.shape[1]], 1)
            self.between_weight = as_in_x(of_input, of_h, memory.between.bias).to(precision)
        head_weight = torch.cat([memory.head.weight, memory.head.bias[:, None]], 1)
        head_weight[:memory.config.mixtures * Z] /= temperature                                 # logits
        self.head_weight, self.ends_weight = head_weight.to(precision), head_weight[-2:]
        self.passes = passes_for(W)
        self.sizes = memory.action_size, W.shape[1] - Z - memory.action_size, Z, H, 1
        self._allocate(self.gate_weight.new_empty(sum(self.sizes), batch), W.new_empty(H, batch))

    def load(self, state: State):
        z, h, c, restart = state.inner
        self.restart.copy_(restart.t()[:len(self.restart)])
        self.z.copy_(z.t())
        self.one.fill_(1)
        self.h.copy_(h.t())
        self.c.copy_(c.t())

    def features(self) -> Tensor:
        if not self.apart:
            return self.visible
        if self.memory.config.sees_current_frame:
            self.action.zero_()
            torch.mm(self.gate_weight, self.x, out=self.gates)
            self.passes.lstm(self.gates, self.room.copy_(self.c), self.visible_h)   # the state stays as it is
        else:
            self.visible_h.copy_(self.h)
        self.visible_z.copy_(self.z)
        self.visible_c.copy_(self.c[:len(self.visible_c)])
        return self.visible

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        self.action.copy_(action)
        if self.memory.config.sees_current_frame:  # the rest of the sums is as `features` left it
            self.gates.addmm_(self.gate_weight[:, :len(action)], self.action)
        else:
            torch.mm(self.gate_weight, self.x, out=self.gates)
        self.passes.lstm(self.gates, self.c, self.h)
        if self.memory.between:
            torch.mm(self.between_weight, self.x, out=self.head_input[:-1]).relu_()
        torch.mm(self.head_weight, self.head_input, out=self.raw)
        if len(self.restart):
            self.restart.zero_()
        self.passes.sample(self.raw[:-2], self.deviation, noise["component"], noise["z"], self.z)
        if self.ends.dtype != self.raw.dtype:   # rounding a reward that hardly changes would shift returns
            torch.mm(self.ends_weight, self.head_input.to(self.ends.dtype), out=self.ends)
        return self.reward, self.memory.p_done(self.logit), self.zeros

    def select(self, index: Tensor):
        self._allocate(*(t.index_select(-1, index) for t in (self.x, self.c)))

    def _allocate(self, x: Tensor, c: Tensor):
        """The state, room for what a step works out, and views of the parts of both."""
        self.x, self.c, config = x, c, self.memory.config
        self.action, self.restart, self.z, self.h, self.one = x.split(self.sizes)
        self.visible = x[sum(self.sizes[:2]):]                                                  # z, h, 1
        self.apart = config.cell_feature or config.sees_current_frame or x.dtype != c.dtype
        if self.apart:                          # z, c, h, 1 in a place of their own
            self.visible = c.new_ones(sum(self.memory.feature_sizes.values()) + 1, c.shape[1])
            cells = self.H * config.cell_feature
            self.visible_z, self.visible_c, self.visible_h, _ = self.visible.split([self.Z, cells, self.H, 1])
            self.room = torch.empty_like(c)
        self.head_input = x[sum(self.sizes[:3]):]                                               # h, 1
        if self.memory.between:
            self.head_input = x.new_ones(self.head_weight.shape[1], x.shape[1])
        self.gates, self.raw = (x.new_empty(len(w), x.shape[1]) for w in (self.gate_weight, self.head_weight))
        self.ends = self.raw[-2:] if x.dtype == c.dtype else torch.empty_like(c[:2])
        (self.reward, self.logit), self.zeros = self.ends, torch.zeros_like(c[0])
