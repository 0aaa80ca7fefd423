"""Stage 5: C, trained in the dream or in the real game -> checkpoints/controller."""

from contextlib import ExitStack
from functools import partial

from pipeline.command import (
    controller_info,
    device,
    in_the_real_round,
    main,
    memory_info,
    open_executor,
    say,
    stage,
    task_of,
)
from pipeline.presets import Config
from pipeline.teacher import teacher
from worldmodels.agent import Agent, load_agent
from worldmodels.controller import LEARNERS, PolicySpec, Practice
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.policy import ParameterConfig
from worldmodels.files import link
from worldmodels.latents import Latents, open_latents
from worldmodels.runs import Run, seed_of
from worldmodels.types import UserError
from worldmodels.worlds.collect import env_settings
from worldmodels.worlds.dream import DreamWorld, pessimistic
from worldmodels.worlds.fitness import DreamFitness, RealFitness


@stage("dream", "controller", "learner")
def train_controller(config: Config, run: Run):
    """Stage 5: C, trained in the dream or in the real game -> checkpoints/controller."""
    train(config, run, checked_agent(config, run), run)


def train(config: Config, run: Run, agent: Agent, place: Run, training: int = 0):
    """Trains C for the run's V and M, as the config says, and stores it in `place`; goes on where it was
    interrupted."""
    info = controller_info(config, agent.digest)
    if place.finished("controller", info):
        return say(f"train_controller: {place.path('controller')} is there")
    latents = partial(encoded, config, run, agent)
    if "dream" in info:
        seed = seed_of(config.seed, run.round, "recorded uncertainty")
        agent = agent.with_memory(pessimistic(agent.memory, latents, config.dream, seed))
    with ExitStack() as stack:
        fitness = FITNESS[config.world](config, run, agent, stack)
        practice = Practice(fitness, latents, config.dream.temperature, config.seed, training, None,
                            partial(teacher, config, run, agent), getattr(fitness, "on_policy", None),
                            "real-learner" if in_the_real_round(config, place.round) else "learner")
        if place.round > 1 and place.round not in config.learner.anew:
            practice = practice._replace(previous=previous(agent, practice, place))
        LEARNERS[config.learner.kind](config.learner).learn(agent, practice, config.controller, place, info)


def previous(agent: Agent, practice: Practice, place: Run) -> PolicySpec:
    """The controller of the round before, fitted to this round's V where that is another one."""
    before = practice.teacher("")
    config = before.spec.config
    parameters = getattr(config, "guide", config)                       # of what they are
    if before.agent.vision_digest == agent.vision_digest or not isinstance(parameters, ParameterConfig):
        return before.spec
    return PolicySpec(config, Distill(DistillConfig()).fitted(agent, practice, parameters, place).arrays)


def dream_fitness(config: Config, run: Run, agent: Agent, stack: ExitStack) -> DreamFitness:
    world = DreamWorld(agent.memory, encoded(config, run, agent), config.dream)
    if device(config) == "cuda" and not config.gpus:
        return DreamFitness(agent, world)
    return DreamFitness(agent, world, stack.enter_context(open_executor(config)), config.gpus)


def real_fitness(config: Config, run: Run, agent: Agent, stack: ExitStack) -> RealFitness:
    executor, task = stack.enter_context(open_executor(config)), task_of(config)
    return RealFitness(executor, agent, task.max_steps, env_settings(task, config.collect))


FITNESS = {"dream": dream_fitness, "real": real_fitness}


def encoded(config: Config, run: Run, agent: Agent) -> Latents:
    """The run's episodes as the V of this agent encoded them."""
    return open_latents(run, config.collect.min_steps, agent.vision_digest, agent.memory.config.latent)


def checked_agent(config: Config, run: Run) -> Agent:
    """The run's V and M; a UserError where they were made with other settings than the config's."""
    trained = run.at(run.round - 1) if in_the_real_round(config, run.round) else run
    if not trained.finished("memory", memory_info(config, trained)):
        raise UserError(f"no memory in {run.folder}: run `python -m pipeline.train_memory` first")
    if trained != run:
        link([trained.path("memory"), trained.path("memory").with_suffix(".json")], run.own_path("memory").parent)
    return load_agent(run, device(config))


if __name__ == "__main__":
    main(train_controller)
