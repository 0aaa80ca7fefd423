"""An LSTM whose state can be zeroed in mid-sequence, where a new episode begins (Hochreiter & Schmidhuber 1997).

torch.nn.LSTM cannot do that, and the streams of M hold many short episodes one after the other. One bias for each gate
and a forget-gate bias of +1, as in TensorFlow. Gates lie in the order i, f, o, g.
"""

import math

import torch
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
        that of the products, and of what they read; the weights' if none is given.

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
    """`LSTM.step` along time, with its gradient written out. A step reads (h, x, 1): of that it is one product, and one
    pass over the sums (training_passes.py). The gradient of all weights is one product for all steps."""

    @staticmethod
    def forward(ctx, x, input_weight, bias, weight, h, c, keep, precision):
        (T, B), H, passes = x.shape[:2], h.shape[-1], training_passes_for(weight)
        weights = torch.cat([weight, input_weight, bias[:, None]], 1).to(precision)             # [4H, H + I + 1]
        read = x.new_ones(T + 1, B, weights.shape[1], dtype=precision)
        read[:T, :, H:-1], read[0, :, :H] = x, h
        sums, gates = read.new_empty(B, 4 * H), x.new_empty(T, B, 4 * H)
        c_out, h_out = (x.new_empty(T, B, H) for _ in range(2))
        begins, before = (keep == 0).flatten(1).any(1).tolist(), c      # whether any stream is zeroed before a step
        for t in range(T):
            if begins[t]:
                read[t, :, :H] *= keep[t]
            torch.mm(read[t], weights.t(), out=sums)
            passes.lstm_forward(sums, before, keep[t], gates[t], c_out[t], h_out[t], read[t + 1])
            before = c_out[t]
        ctx.save_for_backward(weights, c, c_out, gates, read, keep)
        ctx.begins = begins
        h, c = h_out[-1].clone(), before.clone()
        ctx.mark_non_differentiable(h, c)
        return h_out, h, c

    @staticmethod
    def backward(ctx, d_out, _h, _c):
        weights, c_first, c_out, gates, read, keep = ctx.saved_tensors
        (T, B, H), passes = c_out.shape, training_passes_for(c_out)
        d_gates, recurrent = torch.empty_like(gates, dtype=read.dtype), weights[:, :H].contiguous()
        d_h, d_c, d_out = read.new_zeros(B, H), torch.zeros_like(c_first), d_out.contiguous()
        for t in reversed(range(T)):
            before = c_out[t - 1] if t else c_first
            passes.lstm_backward(gates[t], before, keep[t], c_out[t], d_out[t], d_h, d_c, d_gates[t])
            torch.mm(d_gates[t], recurrent, out=d_h)
            if ctx.begins[t]:
                d_h *= keep[t]
        d_weights = torch.zeros_like(weights, dtype=c_out.dtype)
        for d_rows, rows in zip(d_gates.flatten(0, 1).split(ROWS), read[:T].flatten(0, 1).split(ROWS)):
            add_product(d_weights, d_rows.t(), rows)                # in chunks, which stay in a cache
        d_x = (d_gates @ weights[:, H:-1]).to(c_out) if ctx.needs_input_grad[0] else None
        return d_x, d_weights[:, H:-1], d_weights[:, -1], d_weights[:, :H], d_h.to(c_out), d_c, None, None


def put_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out = a @ b, in the precision of both."""
    return torch.mm(a, b, out=out) if b.dtype == out.dtype else out.copy_(a @ b)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out += a @ b, in the precision of both."""
    return out.addmm_(a, b) if b.dtype == out.dtype else out.add_(a @ b)
