"""C: the controller and the search for it."""

from worldmodels.controller.evolution import CMAES, ControllerConfig, evolve
from worldmodels.controller.linear import LinearPolicy, parameter_count, population_policy

__all__ = ["CMAES", "ControllerConfig", "LinearPolicy", "evolve", "parameter_count", "population_policy"]
