"""The settings that every kind of V has."""

from dataclasses import dataclass

from worldmodels.commandline import Count, Positive, Size
from worldmodels.training import TrainConfig


@dataclass(frozen=True)
class VisionConfig(TrainConfig):
    kind: str = ""                      # which of VISIONS
    steps: Count = 100_000              # one epoch of 10,000 × 1,000 frames (paper; the released code takes 10 epochs)
    batch: Count = 100                  # images
    learning_rate: Positive = 1e-4      # Adam's
    z_size: Size = 32                   # latent dimensions: 32 for CarRacing, 64 for TakeCover (paper)
