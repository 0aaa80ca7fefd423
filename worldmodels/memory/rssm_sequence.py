"""An RSSM's observing along streams of episodes, with its gradient written out: as lstm.Sequence, for the same reasons.

    x = relu(W_s s + from_a)            s, h: of the step before; where an episode begins s is another, and h is 0
    r, u = sigmoid(W_i x + b_i + W_h h + b_h)
    n = tanh(W_i x + b_i + r (W_h h + b_h))             each with its own rows of W and b
    h' = n + u (h - n)
    y = relu(W_y h' + from_z)
    parameters of s' = W_p y + b_p

W_h of a step and W_y of the step before multiply the same h: they are one product. Without a GRU h' is x.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# autograd's own, which can write into a given tensor
relu_gradient = torch.ops.aten.threshold_backward.grad_input
sigmoid_gradient = torch.ops.aten.sigmoid_backward.grad_input
tanh_gradient = torch.ops.aten.tanh_backward.grad_input


class Stochastic(NamedTuple):
    """How s is drawn, and what of it is known before the first step."""

    draw: Callable[[Tensor, Tensor], Tensor]                # of parameters [B, P] and noise
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]    # of parameters, noise and d_s: d_parameters
    noise: Tensor                                           # [T, B, n]
    begins: list[Tensor]                                    # the streams in which an episode begins, of each step
    # (step, h before it) -> s that M drew itself, and in which streams [B, 1] the step goes on from that; or None
    own: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None


class Sequence(torch.autograd.Function):
    """forward(from_a [T, B, U], from_z [T, B, U], first [N, S], W_s [U, S], W_y [U, H], W_p [P, U], b_p [P], s [B, S],
    h [B, H], Stochastic, and of a GRU W_i [3H, U], b_i, W_h [3H, H], b_h) -> h [T, B, H], the parameters [T, B, P] and
    s [T, B, S] after each step. `first` has the s of the episodes that begin, in their order. Overwrites from_a. No
    gradient flows to the first s and h.
    """

    @staticmethod
    def forward(ctx, from_a, from_z, first, w_s, w_y, w_p, b_p, s, h, chance: Stochastic, *gru):
        T, B, H = *from_a.shape[:2], h.shape[-1]
        w_i, b_i, w_h, b_h = gru or (None, None, w_y[:0], b_p[:0])
        G = len(w_h)                                                # 3H, or 0
        w_hy = torch.cat([w_h, w_y])
        xs = from_a                                                 # x of each step
        hys = torch.cat([b_h.expand(T, B, G), from_z], -1)          # of its h: what the next gates get, and y
        gates = b_i.expand(T, B, G).clone() if gru else None        # r, u, n
        ps = b_p.expand(T, B, -1).clone()
        hs, s_in, s_out = h.new_empty(T, B, H), s.new_empty(T, B, s.shape[-1]), s.new_empty(T, B, s.shape[-1])
        before = torch.addmm(b_h, h, w_h.t())
        ctx.h, ctx.before, ctx.owned = h, before, [None] * T
        firsts = first.split([len(rows) for rows in chance.begins])
        for t, (rows, fresh, x, hy, p) in enumerate(zip(chance.begins, firsts, xs, hys, ps)):
            if t and chance.own:
                drawn, ctx.owned[t] = chance.own(t, h)
                s = torch.where(ctx.owned[t], drawn, s)
            if len(rows):
                s, h = s.index_copy(0, rows, fresh), h.index_fill(0, rows, 0)
                before.index_copy_(0, rows, b_h.expand(len(rows), G))
            s_in[t] = s
            x.addmm_(s, w_s.t()).relu_()
            if gru:
                g = gates[t].addmm_(x, w_i.t())
                r, u = g[:, :2 * H].add_(before[:, :2 * H]).sigmoid_().chunk(2, 1)
                n = g[:, 2 * H:].addcmul_(r, before[:, 2 * H:]).tanh_()
                h = torch.lerp(n, h, u, out=hs[t])
            else:
                h = hs[t].copy_(x)
            before, y = hy.addmm_(h, w_hy.t()).split([G, len(w_y)], 1)
            p.addmm_(y.relu_(), w_p.t())
            s = s_out[t].copy_(chance.draw(p, chance.noise[t]))
        ctx.save_for_backward(xs, hys, gates, ps, hs, s_in, w_s, w_y, w_p, *gru)
        ctx.chance = chance
        return hs, ps, s_out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_hs, d_ps, d_s_out):
        xs, hys, gates, ps, hs, s_in, w_s, w_y, w_p, *gru = ctx.saved_tensors
        w_i, _, w_h, b_h = gru or (None, None, w_y[:0], w_y[:0, 0])
        (T, B, H), G, chance = hs.shape, len(w_h), ctx.chance
        w_hy = torch.cat([w_h, w_y])
        d_xs, d_hys, d_ps = torch.empty_like(xs), torch.empty_like(hys), d_ps.clone()
        d_gates = torch.empty_like(gates) if gru else None
        d_hys[-1, :, :G] = 0
        d_begin, d_b_h = hys.new_zeros(B, G), torch.zeros_like(b_h)
        d_first = [None] * T
        d_h, d_s = torch.zeros_like(hs[0]), torch.zeros_like(s_in[0])
        for t in reversed(range(T)):
            rows = chance.begins[t]
            d_p, d_hy, d_before = d_ps[t], d_hys[t], d_hys[t - 1, :, :G] if t else d_begin
            d_p += chance.gradient(ps[t], chance.noise[t], d_s.add_(d_s_out[t]))
            d_y = d_hy[:, G:]
            relu_gradient(d_p @ w_p, hys[t, :, G:], 0, grad_input=d_y)
            d_h = torch.addmm(d_h.add_(d_hs[t]), d_hy, w_hy)
            if gru:
                h, before = (hs[t - 1], hys[t - 1, :, :G]) if t else (ctx.h, ctx.before)
                if len(rows):
                    h = h.index_fill(0, rows, 0)
                (r, u, n), d_g = gates[t].chunk(3, 1), d_gates[t]
                d_r, d_u, d_n = d_g.chunk(3, 1)
                tanh_gradient(torch.addcmul(d_h, d_h, u, value=-1), n, grad_input=d_n)
                torch.mul(d_n, before[:, 2 * H:], out=d_r)
                torch.mul(d_h, h - n, out=d_u)
                sigmoid_gradient(d_g[:, :2 * H], gates[t, :, :2 * H], grad_input=d_g[:, :2 * H])
                d_before[:, :2 * H] = d_g[:, :2 * H]
                torch.mul(d_n, r, out=d_before[:, 2 * H:])
                d_h *= u
                d_x = d_g @ w_i
            else:
                d_x, d_h = d_h, torch.zeros_like(d_h)
            relu_gradient(d_x, xs[t], 0, grad_input=d_xs[t])
            d_s = d_xs[t] @ w_s
            if len(rows):
                d_first[t] = d_s[rows]
                d_b_h += d_before[rows].sum(0)
                for d in (d_s, d_h, d_before):
                    d.index_fill_(0, rows, 0)
            if ctx.owned[t] is not None:
                d_s.masked_fill_(ctx.owned[t], 0)
        # weights: products of all steps at once
        of_all = lambda d, inputs: d.flatten(0, 1).t() @ inputs.flatten(0, 1)
        sums = lambda d: d.flatten(0, 1).sum(0)
        d_w_h, d_w_y = of_all(d_hys, hs).split([G, len(w_y)])
        d_first = torch.cat([s_in[0, :0], *(d for d in d_first if d is not None)])
        found = (d_xs, d_hys[..., G:], d_first, of_all(d_xs, s_in), d_w_y, of_all(d_ps, hys[..., G:]), sums(d_ps),
                 None, None, None)
        if gru:
            d_b_h += sums(d_hys[..., :G]) + d_begin.sum(0)
            found += of_all(d_gates, xs), sums(d_gates), d_w_h + d_begin.t() @ ctx.h, d_b_h
        return found
