"""Stage 5: C, evolved in the dream or in the real game -> checkpoints/controller."""

from contextlib import ExitStack
from functools import partial

import numpy as np

from pipeline.command import clocked, controller_info, device, main, memory_info, say, workers
from pipeline.presets import Config
from worldmodels.controller import evolve, parameter_count
from worldmodels.envs import TASKS
from worldmodels.executors import LocalExecutor
from worldmodels.memory.latents import Latents, open_latents
from worldmodels.runs import Run
from worldmodels.types import Fitness, UserError
from worldmodels.worlds.agent import Agent, DreamFitness, RealFitness, load_agent
from worldmodels.worlds.collect import env_settings
from worldmodels.worlds.dream import DreamWorld
from worldmodels.worlds.improve import improved


@clocked
def train_controller(config: Config, run: Run):
    """Stage 5: C, evolved in the dream or in the real game -> checkpoints/controller."""
    evolved(config, run, *checked_agent(config, run), run)


def evolved(config: Config, run: Run, agent: Agent, digest: str, place: Run):
    """Evolves C for the run's V and M, as the config says, and keeps it in `place`; goes on where it was interrupted."""
    info = controller_info(config, digest)
    if place.finished("controller", info):
        return say(f"train_controller: {place.path('controller')} is there")
    with ExitStack() as stack:
        fitness = FITNESS[config.world](config, run, agent, digest, stack)
        start = partial(START[config.controller.start], config, run, agent, digest, place)
        evolve(config.controller, start, fitness, place, info, config.seed + run.round - 1)
    place.progress_path("start").unlink(missing_ok=True)


def zero(config: Config, run: Run, agent: Agent, digest: str, place: Run) -> np.ndarray:
    """The parameters [n] of a controller that pays no heed to anything; in a later round of `place`, of that of the round before."""
    if place.round > 1:
        return place.at(place.round - 1).load("controller", "train_controller")[0]["parameters"].numpy()
    return np.zeros(parameter_count(agent.memory.feature_size, TASKS[config.task].action_size, config.controller.bias))


def improve(config: Config, run: Run, agent: Agent, digest: str, place: Run) -> np.ndarray:
    """The parameters [n] of a controller that least squares makes of dreams, and of the recorded episodes unless it starts "dreamt";
    its progress is kept in `place`."""
    c, world = config.controller, DreamWorld(agent.memory, encoded(config, run, digest), config.dream)
    return improved(agent, world, c.bias, c.start == "improved", place, controller_info(config, digest), config.seed + run.round - 1)


START = {"zero": zero, "dreamt": improve, "improved": improve}


def dream_fitness(config: Config, run: Run, agent: Agent, digest: str, stack: ExitStack) -> Fitness:
    world = DreamWorld(agent.memory, encoded(config, run, digest), config.dream)
    if device(config) == "cuda":
        return DreamFitness(agent, world)
    return DreamFitness(agent, world, stack.enter_context(LocalExecutor(workers(config))), run, digest)


def real_fitness(config: Config, run: Run, agent: Agent, digest: str, stack: ExitStack) -> Fitness:
    executor = stack.enter_context(LocalExecutor(workers(config)))
    return RealFitness(executor, run, digest, TASKS[config.task].max_steps, env_settings(config.task, config.collect))


FITNESS = {"dream": dream_fitness, "real": real_fitness}


def encoded(config: Config, run: Run, digest: str) -> Latents:
    """The run's episodes as the V of this agent encoded them."""
    return open_latents(run, config.collect.min_steps, digest.split("-")[0])


def checked_agent(config: Config, run: Run) -> tuple[Agent, str]:
    """The run's V and M; a UserError where they were made with other settings than the config's."""
    if not run.finished("memory", memory_info(config, run)):
        raise UserError(f"no memory in {run.folder}: run `python -m pipeline.train_memory` first")
    return load_agent(run, device(config))


if __name__ == "__main__":
    main(train_controller)
