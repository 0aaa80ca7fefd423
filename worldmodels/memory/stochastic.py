"""The stochastic state s of an RSSM: Gaussian (PlaNet, Dreamer V1) or categorical (Dreamer V2, V3).

Each is described by parameters [..., n], what a network puts out. The two have the same methods, and the noise of a
draw is a tensor [..., noise_size].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_STD = 0.1           # PlaNet, Dreamer V1, V2
UNIFORM = 0.01          # the share of a uniform distribution in a categorical one (Dreamer V3)


class Gaussian:
    """`size` independent dimensions: mean, and std = 2 sigmoid(x / 2) + MIN_STD (Dreamer V2). Drawn from normal
    numbers."""

    random = staticmethod(torch.randn)      # the numbers of a draw

    def __init__(self, size: int, classes: int):
        self.size = self.noise_size = size
        self.parameters = 2 * size

    def sample(self, parameters: Tensor, temperature: float, normal: Tensor) -> Tensor:
        """s [..., size]. tau scales the variance."""
        mean, std = self.moments(parameters)
        return mean + temperature**0.5 * std * normal

    def mean(self, parameters: Tensor) -> Tensor:
        return self.moments(parameters)[0]

    def gradient(self, parameters: Tensor, normal: Tensor, d_s: Tensor) -> Tensor:
        """That of the parameters, from that of an s drawn at temperature 1; of a mean where `normal` is 0."""
        half = torch.sigmoid(parameters.chunk(2, -1)[1] / 2)
        return torch.cat([d_s, d_s * normal * half * (1 - half)], -1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each [..., size]."""
        mean, raw = parameters.chunk(2, -1)
        return mean, 2 * torch.sigmoid(raw / 2) + MIN_STD

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """KL(q || p) in nats, [...]."""
        # log(sigma_p / sigma_q) + (sigma_q^2 + (mu_q - mu_p)^2) / (2 sigma_p^2) - 1/2
        (mean_q, std_q), (mean_p, std_p) = self.moments(q), self.moments(p)
        ratio = std_q / std_p
        return (0.5 * (ratio.square() + ((mean_q - mean_p) / std_p).square() - 1) - ratio.log()).sum(-1)


class Categorical:
    """`size` independent variables of `classes` classes, each a one-hot vector. Drawn from a uniform number each, by
    the inverse of the cumulative distribution; gradients go straight through (Bengio et al. 2013)."""

    random = staticmethod(torch.rand)

    def __init__(self, size: int, classes: int):
        self.groups, self.classes = size, classes
        self.noise_size, self.size = size, size * classes
        self.parameters = self.size

    def sample(self, parameters: Tensor, temperature: float, uniform: Tensor) -> Tensor:
        """s [..., groups * classes]. tau divides the logits."""
        p = self.probabilities(parameters / temperature)
        drawn = (p.cumsum(-1)[..., :-1] < uniform[..., None]).sum(-1)                   # [..., groups]
        one_hot = F.one_hot(drawn, self.classes).to(p.dtype)
        return (one_hot + (p - p.detach())).flatten(-2)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.probabilities(parameters).flatten(-2)

    def gradient(self, parameters: Tensor, uniform: Tensor, d_s: Tensor) -> Tensor:
        """That of the parameters, from that of an s drawn at temperature 1 or of a mean: they are the same."""
        p, d_p = (x.unflatten(-1, (self.groups, self.classes)) for x in (parameters, (1 - UNIFORM) * d_s))
        p = p.softmax(-1)
        return (p * (d_p - (p * d_p).sum(-1, keepdim=True))).flatten(-2)

    def probabilities(self, logits: Tensor) -> Tensor:
        """[..., groups, classes]."""
        p = logits.unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return (1 - UNIFORM) * p + UNIFORM / self.classes

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """KL(q || p) in nats, [...]."""
        q, p = self.probabilities(q), self.probabilities(p)
        return (q * (q.log() - p.log())).sum((-2, -1))


def scaled_gradient(x: Tensor, weight: float) -> Tensor:
    """x, whose gradient is multiplied by `weight`: the balance of a KL."""
    return x if weight == 1 else weight * x + (1 - weight) * x.detach()


LATENTS: dict[str, Any] = {"gaussian": Gaussian, "categorical": Categorical}
