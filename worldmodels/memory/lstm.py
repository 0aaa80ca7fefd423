"""An LSTM whose state can be zeroed in mid-sequence, where a new episode begins (Hochreiter & Schmidhuber 1997).

torch.nn.LSTM cannot do that, and the streams of M hold many short episodes one after the other. One bias for each gate
and a forget-gate bias of +1, as in TensorFlow. Gates lie in the order i, f, o, g.
"""

import math

import torch
from torch import Tensor, nn


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
        that of the recurrent products, the weights' if none is given.

        Returns the hidden states [T, B, H] and the last h and c, through which no gradient flows.
        """
        return Sequence.apply(self.input(x), self.recurrent.weight, h, c, keep, precision or x.dtype)


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


def put_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out = a @ b, in the precision of b."""
    return torch.mm(a, b, out=out) if b.dtype == a.dtype else out.copy_(a.to(b.dtype) @ b)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out += a @ b, in the precision of b."""
    return out.addmm_(a, b) if b.dtype == a.dtype else out.add_(a.to(b.dtype) @ b)


class Sequence(torch.autograd.Function):
    """`LSTM.step` along time, with its gradient written out. Overwrites `gates`, the part of them that comes from the
    input.

    On a CPU both are bound by the memory they touch beside the matrix products. So a step does as few passes as there
    can be: tanh(x) = 1 - 2 sigmoid(-2x) makes all gates one sigmoid (a third of the time of a tanh), nothing is masked
    where nothing begins, and the gradient of the weights is one matrix product for all steps.
    """

    @staticmethod
    def forward(ctx, gates, weight, h, c, keep, precision):
        T, B, H = *gates.shape[:2], h.shape[-1]
        begins = (keep == 0).flatten(1).any(1).tolist()             # whether any stream is zeroed before a step
        weight = weight.clone()
        gates[..., 3 * H:] *= -2                                    # g = 1 - 2q
        weight[3 * H:] *= -2
        recurrent = weight.t().to(precision)
        h_first, c_first = h, c
        h_out, c_out, s_out = (gates.new_empty(T, B, H) for _ in range(3))
        for y, kept, begin, h_t, c_t, s in zip(gates, keep, begins, h_out, c_out, s_out):
            if begin:
                h, c = h * kept, c * kept
            i, f, o, q = add_product(y, h, recurrent).sigmoid_().chunk(4, 1)
            c = torch.mul(f, c, out=c_t).addcmul_(i, q, value=-2).add_(i)       # c' = f c + i (1 - 2q)
            torch.mul(c, -2, out=s).sigmoid_()                                  # tanh(c') = 1 - 2s
            h = torch.addcmul(o, o, s, value=-2, out=h_t)
        ctx.save_for_backward(gates, weight, h_first, c_first, h_out, c_out, s_out, keep)
        ctx.begins, ctx.precision = begins, precision
        h, c = h.clone(), c.clone()
        ctx.mark_non_differentiable(h, c)
        return h_out, h, c

    @staticmethod
    def backward(ctx, d_out, _h, _c):
        gates, weight, h_first, c_first, h_out, c_out, s_out, keep = ctx.saved_tensors
        T, B, H = c_out.shape
        d_weight = torch.empty_like(weight)
        d_gates = torch.empty_like(gates)                           # those of q are divided by -2, until the end
        weight = weight.clone()
        weight[3 * H:] *= -2
        weight = weight.to(ctx.precision)
        d_h, d_c, slope = torch.zeros_like(h_first), torch.zeros_like(c_first), torch.empty_like(gates[0])
        for t in reversed(range(T)):
            y, d, s = gates[t], d_gates[t], s_out[t]
            (i, f, o, q), (d_i, d_f, d_o, d_q) = y.chunk(4, 1), d.chunk(4, 1)
            c = c_out[t - 1] if t else c_first
            if ctx.begins[t]:
                c = c * keep[t]
            d_h += d_out[t]
            d_c.addcmul_(torch.addcmul(s, s, s, value=-1).mul_(o), d_h, value=4)  # h = o (1 - 2s), tanh' = 4 s (1 - s)
            torch.addcmul(d_c, d_c, q, value=-2, out=d_i)
            torch.mul(d_c, c, out=d_f)
            torch.addcmul(d_h, d_h, s, value=-2, out=d_o)
            torch.mul(d_c, i, out=d_q)
            d.mul_(torch.addcmul(y, y, y, value=-1, out=slope))     # the sigmoids' derivative
            put_product(d_h, d, weight)
            d_c.mul_(f)
            if ctx.begins[t]:
                d_h *= keep[t]
                d_c *= keep[t]
        d_gates[..., 3 * H:] *= 4                                   # by -2 for q, and by -2 for g's place in it
        h_in = torch.cat([h_first[None], h_out[:-1]]).mul_(keep)
        put_product(d_weight, d_gates.view(T * B, 4 * H).t(), h_in.view(T * B, H).to(ctx.precision))
        return d_gates, d_weight, d_h, d_c, None, None
