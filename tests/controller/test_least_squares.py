"""A controller by least squares: it finds what pays, at once or later, in episodes and dreams whose rewards are known functions."""

import numpy as np
import pytest
import torch

from tests.conftest import make_latents
from worldmodels.episodes import Episode
from worldmodels.memory import MDNRNN, MemoryConfig
from worldmodels.runs import Run
from worldmodels.types import Imagined, Noise, State
from worldmodels.worlds import improve
from worldmodels.worlds.agent import Agent
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.controller.least_squares import GAIN, LeastSquares, RECORDED_DISCOUNT, dreamt, improved, paid, recorded, seen, unit


class Blank(torch.nn.Module):
    """A memory that remembers nothing: a controller sees z alone, which in dreams is pure chance. reward(z, action), risk(z, action)."""

    noise_size, feature_size = (1, 2), 2

    def __init__(self, reward=lambda z, a: 0 * z[:, 0], risk=lambda z, a: torch.full((len(z),), 0.01)):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.reward, self.risk = reward, risk

    def initial(self, z):
        return State(z, (z,))

    def observe(self, state, action, z):
        return self.initial(z)

    def imagine(self, state, action, temperature, noise):
        risk = self.risk(state.features, action)
        return Imagined(self.initial(noise.normal), self.reward(state.features, action), noise.uniform[:, 0] < risk, risk)

    def dreamer(self, batch, action_size, temperature):
        return PlainDreamer(self)


class PlainDreamer:
    """`imagine`, as a Dreamer."""

    def __init__(self, memory):
        self.memory = memory

    def load(self, state, weight, bias):
        self.state, self.weight, self.bias = state, weight, bias

    def look(self):
        return ((self.state.features[:, None] @ self.weight)[:, 0] + self.bias).t()

    def step(self, action, noise):
        noise = Noise(*noise.t().split(self.memory.noise_size, 1))
        self.state, reward, _, risk = self.memory.imagine(self.state, action.t(), 1.0, noise)
        return reward, risk


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
    latents = make_latents(tmp_path, episodes(lambda z, a: later(a[:, 0] * z[:, 1], delay), count=400))
    slope, *_ = recorded(Blank(), latents, True, 0)
    np.testing.assert_allclose(slope, [[0, RECORDED_DISCOUNT**delay, 0]], atol=0.15)


def test_every_action_has_its_own_weights_and_bias(tmp_path):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 0] + a[:, 1] * (2 - z[:, 1]), actions=2, count=400))
    slope, second, _ = recorded(Blank(), latents, True, 0)
    np.testing.assert_allclose(slope, [[1, 0, 0], [0, -1, 2]], atol=0.25)
    np.testing.assert_allclose(second, np.eye(3), atol=0.1)
    np.testing.assert_allclose(unit(slope, second), [[1, 0, 0], [0, -0.2**0.5, 2 * 0.2**0.5]], atol=0.15)


def test_a_controller_without_a_bias_is_fitted_without_one():
    generator, fit = torch.Generator().manual_seed(0), LeastSquares()
    a = torch.randint(2, (2000, 2), generator=generator) * 2.0 - 1
    features = 1 + torch.randn(2000, 3, generator=generator)
    y = a[:, 0] * (features[:, 0] + 2) - a[:, 1] * features[:, 2]
    fit.add(a, features, y)
    np.testing.assert_allclose(fit.solve(True), [[1, 0, 0, 2], [0, 0, -1, 0]], atol=0.01)
    alone = torch.linalg.lstsq((a[:, :, None] * features[:, None]).flatten(1), y).solution.view(2, 3)
    np.testing.assert_allclose(fit.solve(False), np.pad(alone, ((0, 0), (0, 1))), atol=0.01)
    first, second = fit.solve([True, False])
    assert first[-1] == pytest.approx(2, abs=0.01) and second[-1] == 0


def test_it_does_not_depend_on_how_the_episodes_are_grouped(tmp_path, monkeypatch):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1]))
    expected = recorded(Blank(), latents, True, 0)[:2]
    monkeypatch.setattr(improve, "TOGETHER", 3)
    for a, b in zip(recorded(Blank(), latents, True, 0), expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_returns_are_discounted(tmp_path):
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=9))
    stored = [latents.episode(e) for e in range(9)]
    _, action, returns = seen(Blank(), stored, torch.Generator())
    explicit = [sum(RECORDED_DISCOUNT**i * r for i, r in enumerate(e.reward[t:])) for e in stored for t in range(len(e.reward))]
    order = np.lexsort((np.concatenate([np.full(len(e.reward), i) for i, e in enumerate(stored)]),
                        np.concatenate([np.arange(len(e.reward)) for e in stored])))        # all first steps, all second ones, ...
    np.testing.assert_allclose(returns, np.array(explicit)[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(action, np.concatenate([e.action for e in stored])[order])


def test_what_is_seen_is_what_a_controller_sees_in_the_game(tmp_path):
    memory = MDNRNN(MemoryConfig(hidden_size=8), 2, 1)
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=3))
    with torch.inference_mode():
        states, _, _ = seen(memory, [latents.episode(e) for e in range(3)], torch.Generator())
        expected = []
        for e in range(3):
            episode = latents.episode(e)
            z, action = torch.from_numpy(episode.mu).float(), torch.from_numpy(episode.action)
            state = memory.initial(z[:1])
            for t in range(len(action)):
                expected.append((t, e, state))
                state = memory.observe(state, action[t:t + 1], z[t + 1:t + 2])
    expected = State.joined([state for _, _, state in sorted(expected, key=lambda row: row[:2])])
    for found, wanted in zip((states.features, *states.inner), (expected.features, *expected.inner), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_moments_are_taken_from_everywhere(tmp_path, monkeypatch):
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=200))
    *_, everything = recorded(Blank(), latents, True, 0)
    monkeypatch.setattr(improve, "MOMENTS", 500)
    *_, some = recorded(Blank(), latents, True, 0)
    assert len(everything.features) == latents.lengths.sum()
    assert len(some.features) == pytest.approx(500 * improve.ITERATIONS, rel=0.1)
    assert some.features.mean() == pytest.approx(float(everything.features.mean()), abs=0.05)


def moments(memory, count=40_000):
    return memory.initial(torch.randn(count, 2, generator=torch.Generator().manual_seed(1)))


def dream_of(tmp_path, memory, task="toy"):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1], count=200))
    return Agent(task, None, memory), DreamWorld(memory, latents, DreamConfig(max_steps=100))


def test_dreams_find_what_pays(tmp_path):
    agent, world = dream_of(tmp_path, Blank(lambda z, a: a[:, 0] * z[:, 1]))
    np.testing.assert_allclose(dreamt(agent, np.zeros(2), world, True, moments(agent.memory), [0]), [[0, np.tanh(GAIN), 0]], atol=0.1)


def test_dreams_find_what_kills(tmp_path):
    agent, world = dream_of(tmp_path, Blank(lambda z, a: 0 * z[:, 0] + 1, lambda z, a: 0.1 + 0.1 * torch.sign(a[:, 0] * z[:, 1])))
    (first, second, bias), = dreamt(agent, np.zeros(2), world, True, moments(agent.memory), [0])
    assert second < -0.3 and abs(first) < 0.1 and abs(bias) < 0.1


def test_dreams_tell_actions_apart(tmp_path):
    """Steering goes from -1 to 1, gas and brake from 0 to 1. What does not depend on z pays in each of the two steps."""
    agent, world = dream_of(tmp_path, Blank(lambda z, a: a[:, 0] * z[:, 0] + a[:, 1] * (2 - z[:, 1]) - a[:, 2]), "car_racing")
    slope = dreamt(agent, np.zeros(6), world, True, moments(agent.memory), [0])
    np.testing.assert_allclose(slope, [[1, 0, 0], [0, -0.5, 2], [0, 0, -1]], atol=0.1)


def test_two_dreams_differ_in_what_is_done_only(tmp_path):
    agent, world = dream_of(tmp_path, Blank(lambda z, a: a[:, 0] * z[:, 1]))
    state, sign = State(torch.randn(8, 2).repeat(2, 1), (torch.zeros(16, 2),)), torch.ones(8, 1)
    one, other = paid(agent, np.ones(2), world, state, torch.cat([sign, sign]), torch.Generator().manual_seed(0))
    assert torch.equal(one, other)
    one, other = paid(agent, np.ones(2), world, state, torch.cat([sign, -sign]), torch.Generator().manual_seed(0))
    assert (one != other).all()


@pytest.mark.parametrize("episodes", (True, False))
def test_an_interrupted_improvement_goes_on(tmp_path, monkeypatch, episodes):
    agent, world = dream_of(tmp_path, Blank(lambda z, a: a[:, 0] * z[:, 1]))
    calls, real, run = [], improve.dreamt, Run(tmp_path / "run")
    expected = improved(agent, world, False, episodes, Run(tmp_path / "undisturbed"), {"a": 1}, 0)
    assert abs(expected[0]) < 0.2 and expected[1] == pytest.approx(GAIN, rel=0.05)

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(improve, "dreamt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        improved(agent, world, False, episodes, run, {"a": 1}, 0)
    np.testing.assert_array_equal(improved(agent, world, False, episodes, run, {"a": 1}, 0), expected)
    np.testing.assert_array_equal(improved(agent, world, False, episodes, run, {"a": 1}, 0), expected)
    assert len(calls) == 2 + improve.ITERATIONS - 1             # the second time nothing was left to do
