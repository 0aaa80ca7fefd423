"""An LSTM whose state can be zeroed in mid-sequence, where a new episode begins (Hochreiter & Schmidhuber 1997).

torch.nn.LSTM cannot do that, and the streams of M hold many short episodes one after the other. One bias for each gate and
a forget-gate bias of +1, as in TensorFlow. Gates lie in the order i, f, o, g, so that the three sigmoids are one call.
"""

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """Input [T, B, I] -> hidden states [T, B, H]."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.input.weight)
        for gate in self.recurrent.weight.data.chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias.data[hidden_size:2 * hidden_size])        # forget gate

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B, I], h and c [B, H] -> the next h and c."""
        gates = torch.addmm(self.input(x), h, self.recurrent.weight.t())        # [B, 4H]
        i, f, o = gates[:, :3 * self.hidden_size].sigmoid().chunk(3, -1)
        c = f * c + i * gates[:, 3 * self.hidden_size:].tanh()
        return o * c.tanh(), c

    def forward(self, x: Tensor, h: Tensor, c: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, B, I]; h, c [B, H]; keep [T, B, 1] is 0 where the state is zeroed before a step, else 1.

        Returns the hidden states [T, B, H] and the last h and c, through which no gradient flows.
        """
        return Sequence.apply(self.input(x), self.recurrent.weight, h, c, keep)


class Sequence(torch.autograd.Function):
    """`LSTM.step` along time, with its gradient written out: 1.5 times faster on a CPU than autograd through the steps,
    mostly because the gradient of the recurrent weights is one matrix product instead of T."""

    @staticmethod
    def forward(ctx, gates, weight, h, c, keep):
        T, B, H = *gates.shape[:2], h.shape[-1]
        gates = gates.clone()
        h_in, c_in, c_out, h_out = (gates.new_empty(T, B, H) for _ in range(4))
        for t in range(T):
            torch.mul(h, keep[t], out=h_in[t])
            torch.mul(c, keep[t], out=c_in[t])
            gates[t].addmm_(h_in[t], weight.t())
            gates[t, :, :3 * H].sigmoid_()
            gates[t, :, 3 * H:].tanh_()
            i, f, o, g = gates[t].chunk(4, -1)
            c = torch.mul(f, c_in[t], out=c_out[t]).addcmul_(i, g)
            h = torch.mul(o, c.tanh(), out=h_out[t])
        ctx.save_for_backward(gates, weight, h_in, c_in, c_out, keep)
        h, c = h.clone(), c.clone()
        ctx.mark_non_differentiable(h, c)
        return h_out, h, c

    @staticmethod
    def backward(ctx, d_out, _h, _c):
        gates, weight, h_in, c_in, c_out, keep = ctx.saved_tensors
        T, B, H = c_out.shape
        d_gates = torch.empty_like(gates)
        d_h, d_c = torch.zeros_like(c_out[0]), torch.zeros_like(c_out[0])
        for t in reversed(range(T)):
            i, f, o, g = gates[t].chunk(4, -1)
            d_i, d_f, d_o, d_g = d_gates[t].chunk(4, -1)
            tanh_c = c_out[t].tanh()
            d_h += d_out[t]
            d_c.addcmul_(d_h, o - o * tanh_c * tanh_c)          # h = o tanh(c)
            torch.mul(d_h, tanh_c, out=d_o)
            torch.mul(d_c, g, out=d_i)                          # c = f c_in + i g
            torch.mul(d_c, c_in[t], out=d_f)
            torch.mul(d_c, i, out=d_g).mul_(1 - g * g)
            ifo = gates[t, :, :3 * H]
            d_gates[t, :, :3 * H].mul_(ifo - ifo * ifo)         # the sigmoids' derivative
            torch.mm(d_gates[t], weight, out=d_h).mul_(keep[t])
            d_c.mul_(f).mul_(keep[t])
        d_weight = d_gates.view(T * B, 4 * H).t() @ h_in.view(T * B, H)
        return d_gates, d_weight, d_h, d_c, None
