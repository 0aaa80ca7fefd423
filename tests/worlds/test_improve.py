"""A controller by least squares: it finds what paid, at once or later, in episodes whose rewards are known functions."""

import numpy as np
import pytest
import torch

from tests.conftest import make_latents
from worldmodels.episodes import Episode
from worldmodels.memory import MDNRNN, MemoryConfig
from worldmodels.types import State
from worldmodels.worlds.improve import DISCOUNT, GAIN, improved, seen


class Blank(torch.nn.Module):
    """A memory that remembers nothing: a controller sees z alone."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def initial(self, z):
        return State(z, (z,))

    def observe(self, state, action, z):
        return self.initial(z)


def episodes(reward, actions=1, count=40):
    """Of 20 to 59 steps, with random z [T+1, 2] and actions; reward(z, action) [T]."""
    rng = np.random.default_rng(0)
    for steps in rng.integers(20, 60, size=count):
        z = rng.normal(size=(steps + 1, 2)).astype(np.float32)
        action = rng.choice([-1, 0, 1], size=(steps, actions)).astype(np.float32)
        last = np.arange(steps) == steps - 1
        yield z, Episode(None, action, reward(z[:-1], action).astype(np.float32), last, np.zeros(steps, bool))


def later(values, steps):
    """What is earned so many steps after it was deserved."""
    return np.concatenate([np.zeros(steps), values])[:len(values)]


@pytest.mark.parametrize("delay", (0, 3))
def test_it_finds_what_paid(tmp_path, delay):
    latents = make_latents(tmp_path, episodes(lambda z, a: later(a[:, 0] * z[:, 1], delay), count=200))
    first, second = improved(Blank(), latents, bias=False)
    assert second > 2 and abs(first) < 0.1 * second


def test_every_action_has_its_own_weights_and_bias(tmp_path):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 0] + a[:, 1] * (2 - z[:, 1]), actions=2, count=400))
    weights = improved(Blank(), latents, bias=True).reshape(3, 2)           # rows z_0, z_1 and the bias, a column for each action
    expected = np.array([[1, 0], [0, -1], [0, 2]])
    expected = GAIN * expected / [1, 5**0.5]                                # the root mean square of z_0, and of 2 - z_1
    np.testing.assert_allclose(weights, expected, atol=0.4)
    np.testing.assert_array_equal(improved(Blank(), latents, bias=False), weights[:2].ravel())


def test_it_does_not_depend_on_how_the_episodes_are_grouped(tmp_path, monkeypatch):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1]))
    expected = improved(Blank(), latents, bias=True)
    monkeypatch.setattr("worldmodels.worlds.improve.TOGETHER", 3)
    np.testing.assert_allclose(improved(Blank(), latents, bias=True), expected, rtol=1e-3, atol=1e-3)


def test_returns_are_discounted(tmp_path):
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=9))
    stored = [latents.episode(e) for e in range(9)]
    _, action, returns = seen(Blank(), stored, 0)
    explicit = [sum(DISCOUNT**i * r for i, r in enumerate(e.reward[t:])) for e in stored for t in range(len(e.reward))]
    np.testing.assert_allclose(returns, explicit, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(action, np.concatenate([e.action for e in stored]))


def test_features_are_those_that_a_controller_sees_in_the_game(tmp_path):
    memory = MDNRNN(MemoryConfig(hidden_size=8), 2, 1)
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=3))
    with torch.inference_mode():
        features, _, _ = seen(memory, [latents.episode(e) for e in range(3)], 0)
        expected = []
        for e in range(3):
            episode = latents.episode(e)
            z, action = torch.from_numpy(episode.mu).float(), torch.from_numpy(episode.action)
            state = memory.initial(z[:1])
            for t in range(len(action)):
                expected.append(state.features)
                state = memory.observe(state, action[t:t + 1], z[t + 1:t + 2])
    torch.testing.assert_close(features, torch.cat(expected), atol=1e-4, rtol=1e-4)
