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


def sample(raw: Tensor, z_size: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Draws z [..., Z]: mixture logits divided by tau, noise times sqrt(tau); one uniform number picks the component."""
    logits, mu, log_sigma = split(raw, z_size)
    weights = torch.softmax(logits / temperature, -2)                           # pi_k^(1/tau), normalised
    uniform = torch.rand(mu[..., :1, :].shape, generator=generator, device=raw.device)
    # the component k where the cumulated weights pass the uniform number
    k = (weights.cumsum(-2) < uniform).sum(-2, keepdim=True).clamp_(max=mu.shape[-2] - 1)
    mu, log_sigma = mu.gather(-2, k).squeeze(-2), log_sigma.gather(-2, k).squeeze(-2)
    noise = torch.randn(mu.shape, generator=generator, device=raw.device)
    return mu + math.sqrt(temperature) * torch.exp(log_sigma) * noise           # tau scales the variance


def split(raw: Tensor, z_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture logits, means and log standard deviations, each [..., K, Z]."""
    logits, mu, log_sigma = raw.unflatten(-1, (3, -1, z_size)).unbind(-3)
    return logits, mu, log_sigma.clamp(-LOG_SIGMA, LOG_SIGMA)
