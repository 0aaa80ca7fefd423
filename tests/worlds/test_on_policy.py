"""Episodes that an actor plays to learn from them: all of them, in the order of their seeds, and what it really did."""

import numpy as np
import pytest
import torch

from worldmodels.agent import load_agent
from worldmodels.controller import PolicySpec, build
from worldmodels.controller.actor import ActorConfig, normal_of
from worldmodels.controller.network import forward
from worldmodels.executors import InlineExecutor, LocalExecutor
from worldmodels.worlds.fitness import SMALLEST, RealFitness

SEEDS = [*range(SMALLEST + 3)]


def actor(agent):
    config = ActorConfig(units=8, layers=1)
    parameters = np.random.default_rng(0).normal(size=(1, agent.parameter_count(config)))
    return PolicySpec(config, {"parameters": parameters.astype(np.float32)})


@pytest.fixture(scope="module")
def agent(toy_run):
    return load_agent(toy_run)


@pytest.fixture(scope="module")
def played(agent):
    with InlineExecutor(1) as executor:
        return RealFitness(executor, agent, 40, ()).on_policy(actor(agent), SEEDS)


def test_episodes_are_whole_and_each_has_its_own_noise(agent, played):
    assert len(played) == len(SEEDS)
    for episode in played:
        steps = len(episode.reward)
        assert episode.features.shape == (steps + 1, sum(agent.memory.feature_sizes.values()))
        assert episode.u.shape == (steps, 1) and (episode.terminated or steps == 40)
    assert len({episode.u[0].item() for episode in played}) == len(SEEDS)


def test_what_was_done_is_what_is_told_before_it_was_squashed(agent, played):
    """Played again with these actions, an environment pays the same; and they are the actor's mean and the noise of
    its seed."""
    policy = build(actor(agent), agent)
    policy.reset([0])
    for seed, episode in zip(SEEDS, played):
        env = agent.task.env(max_steps=40)
        env.reset(seed=seed)
        action = agent.task.smooth_squash(torch.from_numpy(episode.u)).numpy()
        np.testing.assert_allclose([env.step(a)[1] for a in action], episode.reward, rtol=1e-6)
        mean, std = normal_of(forward(policy.layers, torch.from_numpy(episode.features[:-1]), torch.nn.functional.elu))
        rng = np.random.default_rng([seed, 8])
        noise = np.stack([rng.standard_normal(1, np.float32) for _ in episode.u])
        np.testing.assert_allclose((torch.from_numpy(episode.u) - mean) / std, noise, atol=1e-3)


def test_worker_processes_play_the_same(agent, played):
    with LocalExecutor(2) as executor:
        again = RealFitness(executor, agent, 40, ()).on_policy(actor(agent), SEEDS)
    for one, other in zip(played, again):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
