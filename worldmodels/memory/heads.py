"""What memories predict beside the next latent: the reward, and whether the episode ends."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.commandline import Weight
from worldmodels.memory.config import MemoryConfig


@dataclass(frozen=True)
class HeadConfig(MemoryConfig):
    reward_weight: Weight = 1.0         # of the squared error of the reward
    done_weight: Weight = 1.0           # of the cross-entropy of the end
    done_positive_weight: Weight = 1.0  # of terminal steps within it (released code: 10)
    # a dream ends by the done head's probability, or above 50% (paper)
    death: Literal["sampled", "threshold"] = "sampled"


DEATH = {                                       # done logits -> the probability that the dream ends
    "threshold": lambda logit: (logit > 0).to(logit.dtype),
    "sampled": torch.sigmoid,
}


def cross_entropy(logit: Tensor, terminated: Tensor, positive_weight: float) -> Tensor:
    """-(w y log p + (1 - y) log(1 - p)), where p = sigmoid(logit), of each step."""
    return positive_weight * terminated * F.softplus(-logit) + (1 - terminated) * F.softplus(logit)
