"""What a training step of the MDN-RNN does beside its matrix products, in two forms with the same arguments, as
passes.py has it for dreams: in torch, and fused, for a CPU.

Here each row is a stream of episodes, or a step of one: B rows, H cells, K mixtures, Z latent dimensions. What only the
next product reads may be bfloat16.
"""

import math

import numpy as np
import torch
from torch import Tensor

from worldmodels.memory import mixture
from worldmodels.memory.heads import LOG_SQRT_2PI
from worldmodels.memory.passes import (
    ONE,
    SIGMA,
    as_array,
    bounded,
    can_be_fused,
    compiled,
    exp,
    f32,
    fma,
    narrow,
    sigmoid,
    tanh,
    wide,
)


class TorchTraining:
    """The reference, and the form for a GPU."""

    @staticmethod
    def lstm_forward(sums: Tensor, before: Tensor, keep: Tensor, gates: Tensor, c: Tensor, h: Tensor, read: Tensor):
        """Of the sums within the gates [B, 4H], and the cell before [B, H], which counts where keep [B, 1] is 1: writes
        the gates i, f, o, g [B, 4H], c and h [B, H], and h into the first columns of what the next product reads."""
        H = c.shape[1]
        gates.copy_(sums)[:, :3 * H].sigmoid_()
        i, f, o, g = gates.chunk(4, 1)
        torch.mul(f, before * keep, out=c).addcmul_(i, g.tanh_())
        read[:, :H] = torch.mul(o, c.tanh(), out=h)

    @staticmethod
    def lstm_backward(gates: Tensor, before: Tensor, keep: Tensor, c: Tensor, d_out: Tensor, d_h: Tensor, d_c: Tensor,
                      d_gates: Tensor):
        """The gradient of what `lstm_forward` left: d_out + d_h is that of h, d_c that of c, which becomes that of the
        cell before; writes that of the sums, d_gates."""
        i, f, o, g = gates.chunk(4, 1)
        d, tanh = d_out + d_h, c.tanh()
        d_c.addcmul_(d * o, 1 - tanh * tanh)
        torch.cat([d_c * g * i * (1 - i), d_c * before * keep * f * (1 - f), d * tanh * o * (1 - o),
                   d_c * i * (1 - g * g)], 1, out=d_gates)
        d_c.mul_(f).mul_(keep)

    @staticmethod
    def mixture_loss(out: Tensor, z: Tensor, d_out: Tensor, d_z: Tensor) -> float | Tensor:
        """The sum over rows of -log p(z), a mean over the dimensions of z [B, Z], by the first 3KZ of a head's outputs
        [B, 3KZ + ...]; writes the gradients by these, and by z, where d_z is not empty."""
        Z = z.shape[1]
        width = out.shape[1] // (3 * Z) * 3 * Z
        nll, gradient = mixture.nll(out[:, :width].to(z.dtype), z)
        d_out[:, :width] = gradient / Z
        if d_z.shape[1]:                                # the density falls with z - mu as it rises with mu
            torch.neg(mixture.split(gradient, Z)[1].sum(1) / Z, out=d_z)
        return nll.sum() / Z


class FusedTraining:
    """The same to rounding, for float32 on a CPU."""

    @staticmethod
    def lstm_forward(sums: Tensor, before: Tensor, keep: Tensor, gates: Tensor, c: Tensor, h: Tensor, read: Tensor):
        lstm_forward_pass(*map(as_array, (sums, before, keep, gates, c, h, read)))

    @staticmethod
    def lstm_backward(gates: Tensor, before: Tensor, keep: Tensor, c: Tensor, d_out: Tensor, d_h: Tensor, d_c: Tensor,
                      d_gates: Tensor):
        lstm_backward_pass(*map(as_array, (gates, before, keep, c, d_out, d_h, d_c, d_gates)))

    @staticmethod
    def mixture_loss(out: Tensor, z: Tensor, d_out: Tensor, d_z: Tensor) -> float | Tensor:
        return mixture_pass(*map(as_array, (out, z, d_out, d_z)))


def training_passes_for(weight: Tensor) -> type[TorchTraining] | type[FusedTraining]:
    """The faster ones for a memory with weights like this one."""
    return FusedTraining if can_be_fused(weight) else TorchTraining


# Loops are short: LLVM makes vector instructions of one where it can tell that few arrays do not overlap.

@compiled
def lstm_forward_pass(sums, before, keep, gates, c, h, read):
    B, H = c.shape
    for b in range(B):
        x, y, before_b, c_b, h_b, read_b, kept = sums[b], gates[b], before[b], c[b], h[b], read[b], keep[b, 0]
        i, f, o, g, x_g = y[:H], y[H:2 * H], y[2 * H:3 * H], y[3 * H:], x[3 * H:]
        for j in range(3 * H):
            y[j] = sigmoid(wide(x[j]))
        for j in range(H):
            g[j] = tanh(wide(x_g[j]))
        for j in range(H):
            c_b[j] = fma(f[j], kept * before_b[j], i[j] * g[j])
        for j in range(H):
            h_b[j] = o[j] * tanh(c_b[j])
        for j in range(H):
            read_b[j] = narrow(h_b[j], read_b)


@compiled
def lstm_backward_pass(gates, before, keep, c, d_out, d_h, d_c, d_gates):
    B, H = c.shape
    t, by_h = np.empty(H, f32), np.empty(H, f32)                    # tanh(c), and the gradient by h
    for b in range(B):
        y, d, before_b, c_b, kept = gates[b], d_gates[b], before[b], c[b], keep[b, 0]
        out_b, d_h_b, by_c = d_out[b], d_h[b], d_c[b]
        i, f, o, g = y[:H], y[H:2 * H], y[2 * H:3 * H], y[3 * H:]
        d_i, d_f, d_o, d_g = d[:H], d[H:2 * H], d[2 * H:3 * H], d[3 * H:]
        for j in range(H):
            t[j] = tanh(c_b[j])
        for j in range(H):
            by_h[j] = out_b[j] + wide(d_h_b[j])
        for j in range(H):
            by_c[j] = fma(by_h[j] * o[j], ONE - t[j] * t[j], by_c[j])
        for j in range(H):
            d_o[j] = narrow(by_h[j] * t[j] * o[j] * (ONE - o[j]), d_o)
        for j in range(H):
            d_i[j] = narrow(by_c[j] * g[j] * i[j] * (ONE - i[j]), d_i)
        for j in range(H):
            d_g[j] = narrow(by_c[j] * i[j] * (ONE - g[j] * g[j]), d_g)
        for j in range(H):
            d_f[j] = narrow(by_c[j] * (kept * before_b[j]) * f[j] * (ONE - f[j]), d_f)
        for j in range(H):
            by_c[j] *= f[j] * kept


HALF, CONSTANT = f32(0.5), f32(LOG_SQRT_2PI)


@compiled
def mixture_pass(out, z, d_out, d_z):
    B, Z = z.shape
    K = out.shape[1] // (3 * Z)
    per_dimension, loss = ONE / f32(Z), 0.0
    weight, joint, inverse, deviation = np.empty((4, K, Z), f32)
    top, top_joint, total, total_joint, by_z = np.empty((5, Z), f32)
    for n in range(B):
        raw, d_raw, z_n = out[n, :3 * K * Z].reshape(3, K, Z), d_out[n, :3 * K * Z].reshape(3, K, Z), z[n]
        top[:], top_joint[:], total[:], total_joint[:], by_z[:] = -np.inf, -np.inf, 0, 0, 0
        for k in range(K):
            logit, mu, log_sigma = raw[0, k], raw[1, k], raw[2, k]
            joint_k, inverse_k, deviation_k = joint[k], inverse[k], deviation[k]
            for j in range(Z):
                s, x = bounded(wide(log_sigma[j]), SIGMA), wide(logit[j])
                one_over = exp(-s)
                d = (z_n[j] - wide(mu[j])) * one_over
                both = fma(-HALF * d, d, x - s)
                inverse_k[j], deviation_k[j], joint_k[j] = one_over, d, both
                top[j] = x if x > top[j] else top[j]
                top_joint[j] = both if both > top_joint[j] else top_joint[j]
        for k in range(K):
            logit, weight_k, joint_k = raw[0, k], weight[k], joint[k]
            for j in range(Z):
                w, both = exp(wide(logit[j]) - top[j]), exp(joint_k[j] - top_joint[j])
                weight_k[j], joint_k[j] = w, both
                total[j] += w
                total_joint[j] += both
        for j in range(Z):
            loss += (top[j] - top_joint[j]) + math.log(total[j] / total_joint[j]) + CONSTANT
            total[j], total_joint[j] = per_dimension / total[j], per_dimension / total_joint[j]
        for k in range(K):
            weight_k, joint_k, inverse_k, deviation_k = weight[k], joint[k], inverse[k], deviation[k]
            log_sigma, d_logit, d_mu, d_log_sigma = raw[2, k], d_raw[0, k], d_raw[1, k], d_raw[2, k]
            for j in range(Z):
                responsibility, d, s = joint_k[j] * total_joint[j], deviation_k[j], wide(log_sigma[j])      # / Z
                by_mu, by_log_sigma = -responsibility * d * inverse_k[j], fma(-responsibility * d, d, responsibility)
                d_logit[j] = narrow(fma(weight_k[j], total[j], -responsibility), d_logit)
                d_mu[j] = narrow(by_mu, d_mu)
                d_log_sigma[j] = narrow(by_log_sigma if -SIGMA < s < SIGMA else f32(0), d_log_sigma)    # at its bound
                by_z[j] -= by_mu                                    # the density falls with z - mu as it rises with mu
        if d_z.shape[1]:
            d_z[n] = by_z
    return loss / Z
