"""The settings that every kind of M has."""

from dataclasses import dataclass

from worldmodels.commandline import Count, Weight
from worldmodels.training import TrainConfig


@dataclass(frozen=True)
class MemoryConfig(TrainConfig):
    kind: str = ""                      # which of MEMORIES
    steps: Count = 4000                 # optimiser steps
    batch: Count = 100                  # parallel streams of episodes
    sequence: Count = 999               # steps of each stream in one window
    clip_value: Weight = 1.0            # gradients are clipped to ± this (released code)
