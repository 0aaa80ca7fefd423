"""The seam of learners. A learner is made from its Config and has one method:

    learn(agent, practice, config: ControllerConfig, run, info) -> PolicySpec

a policy of this config for the agent. It stores the policy as the checkpoint "controller", with `info`; interrupted,
the same call goes on from what is in the run. It knows no world: a fitness and the recorded episodes are all that it
has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from worldmodels.commandline import Range
from worldmodels.controller.policy import PolicySpec
from worldmodels.latents import Latents
from worldmodels.runs import ROUNDS
from worldmodels.types import Seeds


@dataclass(frozen=True)
class LearnerConfig:
    kind: str = ""                      # which of LEARNERS
    # rounds in which C does not begin as that of the round before: what that one exploits is left behind
    anew: Annotated[tuple[int, ...], Range(2, ROUNDS)] = ()


class Teacher(NamedTuple):
    """A controller to learn from."""

    agent: Any                          # whose V and M it acts with
    spec: PolicySpec
    latents: Callable[[], Any]          # opens the recorded episodes as this V encoded them, in the same order


class OnPolicyEpisode(NamedTuple):
    """An episode of the game that an actor played, with the noise that it learns by."""

    features: np.ndarray    # that it saw [T+1, F] float32
    u: np.ndarray           # what it did, before it was squashed to actions [T, A] float32
    reward: np.ndarray      # [T] float32
    terminated: bool        # whether the episode ended; if not, it was cut


class Practice(NamedTuple):
    """What a learner may use."""

    fitness: Callable[[PolicySpec, Seeds], np.ndarray]      # P policies, seeds [E] -> returns [P, E]
    latents: Callable[[], Latents]      # opens the recorded episodes
    temperature: float                  # of dreams
    seed: int                           # the run's
    training: int                       # which of several on the same V and M, 0 for the run's own
    previous: PolicySpec | None         # the policy of the round before, to go on from, if there is one
    teacher: Callable[[str], Teacher] | None = None     # opens that of a run, or of the round before ("")
    # plays an episode of the real game for each seed, with an actor and its noise; None: learn in dreams
    on_policy: Callable[[PolicySpec, Seeds], list[OnPolicyEpisode]] | None = None
    section: str = "learner"            # of the command line that has the learner's settings
