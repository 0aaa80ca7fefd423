"""What every kind of M has: the settings of its training, and heads for the reward and for the end of the episode."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.commandline import Count, Weight
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
    # a dream ends by the done head's probability, or where that is above 50% (paper)
    death: Literal["sampled", "threshold"] = "sampled"


DEATH = {                                       # done logits -> the probability that the dream ends
    "threshold": lambda logit: (logit > 0).to(logit.dtype),
    "sampled": torch.sigmoid,
}


def cross_entropy(logit: Tensor, terminated: Tensor, positive_weight: float) -> Tensor:
    """-(w y log p + (1 - y) log(1 - p)), where p = sigmoid(logit), of each step."""
    return positive_weight * terminated * F.softplus(-logit) + (1 - terminated) * F.softplus(logit)
