"""The settings that every kind of V has."""

from dataclasses import dataclass
from typing import Literal

from worldmodels.commandline import Count, Positive, Size
from worldmodels.training import TrainConfig


@dataclass(frozen=True)
class VisionConfig(TrainConfig):
    kind: str = ""                      # which of VISIONS
    steps: Count = 100_000              # one epoch of 10,000 × 1,000 frames (paper; the released code takes 10 epochs)
    batch: Count = 100                  # images
    learning_rate: Positive = 1e-4      # Adam's
    # as torch's layers begin; or as TensorFlow's (paper): Glorot's uniform weights, biases of zero
    initial_weights: Literal["torch", "tensorflow"] = "torch"
    # of the convolutions, in training and in play; bfloat16: to 3 digits, and about 1.5 times as fast where the CPU has
    # it (elsewhere they are float32 all the same)
    precision: Literal["float32", "bfloat16"] = "float32"
    z_size: Size = 32                   # latent dimensions: 32 for CarRacing, 64 for TakeCover (paper)
