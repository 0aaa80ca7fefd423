"""The mixture density head: for each latent dimension on its own, K Gaussians (Bishop 1994; Ha & Schmidhuber 2018, sec.
2.2).

Deliberate difference: log sigma is bounded to [-7, 7], so that a dimension that hardly moves cannot drive the
likelihood to infinity.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from worldmodels.memory.heads import LOG_SQRT_2PI

LOG_SIGMA = 7.0         # bound on |log sigma|
SMALLEST = 1e-30        # density that a gradient is divided by


def distribution(raw: Tensor, z_size: int) -> MixtureSameFamily:
    """The head's output [..., 3*K*Z] as torch's own distribution of z [..., Z], to look at."""
    logits, mu, log_sigma = (t.transpose(-1, -2) for t in split(raw, z_size))               # [..., Z, K]
    return MixtureSameFamily(Categorical(logits=logits), Normal(mu, log_sigma.exp()))


def nll(raw: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(z) of each dimension [N, Z], and its gradient by `raw` [N, 3*K*Z], the head's output, for z [N, Z].

    The gradient is written out because autograd keeps, and goes through, a dozen tensors as large as `raw`.
    """
    logits, mu, log_sigma = split(raw, z.shape[-1])                             # [N, K, Z] each
    gradient = torch.empty_like(raw)
    d_logits, d_mu, d_log_sigma = gradient.unflatten(-1, (3, -1, z.shape[-1])).unbind(-3)
    # -log p = log sum_k exp(logits_k) - log sum_k exp(logits_k) N(z; mu_k, sigma_k), each latent dimension on its own
    inverse = torch.exp(-log_sigma)
    deviation = (z[:, None] - mu).mul_(inverse)
    squared = deviation.square()
    log_pi, pi = log_sum_exp(logits)
    log_joint, responsibility = log_sum_exp((logits - log_sigma).sub_(squared, alpha=0.5))  # of each component for z
    torch.sub(pi, responsibility, out=d_logits)
    torch.mul(responsibility, squared.neg_().add_(1), out=d_log_sigma)
    torch.mul(responsibility.neg_(), deviation.mul_(inverse), out=d_mu)
    d_log_sigma.masked_fill_(log_sigma.abs() == LOG_SIGMA, 0)                   # at its bound it does not move
    return log_pi - log_joint + LOG_SQRT_2PI, gradient


def log_sum_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_k exp(x_k) [N, Z] of x [N, K, Z], and softmax_k(x) [N, K, Z]."""
    top = x.amax(1, keepdim=True)
    exponential = (x - top).exp_()
    total = exponential.sum(1, keepdim=True)
    return (top + total.log())[:, 0], exponential.div_(total)


class Sample(torch.autograd.Function):
    """z [..., Z] of the head's output, uniform and normal numbers, and its gradient by the head's output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(raw, temperature, uniform, normal):
        logits, mu, log_sigma = split(raw, uniform.shape[-1])
        weights = torch.softmax(logits / temperature, -2)                       # pi_k^(1/tau), normalised
        # the component k where the cumulated weights pass the uniform number
        k = (weights.cumsum(-2)[..., :-1, :] < uniform[..., None, :]).sum(-2, keepdim=True)
        mu, log_sigma = mu.gather(-2, k).squeeze(-2), log_sigma.gather(-2, k).squeeze(-2)
        return mu + temperature**0.5 * torch.exp(log_sigma) * normal             # tau scales the variance

    @staticmethod
    def setup_context(ctx, inputs, z):
        raw, ctx.temperature, _, _ = inputs
        ctx.save_for_backward(raw, z)

    @staticmethod
    def backward(ctx, d_z):
        # F(z) = sum_k pi_k Phi((z - mu_k) / sigma_k) stays where it is: dz = -dF / p(z)
        raw, z = ctx.saved_tensors
        logits, mu, log_sigma = split(raw, z.shape[-1])
        pi, sigma = torch.softmax(logits / ctx.temperature, -2), math.sqrt(ctx.temperature) * log_sigma.exp()
        deviation = z[..., None, :] - mu
        density = pi * torch.exp(-0.5 * (deviation / sigma).square()) / (sigma * math.sqrt(2 * math.pi))
        per_density = (d_z / density.sum(-2).clamp(min=SMALLEST))[..., None, :]
        below = torch.special.ndtr(deviation / sigma)                           # Phi
        d_logits = pi * ((pi * below).sum(-2, keepdim=True) - below) * per_density / ctx.temperature
        d_mu = density * per_density
        d_log_sigma = d_mu * deviation * (log_sigma.abs() < LOG_SIGMA)          # at its bound it does not move
        return torch.stack([d_logits, d_mu, d_log_sigma], -3).flatten(-3), None, None, None


def sample(raw: Tensor, temperature: float, uniform: Tensor, normal: Tensor) -> Tensor:
    """z [..., Z]: mixture logits divided by tau, noise times sqrt(tau); of uniform and normal numbers, [..., Z] each,
    the first picks the component. Its gradient is exact, that of the weights too: implicit reparameterisation (Graves
    2016; Figurnov et al. 2018), which needs nothing but that each dimension is on its own."""
    return Sample.apply(raw, temperature, uniform, normal)


def mean(raw: Tensor, z_size: int, temperature: float) -> Tensor:
    """The mean of what `sample` draws from, sum_k pi_k^(1/tau) mu_k, [..., Z]."""
    logits, mu, _ = split(raw, z_size)
    return (torch.softmax(logits / temperature, -2) * mu).sum(-2)


def split(raw: Tensor, z_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture logits, means and log standard deviations, each [..., K, Z]."""
    logits, mu, log_sigma = raw.unflatten(-1, (3, -1, z_size)).unbind(-3)
    return logits, mu, log_sigma.clamp(-LOG_SIGMA, LOG_SIGMA)
