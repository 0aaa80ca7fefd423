"""An LSTM whose state can be zeroed in mid-sequence, where a new episode begins (Hochreiter & Schmidhuber 1997).

torch.nn.LSTM cannot do that, and the streams of M hold many short episodes one after the other. One bias for each gate
and a forget-gate bias of +1, as in TensorFlow. Gates lie in the order i, f, o, g.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.memory.training_passes import training_passes_for


class LSTM(nn.Module):
    """Input [T, B, I] -> hidden states [T, B, H]."""

    def __init__(self, input_size: int, hidden_size: int, initial_weights: str = "orthogonal"):
        super().__init__()
        self.hidden_size = hidden_size
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        INITIAL_WEIGHTS[initial_weights](self)
        with torch.no_grad():
            self.input.bias[hidden_size:2 * hidden_size] += 1           # forget gate

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B, I], h and c [B, H] -> the next h and c."""
        gates = torch.addmm(self.input(x), h, self.recurrent.weight.t())        # [B, 4H]
        i, f, o = gates[:, :3 * self.hidden_size].sigmoid().chunk(3, -1)
        c = f * c + i * gates[:, 3 * self.hidden_size:].tanh()
        return o * c.tanh(), c

    def forward(self, x: Tensor, h: Tensor, c: Tensor, keep: Tensor,
                precision: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, B, I]; h, c [B, H]; keep [T, B, 1] is 0 where the state is zeroed before a step, else 1. `precision` is
        that of the recurrent products and of all in the gradient, the weights' if none is given.

        Returns the hidden states [T, B, H] and the last h and c, through which no gradient flows.
        """
        return Sequence.apply(x, self.input.weight, self.input.bias, self.recurrent.weight, h, c, keep,
                              precision or x.dtype)


def orthogonal_(lstm: LSTM):
    """Glorot's uniform weights for the input, an orthogonal matrix for each gate's recurrent weights, biases of
    zero."""
    nn.init.xavier_uniform_(lstm.input.weight)
    for gate in lstm.recurrent.weight.data.chunk(4):
        nn.init.orthogonal_(gate)
    nn.init.zeros_(lstm.input.bias)


def tensorflow_(lstm: LSTM):
    """As TensorFlow's LayerNormBasicLSTMCell begins (released code): input and recurrent weights are one matrix
    [I + H, 4H], with Glorot's uniform weights; so are the biases."""
    weight, recurrent, bias = lstm.input.weight, lstm.recurrent.weight, lstm.input.bias
    limit = math.sqrt(6 / (weight.shape[1] + recurrent.shape[1] + len(bias)))
    nn.init.uniform_(weight, -limit, limit)
    nn.init.uniform_(recurrent, -limit, limit)
    glorot_bias_(bias)


def glorot_bias_(bias: Tensor):
    """Glorot's uniform distribution as TensorFlow has it for a vector [n]: U(-l, l) where l = sqrt(6 / (n + n))."""
    limit = math.sqrt(3 / len(bias))
    nn.init.uniform_(bias, -limit, limit)


INITIAL_WEIGHTS = {"orthogonal": orthogonal_, "tensorflow": tensorflow_}


ROWS = 1024


class Sequence(torch.autograd.Function):
    """`LSTM.step` along time, with its gradient written out: between two products a step is one pass over their
    results (training_passes.py), and the gradient of the weights is one product for all steps."""

    @staticmethod
    def forward(ctx, x, input_weight, bias, weight, h, c, keep, precision):
        (T, B), H, passes = x.shape[:2], h.shape[-1], training_passes_for(weight)
        gates = F.linear(x, input_weight, bias)                     # [T, B, 4H]; their sums, and then they themselves
        recurrent, product = weight.t().to(precision), gates.new_empty(B, 4 * H, dtype=precision)
        c_out, h_out = (gates.new_empty(T, B, H) for _ in range(2))
        h_in = gates.new_empty(T + 1, B, H, dtype=precision)        # that a step's product reads
        begins = (keep == 0).flatten(1).any(1).tolist()             # whether any stream is zeroed before a step
        h_in[0], before = h, c
        for t in range(T):
            if begins[t]:
                h_in[t] *= keep[t]
            torch.mm(h_in[t], recurrent, out=product)
            passes.lstm_forward(gates[t], product, before, keep[t], c_out[t], h_out[t], h_in[t + 1])
            before = c_out[t]
        ctx.save_for_backward(x, input_weight, weight, c, c_out, gates, h_in, keep)
        ctx.begins, ctx.precision = begins, precision
        h, c = h_out[-1].clone(), before.clone()
        ctx.mark_non_differentiable(h, c)
        return h_out, h, c

    @staticmethod
    def backward(ctx, d_out, _h, _c):
        x, input_weight, weight, c_first, c_out, gates, h_in, keep = ctx.saved_tensors
        T, B, H = c_out.shape
        passes, precision = training_passes_for(weight), ctx.precision
        recurrent, d_gates = weight.to(precision), torch.empty_like(gates, dtype=precision)
        d_h, d_c, d_out = torch.zeros_like(h_in[0]), torch.zeros_like(c_first), d_out.contiguous()
        for t in reversed(range(T)):
            before = c_out[t - 1] if t else c_first
            passes.lstm_backward(gates[t], before, keep[t], c_out[t], d_out[t], d_h, d_c, d_gates[t])
            torch.mm(d_gates[t], recurrent, out=d_h)
            if ctx.begins[t]:
                d_h *= keep[t]
        # what the gates read: h, the input, and 1 for the bias; in chunks, which stay in a cache
        d_gates, d_weights = d_gates.flatten(0, 1), weight.new_zeros(4 * H, H + x.shape[2] + 1)
        for rows, h_rows, x_rows in zip(*(t.split(ROWS) for t in (d_gates, h_in[:T].flatten(0, 1), x.flatten(0, 1)))):
            read = torch.cat([h_rows, x_rows.to(precision), h_rows.new_ones(len(h_rows), 1)], 1)
            add_product(d_weights, rows.t(), read)
        d_weight, d_input_weight, d_bias = d_weights.split([H, x.shape[2], 1], 1)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = put_product(x.new_empty(T * B, x.shape[2]), d_gates, input_weight.to(precision)).view_as(x)
        return d_x, d_input_weight, d_bias[:, 0], d_weight, d_h.to(c_first), d_c, None, None


def put_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out = a @ b, in the precision of both."""
    return torch.mm(a, b, out=out) if b.dtype == out.dtype else out.copy_(a @ b)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out += a @ b, in the precision of both."""
    return out.addmm_(a, b) if b.dtype == out.dtype else out.add_(a @ b)
