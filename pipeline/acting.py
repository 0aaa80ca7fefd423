"""Ways to act compared: several kinds of controllers in the world models of pipeline.compare, trained in the same
dreams."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from pipeline.command import controller_info, open_executor, say, stage
from pipeline.evaluate import dream_seeds, in_the_dream, score_played, whole_dream
from pipeline.presets import Config
from pipeline.train_controller import encoded, train
from worldmodels.agent import Agent, load_agent, load_controller
from worldmodels.controller import PolicySpec, Practice, Teacher
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.untrained import UntrainedConfig
from worldmodels.files import link, read_json, write_json
from worldmodels.report.scores import score, trained_name
from worldmodels.runs import Run, differences, plain
from worldmodels.types import UserError
from worldmodels.worlds.dream import DreamWorld
from worldmodels.worlds.fitness import DreamFitness
from worldmodels.worlds.population import reads_features

DECIDING, DECISIONS = 16, 20            # rollouts whose decisions are timed together, and how many
PLANNED_DREAMS = 32                     # that a planner is scored on: it dreams hundreds in each step


def evolved(config: Config, model: Run, agent: Agent, place: Run):
    """The linear controller that the world model has already."""
    link([model.path("controller"), model.path("controller").with_suffix(".json")], place.path("controller").parent)


def learned(config: Config, model: Run, agent: Agent, place: Run):
    """Where it begins fitted to a teacher, that is the linear controller."""
    learner = config.compare.actor_critic
    if learner.distilled:
        learner = replace(learner, teacher=str(model.root))
    train(replace(config, controller=config.compare.actor, learner=learner), model, agent, place)


def planned(config: Config, model: Run, agent: Agent, place: Run):
    train(replace(config, controller=config.compare.planner, learner=UntrainedConfig()), model, agent, place)


def distilled(config: Config, model: Run, agent: Agent, place: Run):
    """The actor, as far as the run's own kind of controller can be it."""
    config, latents = replace(config, learner=DistillConfig()), partial(encoded, config, model, agent)
    info, teacher = controller_info(config, agent.digest), Teacher(agent, actor_of(place, agent), latents)
    if not place.finished("controller", info):
        practice = Practice(None, latents, config.dream.temperature, config.seed, 0, None, lambda name: teacher)
        Distill(config.learner).learn(agent, practice, config.controller, place, info)


def guided(config: Config, model: Run, agent: Agent, place: Run):
    """A planner around what the actor does, whose horizon the critic values."""
    spec = actor_of(place, agent)
    planner = replace(config.compare.guided, guided=True, actor=spec.config,
                      discount=config.compare.actor_critic.discount)
    info = controller_info(replace(config, controller=planner, learner=config.compare.actor_critic), agent.digest)
    if not place.finished("controller", info):
        place.save("controller", {name: torch.from_numpy(array[0]) for name, array in spec.arrays.items()}, info)


WAYS: dict[str, Callable[[Config, Run, Agent, Run], None]] = {
    "linear": evolved, "actor": learned, "distilled": distilled, "planner": planned, "guided": guided}
OF_THE_ACTOR = {"distilled", "guided"}          # made of it
WITHOUT_TRAINING = {"linear", "planner"}        # of a world model that is there: the same in every training of others


def actor_of(place: Run, agent: Agent) -> PolicySpec:
    """The actor that was trained in the same world model."""
    return load_controller(Run(place.root.parent / "actor"), agent)


def chosen_ways(config: Config) -> list[str]:
    """The ways to act that are asked for, in the order of WAYS, the linear controller, and the actor where one is made
    of it; none, where none is asked for."""
    ways = set(config.compare.controllers)
    if unknown := ways - WAYS.keys():
        raise UserError(f"--compare.controllers {' '.join(sorted(unknown))}: choose from {', '.join(WAYS)}")
    more = ({"linear"} if ways else set()) | ({"actor"} if ways & OF_THE_ACTOR else set())
    return [way for way in WAYS if way in ways | more]


def act(config: Config, name: str, training: int, ways: Sequence[str], model: Run):
    """Trains and scores controllers in a world model, those that are not there already."""
    agent = load_agent(model) if ways else None
    for way in ways:
        say(f"\n{name}, {way}, training {training + 1} of {config.compare.trainings}")
        act_in(config, name, training, way, model, agent)


def act_in(config: Config, name: str, training: int, way: str, model: Run, agent: Agent):
    """The same of one controller -> <model>/ways/<way>/entry.json."""
    place, settings = model.other(model.root / "ways" / way), {"evaluate": config.evaluate, "dream": config.dream}
    done = place.root / "entry.json"

    @stage()
    def train_controller(config: Config, place: Run):
        WAYS[way](config, model, agent, place)

    train_controller(config, place)
    if done.exists():
        if different := differences(read_json(done)["entry"]["settings"], settings):
            raise UserError(f"{place.root} was scored with {different}: delete it, or choose the settings that it has")
        return
    controller = load_controller(place, agent)
    if not reads_features(controller):
        config = replace(config, evaluate=replace(config.evaluate, dream_episodes=PLANNED_DREAMS))
    with open_executor(config) as executor:
        real = score_played(config, agent, controller, trained_name(config.world), executor)
        world = whole_dream(config, agent, encoded(config, model, agent))
        returns = DreamFitness(agent, world, executor, config.gpus)(controller, dream_seeds(config))[0]
    dreamt = score(agent.task, "dream", trained_name(config.world), returns, **in_the_dream(config, world))
    write_json(done, {"entry": {
        "model": name, "controller": way, "training": training, "settings": plain(settings),
        "seconds": sum(of.seconds.get("train_controller", 0) for of in made_by(way, model, place)),
        "decide_ms": milliseconds_to_decide(agent, controller, world), "scores": [real, dreamt]}})


def made_by(way: str, model: Run, place: Run) -> list[Run]:
    """The runs in which a controller, and what it is made of, was trained."""
    before = {"linear": [model]} | {of: [Run(place.root.parent / "actor")] for of in OF_THE_ACTOR}
    return [place, *before.get(way, [])]


def milliseconds_to_decide(agent: Agent, controller: PolicySpec, world: DreamWorld) -> float:
    """The median of DECISIONS decisions, each for DECIDING rollouts in a batch."""
    state, took = world.reset(range(DECIDING)), []
    policy = agent.policy_of(controller)
    policy.reset(range(DECIDING))
    with torch.inference_mode():
        for _ in range(DECISIONS):
            start = time.perf_counter()
            action = policy(state)
            took.append(time.perf_counter() - start)
            state = world.step(action).state
    return 1e3 * float(np.median(took))
