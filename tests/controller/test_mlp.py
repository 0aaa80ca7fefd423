"""The controller with a hidden layer: its equation by hand, and its size."""

import numpy as np
import pytest
import torch

from tests.controller.test_linear import agent_of, agent_with
from worldmodels.controller import PolicySpec, build
from worldmodels.controller.mlp import MLPConfig, MLPPolicy
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.types import State


def test_its_number_of_parameters():
    """(F + 1) H + (H + 1) A: the paper's ablation of CarRacing, z and 40 hidden units (sec. 3.3), has 1,443."""
    agent = agent_with("car_racing", MDNRNN(MDNRNNConfig(hidden_size=256), 32, 3))
    assert MLPPolicy.size(MLPConfig(sees="z"), agent) == 33 * 40 + 41 * 3 == 1443
    assert MLPPolicy.size(MLPConfig(hidden_size=7), agent) == (32 + 256 + 1) * 7 + 8 * 3
    assert MLPPolicy.size(MLPConfig(hidden_size=7, sees="h"), agent) == 257 * 7 + 8 * 3


@pytest.mark.parametrize("actions", (1, 3))
def test_a_batch_of_controllers_equals_a_plain_loop(actions):
    """Weights [F + 1, H] row by row, the last row the biases; then weights [H + 1, A] likewise."""
    rng, F, H = np.random.default_rng(0), 5, 4
    config, agent = MLPConfig(hidden_size=H), agent_of(F, actions)
    features = rng.normal(size=(3, F)).astype(np.float32)
    parameters = rng.normal(size=(3, (F + 1) * H + (H + 1) * actions))
    policy = build(PolicySpec(config, {"parameters": parameters}), agent)
    policy.reset(range(3))
    expected = np.zeros((3, actions))
    for b, row in enumerate(parameters):
        first, second = row[:(F + 1) * H].reshape(F + 1, H), row[(F + 1) * H:].reshape(H + 1, actions)
        hidden = [np.tanh(sum(features[b, f] * first[f, h] for f in range(F)) + first[F, h]) for h in range(H)]
        for a in range(actions):
            expected[b, a] = np.tanh(sum(hidden[h] * second[h, a] for h in range(H)) + second[H, a])
    np.testing.assert_allclose(policy(State(torch.from_numpy(features), ())), expected, rtol=1e-5, atol=1e-6)


def test_zeros_do_nothing():
    """Where evolution begins."""
    agent = agent_with("car_racing", MDNRNN(MDNRNNConfig(hidden_size=8), 4, 3))
    policy = build(PolicySpec(MLPConfig(), {"parameters": np.zeros((1, MLPPolicy.size(MLPConfig(), agent)))}), agent)
    policy.reset(range(5))
    assert torch.equal(policy(State(torch.randn(5, 12), ())), torch.tensor([[0, 0.5, 0]]).expand(5, 3))
