"""The linear controller: the paper's size, and the same numbers as a plain loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodels.controller import LinearConfig, LinearPolicy, PolicySpec, build
from worldmodels.envs import TASKS
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.types import State


def agent_of(feature_size, action_size, squash=torch.tanh):
    """An agent whose memory has so many features."""
    memory = SimpleNamespace(feature_sizes={"z": 1, "h": feature_size - 1}, parameters=lambda: iter([torch.zeros(1)]))
    return SimpleNamespace(task=SimpleNamespace(action_size=action_size, squash=squash), memory=memory)


def agent_with(task, memory):
    return SimpleNamespace(task=TASKS[task], memory=memory)


def test_it_has_the_papers_number_of_parameters():
    """And 99 where it sees V's latent alone, the paper's ablation (sec. 3.3)."""
    car_racing = agent_with("car_racing", MDNRNN(MDNRNNConfig(hidden_size=256), 32, 3))
    take_cover = agent_with("take_cover", MDNRNN(MDNRNNConfig(hidden_size=512, cell_feature=True), 64, 1))
    assert LinearPolicy.size(LinearConfig(), car_racing) == 867
    assert LinearPolicy.size(LinearConfig(bias=False), take_cover) == 1088
    assert LinearPolicy.size(LinearConfig(sees="z"), car_racing) == 99


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
    config, agent = LinearConfig(bias=bias), agent_of(5, actions)
    features = rng.normal(size=(4, 5)).astype(np.float32)
    parameters = rng.normal(size=(4, LinearPolicy.size(config, agent)))
    policy = build(PolicySpec(config, {"parameters": parameters}), agent)
    policy.reset(range(4))
    expected = np.zeros((4, actions))
    for b in range(4):
        for a in range(actions):
            x = sum(features[b, f] * parameters[b, f * actions + a] for f in range(5))
            expected[b, a] = np.tanh(x + (parameters[b, 5 * actions + a] if bias else 0))
    state = State(torch.from_numpy(features), ())
    np.testing.assert_allclose(policy(state), expected, rtol=1e-5, atol=1e-6)
    index = torch.tensor([3, 1])
    policy.select_and_reset(index, ())
    np.testing.assert_allclose(policy(state.select(index)), expected[[3, 1]], rtol=1e-5, atol=1e-6)


def test_a_members_episodes_lie_beside_each_other():
    spec = PolicySpec(LinearConfig(bias=False), {"parameters": np.array([[1.0], [2.0]])})
    policy = build(spec.select(np.repeat(np.arange(2), 3)), agent_of(1, 1, squash=lambda x: x))
    policy.reset(range(6))
    assert policy(State(torch.ones(6, 1), ()))[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
