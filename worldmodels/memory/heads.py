"""What kinds of M share: the settings of their training, heads for the reward and for the end of the episode, and how
far several predictions of one thing disagree."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Count, Share, Weight
from worldmodels.training import TrainConfig


@dataclass(frozen=True)
class MemoryConfig(TrainConfig):
    kind: str = ""                      # which of MEMORIES
    steps: Count = 4000                 # optimiser steps
    batch: Count = 100                  # parallel streams of episodes
    sequence: Count = 999               # steps of each stream in one window
    clip_value: Weight = 1.0            # gradients are clipped to ± this (released code)
    reward_weight: Weight = 1.0         # of the squared error of the reward
    done_weight: Weight = 1.0           # of the cross-entropy of the end
    done_positive_weight: Weight = 1.0  # of terminal steps within it (released code: 10)
    latent: Literal["sample", "mean"] = "sample"    # what z is: a sample of V's posterior (paper), or its mean
    # up to this share of a stream's steps go on from what M itself drew (Bengio et al. 2015)
    scheduled_sampling: Share = 0.0
    # a dream ends by the done head's probability, or where that is above 50% (paper)
    death: Literal["sampled", "threshold"] = "sampled"

    @property
    def bootstraps(self) -> int:
        """How many samples of the episodes, drawn with replacement, a batch has streams of; 0: streams of all
        episodes."""
        return 0


DEATH = {                                       # done logits -> the probability that the dream ends
    "threshold": lambda logit: (logit > 0).to(logit.dtype),
    "sampled": torch.sigmoid,
}


# predictions of K members [B, K, D] -> how far they disagree, [B]
DISAGREEMENT = {
    # root mean over dimensions of the members' variance (Plan2Explore; OfflineRL-Kit's "ensemble_std")
    "std": lambda means: means.var(1, unbiased=False).mean(-1).sqrt(),
    # max_k |mu_k - mean|_2 (MOPO's alternative to its own, max_k |sigma_k|_2, which is no disagreement)
    "deviation": lambda means: (means - means.mean(1, keepdim=True)).norm(dim=-1).amax(1),
    # max_{i<j} |mu_i - mu_j|_2 (MOReL)
    "pair": lambda means: (means[:, :, None] - means[:, None]).norm(dim=-1).amax((1, 2)),
}
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def own_steps(share: float, restart: Tensor, generator: torch.Generator) -> Tensor:
    """Which steps [T - 1, B], after a window's first, go on from what M drew: up to `share`, in every stream another
    one. None at which an episode begins; restart [T, B]."""
    random = lambda *shape: torch.rand(shape, generator=generator, device=restart.device)
    T, B = restart.shape
    return (random(T - 1, B) < share * random(B)) & (restart[1:] == 0)


def cross_entropy(logit: Tensor, terminated: Tensor, positive_weight: float) -> Tensor:
    """-(w y log p + (1 - y) log(1 - p)), where p = sigmoid(logit), of each step."""
    return positive_weight * terminated * F.softplus(-logit) + (1 - terminated) * F.softplus(logit)


def network(inputs: int, units: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, outputs))
