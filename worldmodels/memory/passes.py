"""What a step of the MDN-RNN does beside its matrix products, in two forms with the same arguments: in torch, and
fused, for a CPU.

On a CPU every value that is touched costs. A fused pass reads and writes it once, where torch's form does a dozen
passes. numba compiles it for the machine at the first call and keeps it on disk; LLVM makes vector instructions of its
inner loops. Its arithmetic is IEEE's, without reordering, and multiply-adds are written out, so that a column's result
does not depend on its place or on the batch's width.

Batch last: H cells, K mixtures, Z latent dimensions, B rollouts. The sums of a product may be bfloat16, and so may the
h and z that the next one reads; all that lies between is float32. numba does not know bfloat16: to a fused pass it is
uint16, the upper half of a float32.
"""

import math
from contextlib import suppress

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from worldmodels.memory.mixture import LOG_SIGMA


class TorchPasses:
    """The reference, and the form for a GPU."""

    @staticmethod
    def lstm(sums: Tensor, c: Tensor, h: Tensor):
        """Of c [H, B] and the sums within the gates i, f, o, g [4H, B]: the next c, in its place, and h [H, B]."""
        i, f, o, g = sums.to(c.dtype).chunk(4)
        c.mul_(f.sigmoid()).addcmul_(i.sigmoid(), g.tanh())
        h.copy_(o.sigmoid().mul_(c.tanh()))

    @staticmethod
    def sample(raw: Tensor, deviation: float, uniform: Tensor, normal: Tensor, z: Tensor):
        """Writes z [Z, B], drawn from the mixture of logits, mu and log sigma, raw [3KZ, B], by a uniform and a normal
        number [Z, B] each; the noise is multiplied by `deviation`."""
        logits, mu, log_sigma = raw.to(normal.dtype).view(3, -1, *z.shape)
        cumulated = (logits - logits.amax(0)).exp_().cumsum(0)
        k = (cumulated[:-1] < cumulated[-1] * uniform).sum(0, keepdim=True)
        mu, log_sigma = (values.gather(0, k)[0] for values in (mu, log_sigma))
        z.copy_(mu.addcmul_(log_sigma.clamp_(-LOG_SIGMA, LOG_SIGMA).exp_(), normal, value=deviation))

    @staticmethod
    def weighted_sums(weights: Tensor, x: Tensor, sums: Tensor):
        """Writes sums_ab = sum_f weights_afb x_fb, [A, B], each column with weights of its own."""
        torch.sum(weights * x, 1, out=sums)


class FusedPasses:
    """The same to rounding, for float32 on a CPU."""

    @staticmethod
    def lstm(sums: Tensor, c: Tensor, h: Tensor):
        lstm_pass(*map(as_array, (sums.view(4, *h.shape), c, h)))

    @staticmethod
    def sample(raw: Tensor, deviation: float, uniform: Tensor, normal: Tensor, z: Tensor):
        sample_pass(as_array(raw.view(3, -1, *z.shape)), np.float32(deviation), as_array(uniform.contiguous()),
                    as_array(normal.contiguous()), as_array(z))

    @staticmethod
    def weighted_sums(weights: Tensor, x: Tensor, sums: Tensor):
        weighted_sums_pass(*map(as_array, (weights, x.contiguous(), sums)))


def can_be_fused(weight: Tensor) -> bool:
    """Whether there are fused passes for a memory with weights like this one."""
    return (weight.device.type, weight.dtype) == ("cpu", torch.float32)


def passes_for(weight: Tensor) -> type[TorchPasses] | type[FusedPasses]:
    """The faster ones for a memory with weights like this one."""
    return FusedPasses if can_be_fused(weight) else TorchPasses


def as_array(t: Tensor) -> np.ndarray:
    return (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy()


def compiled(function):
    """`function`, compiled at its first call for arguments of a type, and kept on disk."""
    function = njit(error_model="numpy")(function)
    with suppress(RuntimeError):    # there is no folder that can be written: each process compiles anew
        function.enable_caching()
    return function


f32, i32 = np.float32, np.int32
helper = njit(error_model="numpy")
ONE = f32(1)
LOG2_E = f32(math.log2(math.e))
BITS = f32(42)                      # 2^-42 is nothing beside 1
ROUND = f32(1.5 * 2**23)            # x + ROUND - ROUND is the nearest whole number, which the sum's last bits are
# 2^r = 1 + r (C1 + r (C2 + ...)) for |r| <= 1/2, to a relative error of 1.1e-7 (minimax)
C1, C2, C3, C4, C5 = map(f32, ("0.693147", "0.24022242", "0.055507336", "0.009671513", "0.0013264727"))
SIGMA = f32(LOG_SIGMA)


@intrinsic
def fma(context, a, b, c):
    """a b + c, rounded once."""
    return a(a, b, c), lambda context, builder, signature, values: builder.fma(*values)


@helper
def bounded(x, bound):
    """x within ±bound; no number stays none."""
    x = -bound if x < -bound else x
    return bound if x > bound else x


@helper
def exp2(x):
    """2^x of x within ±BITS, which it is first brought to."""
    x = bounded(x, BITS)
    whole = f32(x + ROUND)
    r = x - (whole - ROUND)
    y = f32(fma(fma(fma(fma(fma(C5, r, C4), r, C3), r, C2), r, C1), r, ONE))
    return i32(y.view(i32) + i32(whole.view(i32) << i32(23))).view(f32)     # the exponent's bits


@helper
def exp(x):
    return exp2(LOG2_E * x)


@helper
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@helper
def tanh(x):
    e = exp(f32(-2) * x)
    return (ONE - e) / (ONE + e)


def wide(x):
    """The float32 that x is: itself, or its upper half."""


@overload(wide)
def _wide(x):
    if x == types.uint16:
        return lambda x: i32(i32(x) << i32(16)).view(f32)
    return lambda x: x


def narrow(x, row):
    """The float32 x as `row` has its numbers; the nearest bfloat16 to it, of two the even one."""


@overload(narrow)
def _narrow(x, row):
    def nearest(x, row):
        bits = f32(x).view(i32)
        return np.uint16(i32(bits + i32(0x7fff) + i32(i32(bits >> i32(16)) & i32(1))) >> i32(16))

    return nearest if row.dtype == types.uint16 else lambda x, row: x


@compiled
def lstm_pass(sums, c, h):
    H, B = h.shape
    for j in range(H):
        i, f, o, g, c_j, h_j = sums[0, j], sums[1, j], sums[2, j], sums[3, j], c[j], h[j]
        for b in range(B):
            cell = fma(sigmoid(wide(f[b])), c_j[b], sigmoid(wide(i[b])) * tanh(wide(g[b])))
            c_j[b] = cell
            h_j[b] = narrow(sigmoid(wide(o[b])) * tanh(cell), h_j)


@compiled
def sample_pass(raw, deviation, uniform, normal, z):
    K, Z, B = raw.shape[1:]
    weight, (top, total, mu, log_sigma) = np.empty((K, B), f32), np.empty((4, B), f32)
    for j in range(Z):
        top[:], total[:] = -np.inf, 0
        for k in range(K):
            logit = raw[0, k, j]
            for b in range(B):
                x = wide(logit[b])
                top[b] = x if x > top[b] else top[b]
        for k in range(K):
            logit, cumulated = raw[0, k, j], weight[k]
            for b in range(B):
                total[b] += exp(wide(logit[b]) - top[b])
                cumulated[b] = total[b]
        for b in range(B):
            mu[b], log_sigma[b], total[b] = wide(raw[1, 0, j, b]), wide(raw[2, 0, j, b]), total[b] * uniform[j, b]
        for k in range(1, K):
            cumulated, mu_k, log_sigma_k = weight[k - 1], raw[1, k, j], raw[2, k, j]
            for b in range(B):
                m, s = wide(mu_k[b]), wide(log_sigma_k[b])
                beyond = cumulated[b] < total[b]
                mu[b], log_sigma[b] = m if beyond else mu[b], s if beyond else log_sigma[b]
        z_j, n = z[j], normal[j]
        for b in range(B):
            z_j[b] = narrow(fma(deviation * exp(bounded(log_sigma[b], SIGMA)), n[b], mu[b]), z_j)


@compiled
def weighted_sums_pass(weights, x, sums):
    A, F, B = weights.shape
    sums[:] = 0
    for f in range(F):
        x_f = x[f]
        for a in range(A):
            row, weight = sums[a], weights[a, f]
            for b in range(B):
                row[b] = fma(weight[b], x_f[b], row[b])
