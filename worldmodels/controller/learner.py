"""What every learner is handed. It knows no world: a fitness and the recorded episodes are all that it has."""

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Protocol, Sequence

import numpy as np

from worldmodels.controller.policy import ControllerConfig, PolicySpec
from worldmodels.latents import Latents
from worldmodels.runs import Run


@dataclass(frozen=True)
class LearnerConfig:
    kind: str = ""                      # which of LEARNERS


class Practice(NamedTuple):
    """What a learner may use."""

    fitness: Callable[[PolicySpec, Sequence[int]], np.ndarray]      # P policies, seeds [E] -> returns [P, E]
    latents: Callable[[], Latents]      # opens the recorded episodes
    temperature: float                  # of dreams
    seed: int                           # the run's
    previous: PolicySpec | None         # the policy of the round before, if there was one


class Learner(Protocol):
    def learn(self, agent: Any, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        """A policy of this config for the agent. It is stored as the checkpoint "controller", with `info`; interrupted,
        the same call goes on from what is in the run."""
