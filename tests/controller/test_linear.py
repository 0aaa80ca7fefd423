"""The linear controller: the paper's size, and the same numbers as a plain loop."""

import numpy as np
import pytest
import torch

from worldmodels.controller import LinearPolicy, parameter_count, population_policy
from worldmodels.envs import TASKS
from worldmodels.memory import MDNRNN, MemoryConfig
from worldmodels.types import State


def test_it_has_the_papers_number_of_parameters():
    car_racing = MDNRNN(MemoryConfig(hidden_size=256), 32, 3)
    take_cover = MDNRNN(MemoryConfig(hidden_size=512, cell_feature=True), 64, 1)
    assert parameter_count(car_racing.feature_size, 3, bias=True) == 867
    assert parameter_count(take_cover.feature_size, 1, bias=False) == 1088


def test_car_racing_squashes_to_steering_gas_and_brake():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [-3.0, 9.0, -0.5], [0.2, -9.0, 9.0]])
    expected = [[np.tanh(a), (np.tanh(b) + 1) / 2, min(max(np.tanh(c), 0), 1)] for a, b, c in x.tolist()]
    np.testing.assert_allclose(TASKS["car_racing"].squash(x), expected, atol=1e-6)


def test_take_cover_squashes_with_tanh():
    x = torch.linspace(-4, 4, 9)[:, None]
    np.testing.assert_allclose(TASKS["take_cover"].squash(x), np.tanh(x.numpy()), atol=1e-6)


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("actions", (1, 3))
def test_a_batch_of_controllers_equals_a_plain_loop(actions, bias):
    """Weights [F, A] row by row, then A biases."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 5))
    parameters = rng.normal(size=(4, parameter_count(5, actions, bias)))
    policy = LinearPolicy(torch.from_numpy(parameters), actions, bias, torch.tanh)
    expected = np.zeros((4, actions))
    for b in range(4):
        for a in range(actions):
            x = sum(features[b, f] * parameters[b, f * actions + a] for f in range(5))
            expected[b, a] = np.tanh(x + (parameters[b, 5 * actions + a] if bias else 0))
    state = State(torch.from_numpy(features), ())
    np.testing.assert_allclose(policy(state), expected)
    index = torch.tensor([3, 1])
    np.testing.assert_allclose(policy.rows(index)(State(state.features[index], ())), expected[[3, 1]])


def test_a_members_episodes_lie_beside_each_other():
    policy = population_policy(np.array([[1.0], [2.0]]), 3, "cpu", action_size=1, bias=False, squash=lambda x: x)
    assert policy(State(torch.ones(6, 1), ()))[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
