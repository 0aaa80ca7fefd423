"""A controller by least squares: it finds what pays, at once or later, in episodes and dreams whose rewards are
known functions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import make_latents
from worldmodels.agent import controller_spec
from worldmodels.controller import LinearConfig, LinearPolicy, PolicySpec, Practice, build, least_squares
from worldmodels.controller.least_squares import (
    EPISODE_DISCOUNT,
    GAIN,
    ITERATIONS,
    LeastSquares,
    LeastSquaresConfig,
    Regression,
    features_of,
    from_dreams,
    from_episodes,
    imagined_returns,
    normalised,
)
from worldmodels.controller.mlp import MLPConfig
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.runs import Run
from worldmodels.types import Imagined, NoiseSize, State, UserError


class Blank(torch.nn.Module):
    """A memory that remembers nothing: a controller sees z alone, which in dreams is pure chance. reward(z, action),
    p_done(z, action)."""

    observe_noise, imagine_noise, feature_sizes = NoiseSize(), NoiseSize({"done": 1}, {"z": 2}), {"z": 2}

    def __init__(self, reward=lambda z, a: 0 * z[:, 0], p_done=lambda z, a: torch.full((len(z),), 0.01)):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.reward, self.p_done = reward, p_done

    def initial(self, z, noise=None):
        return State(z, (z,))

    def observe(self, state, action, z, noise=None):
        return self.initial(z)

    def imagine(self, state, action, temperature, noise):
        z = self.latent(state)
        reward, p_done = self.reward(z, action), self.p_done(z, action)
        done = noise["done"][:, 0] < p_done
        return Imagined(self.initial(noise["z"]), reward, p_done, done, 0 * reward, lambda: 0 * noise["z"])

    def latent(self, state):
        return state.inner[0]

    def dreamer(self, batch, temperature):
        return PlainDreamer(self, temperature)


class Doubled(Blank):
    """The same, whose other part of the features says twice what z says, and is all the chance that there is."""

    feature_sizes = {"z": 2, "h": 2}

    def initial(self, z, noise=None):
        return State(torch.cat([z, 2 * z], 1), (z,))


def agent_of(memory, task="toy"):
    return SimpleNamespace(task=TASKS[task], memory=memory)


def practice(latents, seed=0):
    return Practice(fitness=None, latents=lambda: latents, temperature=1.0, seed=seed, training=0, previous=None)


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
    slope, *_ = from_episodes(agent_of(Blank()), latents, LinearConfig(), 0)
    np.testing.assert_allclose(slope, [[0, EPISODE_DISCOUNT**delay, 0]], atol=0.15)


def test_every_action_has_its_own_weights_and_bias(tmp_path):
    reward = lambda z, a: a[:, 0] * z[:, 0] + a[:, 1] * (2 - z[:, 1])
    latents = make_latents(tmp_path, episodes(reward, actions=2, count=400))
    slope, second, _ = from_episodes(agent_of(Blank()), latents, LinearConfig(), 0)
    np.testing.assert_allclose(slope, [[1, 0, 0], [0, -1, 2]], atol=0.25)
    np.testing.assert_allclose(second, np.eye(3), atol=0.1)
    np.testing.assert_allclose(normalised(slope, second), [[1, 0, 0], [0, -0.2**0.5, 2 * 0.2**0.5]], atol=0.15)


def test_a_controller_without_a_bias_is_fitted_without_one():
    generator, fit = torch.Generator().manual_seed(0), Regression()
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
    expected = from_episodes(agent_of(Blank()), latents, LinearConfig(), 0)[:2]
    monkeypatch.setattr(least_squares, "EPISODES", 3)
    for a, b in zip(from_episodes(agent_of(Blank()), latents, LinearConfig(), 0), expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_returns_are_discounted(tmp_path):
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=9))
    stored = [latents.episode(e) for e in range(9)]
    _, action, returns = features_of(Blank(), stored, torch.Generator())
    discounted = lambda rewards: sum(EPISODE_DISCOUNT**i * r for i, r in enumerate(rewards))
    explicit = [discounted(e.reward[t:]) for e in stored for t in range(len(e.reward))]
    # all first steps, all second ones, ...
    order = np.lexsort((np.concatenate([np.full(len(e.reward), i) for i, e in enumerate(stored)]),
                        np.concatenate([np.arange(len(e.reward)) for e in stored])))
    np.testing.assert_allclose(returns, np.array(explicit)[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(action, np.concatenate([e.action for e in stored])[order])


def test_what_is_seen_is_what_a_controller_sees_in_the_game(tmp_path):
    memory = MDNRNN(MDNRNNConfig(hidden_size=8), 2, 1)
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=3))
    with torch.inference_mode():
        states, _, _ = features_of(memory, [latents.episode(e) for e in range(3)], torch.Generator())
        expected = []
        for e in range(3):
            episode = latents.episode(e)
            z, action = torch.from_numpy(episode.mu).float(), torch.from_numpy(episode.action)
            state = memory.initial(z[:1])
            for t in range(len(action)):
                expected.append((t, e, state))
                state = memory.observe(state, action[t:t + 1], z[t + 1:t + 2])
    expected = State.cat([state for *_, state in sorted(expected, key=lambda row: row[:2])])
    for found, wanted in zip((states.features, *states.inner), (expected.features, *expected.inner), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_moments_are_taken_from_everywhere(tmp_path, monkeypatch):
    latents = make_latents(tmp_path, episodes(lambda z, a: z[:, 0], count=200))
    *_, everything = from_episodes(agent_of(Blank()), latents, LinearConfig(), 0)
    monkeypatch.setattr(least_squares, "MOMENTS", 500)
    *_, some = from_episodes(agent_of(Blank()), latents, LinearConfig(), 0)
    assert len(everything.features) == latents.lengths.sum()
    assert len(some.features) == pytest.approx(500 * ITERATIONS, rel=0.1)
    assert some.features.mean() == pytest.approx(float(everything.features.mean()), abs=0.05)


def moments(memory, count=40_000):
    return memory.initial(torch.randn(count, 2, generator=torch.Generator().manual_seed(1)))


def slope_of_dreams(agent, actions=1):
    """From a controller of zeros."""
    spec = PolicySpec(LinearConfig(), {"parameters": np.zeros((1, 3 * actions))})
    return from_dreams(agent, spec, 1.0, moments(agent.memory), 0)


def test_dreams_find_what_pays():
    agent = agent_of(Blank(lambda z, a: a[:, 0] * z[:, 1]))
    np.testing.assert_allclose(slope_of_dreams(agent), [[0, np.tanh(GAIN), 0]], atol=0.1)


def test_dreams_find_what_kills():
    kills = lambda z, a: 0.1 + 0.1 * torch.sign(a[:, 0] * z[:, 1])
    (first, second, bias), = slope_of_dreams(agent_of(Blank(lambda z, a: 0 * z[:, 0] + 1, kills)))
    assert second < -0.3 and abs(first) < 0.1 and abs(bias) < 0.1


def test_dreams_tell_actions_apart():
    """Steering goes from -1 to 1, gas and brake from 0 to 1. What does not depend on z pays in each of the two
    steps."""
    memory = Blank(lambda z, a: a[:, 0] * z[:, 0] + a[:, 1] * (2 - z[:, 1]) - a[:, 2])
    slope = slope_of_dreams(agent_of(memory, "car_racing"), actions=3)
    np.testing.assert_allclose(slope, [[1, 0, 0], [0, -0.5, 2], [0, 0, -1]], atol=0.1)


def test_two_dreams_differ_in_what_is_done_only():
    agent = agent_of(Blank(lambda z, a: a[:, 0] * z[:, 1]))
    policy = build(PolicySpec(LinearConfig(bias=False), {"parameters": np.ones((1, 2))}), agent)
    state, sign = State(torch.randn(8, 2).repeat(2, 1), (torch.zeros(16, 2),)), torch.ones(8, 1)
    for second, same in ((sign, True), (-sign, False)):
        generator = torch.Generator().manual_seed(0)
        one, other = imagined_returns(agent, policy, state, torch.cat([sign, second]), 1.0, generator)
        assert torch.equal(one, other) if same else (one != other).all()


@pytest.mark.parametrize("episodes_too", (True, False))
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch, episodes_too):
    agent = agent_of(Blank(lambda z, a: a[:, 0] * z[:, 1]))
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1], count=200))
    learner, calls, real = LeastSquares(LeastSquaresConfig(fit_episodes=episodes_too)), [], least_squares.from_dreams
    fit = lambda name: learner.fit(agent, practice(latents), LinearConfig(bias=False), Run(tmp_path / name), {"a": 1})
    expected = fit("undisturbed")
    assert abs(expected[0]) < 0.2 and expected[1] == pytest.approx(GAIN, rel=0.05)

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(least_squares, "from_dreams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit("run")
    np.testing.assert_array_equal(fit("run"), expected)
    np.testing.assert_array_equal(fit("run"), expected)
    assert len(calls) == 2 + ITERATIONS - 1                     # the second time nothing was left to do


@pytest.mark.parametrize("bias", (True, False))
def test_what_is_learnt_is_stored_as_the_controller(tmp_path, run, bias):
    agent, config = agent_of(Blank(lambda z, a: a[:, 0] * z[:, 1])), LinearConfig(bias=bias)
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1], count=200))
    spec = LeastSquares(LeastSquaresConfig()).learn(agent, practice(latents), config, run, {"controller": config})
    assert spec.config == config and spec.arrays["parameters"].shape == (1, LinearPolicy.size(config, agent))
    assert run.finished("controller", {"controller": config}) and not run.progress_path("start").exists()
    stored = controller_spec(*run.load("controller", "train_controller"))
    assert stored.config == config and stored.arrays.keys() == spec.arrays.keys()
    np.testing.assert_array_equal(stored.arrays["parameters"], spec.arrays["parameters"])
    policy, z = build(stored, agent), torch.tensor([[0.0, 1.0], [0.0, -1.0], [3.0, 0.1]])
    policy.reset(range(3))
    np.testing.assert_allclose(policy(State(z, ()))[:, 0], [0.99, -0.99, 0.3], atol=0.35)


def test_what_is_learnt_from_z_alone_does_not_look_at_the_rest(tmp_path):
    """It is what a memory gives whose features are z."""
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * (z[:, 1] + 0.5), count=100))
    found = {}
    for memory, sees in ((Blank, "all"), (Doubled, "z"), (Doubled, "h"), (Doubled, "all")):
        agent = agent_of(memory(lambda z, a: a[:, 0] * (z[:, 1] + 0.5)))
        run = Run(tmp_path / f"{memory.__name__} {sees}")
        learner = LeastSquares(LeastSquaresConfig())
        spec = learner.learn(agent, practice(latents), LinearConfig(sees=sees), run, {})
        found[memory, sees] = spec.arrays["parameters"][0]
    of_z = found[Doubled, "z"]
    np.testing.assert_allclose(of_z, found[Blank, "all"], rtol=1e-6)
    # the features are twice as large
    np.testing.assert_allclose(found[Doubled, "h"] * [2, 2, 1], of_z, rtol=0.05, atol=0.02)
    assert found[Doubled, "all"].shape == (5,)


@pytest.mark.parametrize("config", (LeastSquaresConfig(), LeastSquaresConfig(fit_episodes=False)), ids=str)
def test_a_controller_that_is_not_linear_is_refused(tmp_path, run, config):
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1], count=5))
    with pytest.raises(UserError, match="linear.*--controller.kind mlp"):
        LeastSquares(config).learn(agent_of(Blank()), practice(latents), MLPConfig(), run, {})
    assert not run.path("controller").exists()


def test_other_seeds_have_other_dreams(tmp_path):
    agent = agent_of(Blank(lambda z, a: a[:, 0] * z[:, 1]))
    latents = make_latents(tmp_path, episodes(lambda z, a: a[:, 0] * z[:, 1], count=20))
    fit = lambda name, seed, round=1: LeastSquares(LeastSquaresConfig()).fit(
        agent, practice(latents, seed), LinearConfig(), Run(tmp_path / name, round), {})
    first, again, other, later = fit("a", 0), fit("b", 0), fit("c", 1), fit("d", 0, 2)
    assert np.array_equal(first, again) and not np.array_equal(first, other) and not np.array_equal(first, later)
