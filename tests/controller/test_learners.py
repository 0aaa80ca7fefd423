"""What every learner keeps to: the conformance tests of LEARNERS."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import make_latents
from tests.controller.test_least_squares import Blank, episodes
from worldmodels import training
from worldmodels.agent import controller_spec
from worldmodels.controller import CONTROLLERS, LEARNERS, LinearConfig, PolicySpec, Practice, Teacher, build
from worldmodels.controller.actor import ActorConfig
from worldmodels.controller.cem import CEMConfig
from worldmodels.controller.mlp import MLPConfig
from worldmodels.envs import TASKS
from worldmodels.runs import Run, plain
from worldmodels.types import State, UserError

SHORT = {"generations": 5, "population": 6, "episodes": 2, "eval_every": 2, "eval_episodes": 3, "sigma": 0.3}
IMAGINED = {"steps": 100, "batch": 64, "learning_rate": 1e-2, "horizon": 3, "discount": 0.5}
VARIANTS = {                        # the settings that each kind is tested with, and controllers that it can find
    "cma_es": [(SHORT, LinearConfig()), (SHORT, LinearConfig(bias=False, sees="z")), (SHORT, MLPConfig(hidden_size=2)),
               (SHORT | {"start": "least_squares"}, LinearConfig()),
               (SHORT | {"start": "least_squares_dream"}, LinearConfig(bias=False))],
    "least_squares": [({}, LinearConfig()), ({"fit_episodes": False}, LinearConfig(bias=False, sees="z"))],
    "actor_critic": [(IMAGINED, ActorConfig(units=8, layers=1)),
                     (IMAGINED | {"gradient": "dynamics"}, ActorConfig(units=8, layers=1, critic="value", sees="z"))],
    "ppo": [(IMAGINED | {"steps": 320, "batch": 32, "parts": 4}, ActorConfig(units=8, layers=1))],
    "distill": [({}, LinearConfig()), ({"ridge": 0.01}, MLPConfig(hidden_size=4, sees="z")),
                ({"episodes": 5}, ActorConfig(units=8, layers=1))],
}
AT_ONCE = {"distill"}               # kinds that take seconds: interrupted, they keep nothing and begin anew
CASES = [pytest.param(LEARNERS[kind].Config(**settings), config, id=f"{kind}-{number}")
         for kind, variants in VARIANTS.items() for number, (settings, config) in enumerate(variants)]


class World:
    """A game in which an action pays as z_1 has it, its memory, and a controller that knows that. It is interrupted
    after `limit` uses."""

    def __init__(self, latents, limit=None):
        self.limit, self.uses, self.latents = limit, 0, latents
        memory = Blank(self.use(lambda z, action: action[:, 0] * z[:, 1]))
        self.agent = SimpleNamespace(task=TASKS["toy"], memory=memory, policy_of=lambda spec: build(spec, self.agent),
                                     parameter_count=lambda config: CONTROLLERS[config.kind].size(config, self.agent))

    def use(self, function):
        def used(*args):
            if self.uses == self.limit:
                raise KeyboardInterrupt
            self.uses += 1
            return function(*args)
        return used

    def fitness(self, spec, seeds):
        """What the policies earn in 200 steps."""
        z = np.stack([np.random.default_rng(seed).normal(size=(200, 2)) for seed in seeds]).astype(np.float32)
        returns = np.zeros((len(spec.arrays["parameters"]), len(seeds)))
        for member in range(len(returns)):
            policy = build(spec.select(np.array([member])), self.agent)
            for episode, path in enumerate(z):
                policy.reset(range(len(path)))
                returns[member, episode] = (policy(State(torch.from_numpy(path), ()))[:, 0].numpy() * path[:, 1]).mean()
        return returns

    def teacher(self, name):
        """Its agent and its latents, whose uses count too."""
        agent = SimpleNamespace(memory=self.agent.memory, policy_of=self.use(self.agent.policy_of))
        spec = PolicySpec(LinearConfig(), {"parameters": np.array([[0, 1, 0]], np.float32)})
        return Teacher(agent, spec, self.use(lambda: self.latents))

    def learn(self, learner, config, run, seed=0):
        practice = Practice(self.use(self.fitness), lambda: self.latents, 1.0, seed, training=0, previous=None,
                            teacher=self.use(self.teacher))
        return LEARNERS[learner.kind](learner).learn(self.agent, practice, config, run, info(learner, config))


def info(learner, config):
    return {"controller": config, "learner": learner}


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return make_latents(tmp_path_factory.mktemp("paid"), episodes(lambda z, a: a[:, 0] * z[:, 1], count=12))


def same(a: PolicySpec, b: PolicySpec):
    return a.config == b.config and a.arrays.keys() == b.arrays.keys() and all(
        np.array_equal(array, b.arrays[name]) for name, array in a.arrays.items())


def test_every_kind_is_tested():
    assert VARIANTS.keys() | {"untrained"} == LEARNERS.keys()
    assert all(cls.Config.kind == kind for kind, cls in LEARNERS.items())


def test_what_has_no_parameters_is_stored_untrained_and_nothing_else_is(run, latents):
    world, learner, config = World(latents), LEARNERS["untrained"].Config(), CEMConfig(horizon=3)
    spec = world.learn(learner, config, run)
    tensors, stored = run.load("controller", "train_controller")
    assert same(controller_spec(tensors, stored), spec) and spec.config == config
    with pytest.raises(UserError, match="cem has no parameters to evolve"):
        world.learn(LEARNERS["cma_es"].Config(**SHORT), config, run)
    with pytest.raises(UserError, match="linear has 3 parameters to learn"):
        world.learn(learner, LinearConfig(), run)


@pytest.mark.parametrize("learner, config", CASES)
def test_one_policy_of_the_config_is_learnt_and_stored(run, latents, learner, config):
    """It earns more than one of zeros, which earns nothing."""
    world = World(latents)
    spec = world.learn(learner, config, run)
    assert spec.config == config and all(len(array) == 1 for array in spec.arrays.values())
    assert run.finished("controller", info(learner, config))
    tensors, stored = run.load("controller", "train_controller")
    assert stored["controller"] == plain(config) and stored["learner"] == plain(learner)
    assert same(controller_spec(tensors, stored), spec)
    assert world.fitness(spec, range(100, 120)).mean() > 0.05
    assert not run.progress_path("controller").exists() and not run.progress_path("start").exists()


@pytest.mark.parametrize("share", (0.4, 0.6, 0.9))
@pytest.mark.parametrize("learner, config", CASES)
def test_an_interrupted_learner_comes_to_the_same(tmp_path, latents, monkeypatch, learner, config, share):
    """And does not do everything again, but for the kinds of AT_ONCE, which do."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    whole, run, undisturbed = World(latents), Run(tmp_path / "parts"), Run(tmp_path / "whole")
    expected = whole.learn(learner, config, undisturbed)
    with pytest.raises(KeyboardInterrupt):
        World(latents, int(share * whole.uses)).learn(learner, config, run)
    assert not run.finished("controller", info(learner, config))
    rest = World(latents)
    assert same(rest.learn(learner, config, run), expected)
    assert rest.uses == whole.uses if learner.kind in AT_ONCE else rest.uses < whole.uses
    stored, wanted = (r.load("controller", "train_controller")[0] for r in (run, undisturbed))
    assert stored.keys() == wanted.keys() and all(torch.equal(stored[name], wanted[name]) for name in stored)


@pytest.mark.parametrize("learner, config", CASES)
def test_a_learner_follows_its_seed(tmp_path, latents, learner, config):
    first, again, other = (World(latents).learn(learner, config, Run(tmp_path / name), seed)
                           for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert same(first, again) and not same(first, other)
