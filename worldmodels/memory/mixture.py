"""The mixture density head: for each latent dimension on its own, K Gaussians (Bishop 1994; Ha & Schmidhuber 2018, sec. 2.2).

Deliberate difference: log sigma is bounded to [-7, 7], so that a dimension that hardly moves cannot drive the likelihood to
infinity.
"""

import math

import torch
from torch import Tensor

LOG_SIGMA = 7.0         # bound on |log sigma|
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_prob(raw: Tensor, z: Tensor) -> Tensor:
    """log p(z) of each dimension: raw [..., 3*K*Z] as the head puts it out, z [..., Z] -> [..., Z]."""
    logits, mu, log_sigma = split(raw, z.shape[-1])                             # [..., K, Z] each
    # log sum_k pi_k N(z; mu_k, sigma_k), each latent dimension on its own
    deviation = (z[..., None, :] - mu) * torch.exp(-log_sigma)
    log_n = -0.5 * deviation.square() - log_sigma                               # [..., K, Z], without its constant
    return torch.logsumexp(logits + log_n, -2) - torch.logsumexp(logits, -2) - LOG_SQRT_2PI


def sample(raw: Tensor, temperature: float, uniform: Tensor, normal: Tensor) -> Tensor:
    """z [..., Z]: mixture logits divided by tau, noise times sqrt(tau); of uniform and normal numbers, [..., Z] each, the first
    picks the component."""
    logits, mu, log_sigma = split(raw, uniform.shape[-1])
    weights = torch.softmax(logits / temperature, -2)                           # pi_k^(1/tau), normalised
    # the component k where the cumulated weights pass the uniform number
    k = (weights.cumsum(-2)[..., :-1, :] < uniform[..., None, :]).sum(-2, keepdim=True)
    mu, log_sigma = mu.gather(-2, k).squeeze(-2), log_sigma.gather(-2, k).squeeze(-2)
    return mu + math.sqrt(temperature) * torch.exp(log_sigma) * normal          # tau scales the variance


def split(raw: Tensor, z_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture logits, means and log standard deviations, each [..., K, Z]."""
    logits, mu, log_sigma = raw.unflatten(-1, (3, -1, z_size)).unbind(-3)
    return logits, mu, log_sigma.clamp(-LOG_SIGMA, LOG_SIGMA)
