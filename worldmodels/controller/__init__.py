"""C: controllers and the ways to find them. A new kind is one file here and one line in CONTROLLERS or LEARNERS."""

from typing import Any

from worldmodels.controller.actor import ActorPolicy
from worldmodels.controller.actor_critic import ActorCriticLearner
from worldmodels.controller.cem import CEMPolicy
from worldmodels.controller.cma_es import CMAES, Evolution, EvolutionConfig
from worldmodels.controller.distill import Distill
from worldmodels.controller.learner import LearnerConfig, Practice, Teacher
from worldmodels.controller.least_squares import LeastSquares
from worldmodels.controller.linear import LinearConfig, LinearPolicy
from worldmodels.controller.mlp import MLPPolicy
from worldmodels.controller.policy import ControllerConfig, PolicySpec
from worldmodels.controller.ppo import PPOLearner
from worldmodels.controller.untrained import Untrained
from worldmodels.types import Policy

CONTROLLERS: dict[str, Any] = {kind.Config.kind: kind for kind in (
    LinearPolicy,
    MLPPolicy,
    CEMPolicy,
    ActorPolicy,
)}

LEARNERS: dict[str, Any] = {kind.Config.kind: kind for kind in (
    Evolution,
    LeastSquares,
    ActorCriticLearner,
    PPOLearner,
    Distill,
    Untrained,
)}


def build(spec: PolicySpec, agent) -> Policy:
    """The policies of a spec, ready to act for an agent's task on what its memory makes of the world."""
    return CONTROLLERS[spec.config.kind](spec.config, agent, spec.arrays)


__all__ = ["CMAES", "CONTROLLERS", "ControllerConfig", "EvolutionConfig", "LEARNERS", "LearnerConfig", "LinearConfig",
           "PolicySpec", "Practice", "Teacher", "build"]
