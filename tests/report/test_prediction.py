"""Predictions, on toys of which it is known what they foretell."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from worldmodels.agent import Agent, load_agent
from worldmodels.envs import TASKS
from worldmodels.envs.toy import Toy
from worldmodels.episodes import Episode
from worldmodels.memory import MemoryConfig
from worldmodels.report import prediction as module
from worldmodels.report.prediction import (
    DRAWS,
    FRAME_STEPS,
    HORIZON,
    SMALLEST,
    by_horizon,
    crps,
    energy_score,
    film,
    generator_of,
    latents_of,
    over_episodes,
    prediction,
    ranks,
)
from worldmodels.report.statistics import half_width
from worldmodels.types import Imagined, NoiseSize, Posterior, State


class Pixels(nn.Module):
    """A V whose z [B, 2] is a tenth of the first two channels, each of which has one value; its posterior may be
    wide."""

    def __init__(self, log_var=None):
        super().__init__()
        self.config, self.log_var, self.weight = SimpleNamespace(z_size=2), log_var, nn.Parameter(torch.zeros(1))

    def encode(self, frames):
        z = frames[:, 0, 0, :2].float() / 10
        return Posterior(z, None if self.log_var is None else torch.full_like(z, self.log_var))

    def decode(self, z):
        frames = torch.zeros(len(z), 64, 64, 3, dtype=torch.uint8)
        frames[..., :2] = (10 * z).round().clamp(0, 255).to(torch.uint8)[:, None, None]
        return frames


class Walk:
    """A memory of z [B, 2] to which a tenth of each action is added, which is what happens, and an error. It pays the
    first action, as the game does."""

    observe_noise, imagine_noise = NoiseSize({}, {"unused": 1}), NoiseSize({"done": 1}, {"z": 2})
    config = MemoryConfig()

    def __init__(self, bias=lambda z: 0 * z, noise=0.0, pay=lambda action: action[:, 0], p_done=0.0,
                 uncertainty=lambda z: 0 * z[:, 0]):
        self.bias, self.noise, self.pay, self.p_done, self.uncertainty = bias, noise, pay, p_done, uncertainty

    def initial(self, z, noise=None):
        assert noise["unused"].shape == (len(z), 1)
        return State(z, (z,))

    def observe(self, state, action, z, noise=None):
        return self.initial(z, noise)

    def imagine(self, state, action, temperature, noise):
        assert temperature == 1
        z = state.inner[0]
        moved = z + action / 10 + self.bias(z) + self.noise * noise["z"]
        p_done = torch.full((len(z),), self.p_done)
        return Imagined(State(-moved, (moved,)), self.pay(action), p_done, noise["done"][:, 0] < p_done,
                        self.uncertainty(z), lambda: moved)

    def latent(self, state):
        return state.inner[0]


def walks(count=12, steps=130):
    """Episodes of whole steps in both channels; every other one terminates."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        action = rng.integers(-2, 3, (steps, 2)).astype(np.float32)
        at = np.concatenate([[[90, 80]], [90, 80] + action.cumsum(0)])
        frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)
        frames[..., :2] = at[:, None, None]
        end = (np.arange(1, steps + 1) == steps)
        terminated = end & (number % 2 == 0)
        found.append(Episode(frames, action, action[:, 0].copy(), terminated, end & ~terminated))
    return found


def toy(memory, vision=None):
    return Agent(TASKS["toy"], vision or Pixels(), memory)


@pytest.fixture(scope="module")
def episodes():
    return walks()


def units(episodes):
    return latents_of(toy(Walk()), episodes, torch.Generator()).unit.numpy()


def normal_crps(mean, std, y):
    """CRPS(N(mu, sigma), y) = sigma (w (2 Phi(w) - 1) + 2 phi(w) - 1 / sqrt(pi)), w = (y - mu) / sigma (Gneiting &
    Raftery 2007)."""
    w = (y - mean) / std
    density = math.exp(-w**2 / 2) / math.sqrt(2 * math.pi)
    return std * (w * math.erf(w / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("y", (-1.0, 0.5, 4.0))
def test_crps_of_normal_draws_has_its_closed_form(y):
    draws = 0.5 + 2 * torch.randn(1, 100_000, 1)
    assert crps(draws, torch.tensor([[y]])).item() == pytest.approx(normal_crps(0.5, 2.0, y), rel=0.02)


def test_crps_of_two_draws_is_right_on_average():
    found = crps(torch.randn(200_000, 2), torch.full((200_000,), 0.3)).mean().item()
    assert found == pytest.approx(normal_crps(0.0, 1.0, 0.3), rel=0.02)


def test_crps_of_a_point_is_its_distance_and_the_energy_score_that_of_vectors():
    draws, came = torch.randn(5, 1, 3).expand(5, 7, 3), torch.randn(5, 3)
    torch.testing.assert_close(crps(draws, came), (draws[:, 0] - came).abs())
    torch.testing.assert_close(energy_score(draws, came), (draws[:, 0] - came).norm(dim=-1))


def test_in_one_dimension_the_energy_score_is_the_crps():
    draws, came = torch.randn(6, 9, 1), torch.randn(6, 1)
    torch.testing.assert_close(energy_score(draws, came), crps(draws, came)[:, 0])


def test_scores_are_those_of_all_pairs():
    draws, came = torch.randn(3, 5, 2), torch.randn(3, 2)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    apart = torch.stack([draws[:, i] - draws[:, j] for i, j in pairs])
    misses = draws - came[:, None]
    torch.testing.assert_close(crps(draws, came), misses.abs().mean(1) - apart.abs().mean(0) / 2)
    torch.testing.assert_close(energy_score(draws, came), misses.norm(dim=-1).mean(1) - apart.norm(dim=-1).mean(0) / 2)


def test_a_right_memory_makes_no_error(episodes):
    found = prediction(toy(Walk()), episodes, 0)
    for name in ("crps", "energy_score", "frame_error", "frame_error_of_mean", "v_frame_error"):
        assert found["one_step"][name]["mean"] == pytest.approx(0, abs=1e-5)
        assert found["one_step"][name]["ci95"] == pytest.approx([0, 0], abs=1e-5)
    assert found["one_step"]["v_crps"] == 0
    loop = found["open_loop"]
    assert loop["steps"] == list(range(1, HORIZON + 1)) and loop["frame_steps"] == list(FRAME_STEPS)
    assert loop["count"] == [12] * HORIZON
    for name in ("z_error", "z_error_of_mean", "frame_error"):
        assert loop[name] == pytest.approx([0] * len(loop[name]), abs=1e-4)
    assert found["reward"]["explained"] == 1 and found["reward"]["rmse"] == 0
    assert found["reward"]["expected"] == found["reward"]["came"]
    assert found["uncertainty"] is None


def test_a_bias_shows_at_each_step_as_often_as_it_was_added(episodes):
    found, unit = prediction(toy(Walk(bias=lambda z: 0 * z + 0.1)), episodes, 0), units(episodes)
    size = np.sqrt(np.mean((0.1 / unit)**2))
    loop, steps = found["open_loop"], np.arange(1, HORIZON + 1)
    np.testing.assert_allclose(loop["z_error"], size * steps, rtol=1e-3)
    np.testing.assert_allclose(loop["z_error_of_mean"], size * steps, rtol=1e-3)
    np.testing.assert_allclose(loop["z_error_half"], 0, atol=1e-3)
    np.testing.assert_allclose(loop["frame_error"], (np.array(FRAME_STEPS) / 255)**2 * 2 / 3, rtol=1e-3)
    assert found["one_step"]["crps"]["mean"] == pytest.approx(np.mean(0.1 / unit), rel=1e-3)
    assert found["one_step"]["energy_score"]["mean"] == pytest.approx(size, rel=1e-3)
    assert found["one_step"]["frame_error"]["mean"] == pytest.approx(2 / 3 / 255**2, rel=1e-3)


def test_noise_grows_with_the_root_of_the_horizon_and_goes_from_the_mean_of_draws(episodes):
    loop, unit = prediction(toy(Walk(noise=0.2)), episodes, 0)["open_loop"], units(episodes)
    expected = np.sqrt(np.mean((0.2 / unit)**2) * np.arange(1, HORIZON + 1))
    np.testing.assert_allclose(loop["z_error"], expected, rtol=0.15)
    np.testing.assert_allclose(loop["z_error_of_mean"], expected / DRAWS**0.5, rtol=0.4)


def test_an_m_that_knows_the_next_frame_scores_v_crps(episodes):
    """Where V adds noise to a z that stands still and M draws from the same distribution."""
    std = 0.5
    still = [e._replace(frames=e.frames[:1].repeat(len(e.frames), 0), action=0 * e.action) for e in episodes]

    class Still(Walk):
        def imagine(self, state, action, temperature, noise):
            z = torch.tensor([9.0, 8.0]) + std * noise["z"]
            return super().imagine(state, action, temperature, noise)._replace(state=State(z, (z,)))

    found = prediction(toy(Still(), Pixels(2 * math.log(std))), still, 0)["one_step"]
    assert found["v_crps"] == pytest.approx(1 / math.sqrt(math.pi), rel=0.05)
    assert found["crps"]["mean"] == pytest.approx(found["v_crps"], rel=0.1)


def test_a_reward_known_only_on_average_explains_nothing(episodes):
    mean = float(np.mean([e.reward.mean() for e in episodes]))
    found = prediction(toy(Walk(pay=lambda action: torch.full((len(action),), mean))), episodes, 0)["reward"]
    assert found["explained"] == pytest.approx(0, abs=0.05) and len(found["expected"]) == 20
    assert found["expected"] == pytest.approx([mean] * 20) and found["rmse"] == pytest.approx(2**0.5, rel=0.1)
    assert all(abs(c - mean) < 3 * h for c, h in zip(found["came"], found["half"]))


def test_a_reward_that_is_always_the_same_has_no_variance_to_explain(episodes):
    ones = [e._replace(reward=np.ones_like(e.reward)) for e in episodes]
    found = prediction(toy(Walk(pay=lambda action: torch.ones(len(action)))), ones, 0)["reward"]
    assert found["explained"] is None and found["rmse"] == 0


@pytest.mark.parametrize("p", (0.0, 0.02, 0.25))
def test_the_log_loss_of_a_known_probability(p, episodes):
    found, steps = prediction(toy(Walk(p_done=p)), episodes, 0)["done"], 12 * 130
    rate, q = 6 / steps, max(p, SMALLEST)
    assert found["rate"] == pytest.approx(rate)
    assert found["log_loss"] == pytest.approx(-rate * math.log(q) - (1 - rate) * math.log(1 - q), rel=1e-4)
    assert found["brier"] == pytest.approx(rate * (1 - p)**2 + (1 - rate) * p**2, rel=1e-4)
    assert found["count"] == [steps] and found["came"] == pytest.approx([rate])
    assert found["expected"] == pytest.approx([p])


def test_every_step_counts_once_towards_the_end_and_is_aligned_with_it():
    """Where M knows the last step: episodes of different lengths, each of which ends where z is below a line."""
    made = [Episode(e.frames[:n + 1].copy(), e.action[:n], e.reward[:n], np.arange(1, n + 1) == n, np.zeros(n, bool))
            for e, n in zip(walks(4, 30), (3, 30, 11, 1))]
    for e in made:
        e.frames[-2, ..., 1] = 9            # the last step begins here

    class Knows(Walk):
        def imagine(self, state, action, temperature, noise):
            p_done = (state.inner[0][:, 1] < 1).float()
            return super().imagine(state, action, temperature, noise)._replace(p_done=p_done)

    found = prediction(toy(Knows()), made, 0)["done"]
    assert found["count"] == [41, 4] and found["came"] == [0, 1] == found["expected"] and found["brier"] == 0


def test_dreams_go_on_where_the_memory_ends_them(episodes):
    assert prediction(toy(Walk(p_done=1.0)), episodes, 0)["open_loop"] == prediction(toy(Walk()), episodes,
                                                                                    0)["open_loop"]


def test_an_uncertainty_that_is_the_error_has_correlation_one(episodes):
    unit, bias = torch.from_numpy(units(episodes)), lambda z: 0.3 * z.sin()
    knows = lambda z: (bias(z) / unit).square().mean(-1).sqrt()
    found = prediction(toy(Walk(bias=bias, uncertainty=knows)), episodes, 0)["uncertainty"]
    assert found["correlation"] == pytest.approx(1, abs=1e-3) and len(found["spread"]) == 10
    np.testing.assert_allclose(found["spread"], found["error"], rtol=1e-3)
    wrong = prediction(toy(Walk(bias=bias, uncertainty=lambda z: 5 - knows(z))), episodes, 0)["uncertainty"]
    assert wrong["correlation"] == pytest.approx(-1, abs=1e-3)


def test_an_uncertainty_that_never_changes_has_no_correlation(episodes):
    found = prediction(toy(Walk(uncertainty=lambda z: 0 * z[:, 0] + 1)), episodes, 0)["uncertainty"]
    assert found["correlation"] is None and found["spread"] == [1] * 10


def test_equal_values_share_a_rank():
    assert ranks(np.array([5.0, 1, 5, 7, 5])).tolist() == [3, 1, 3, 5, 3]


@pytest.mark.parametrize("steps", (1, 5, 20, 60))
def test_an_episode_shorter_than_the_horizon_counts_as_far_as_it_goes(steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        loop = prediction(toy(Walk(bias=lambda z: 0 * z + 0.1)), walks(3, steps), 0)["open_loop"]
    reached = steps - min(10, steps // 2)
    assert loop["count"] == [3] * reached + [0] * (HORIZON - reached)
    assert None not in loop["z_error"][:reached] and set(loop["z_error"][reached:]) == {None}
    assert [error is None for error in loop["frame_error"]] == [k > reached for k in FRAME_STEPS]
    assert set(loop["z_error_half"]) == {None}      # of three episodes


def test_the_horizons_of_a_long_episode_do_not_wait_for_a_short_one():
    loop = prediction(toy(Walk()), walks(2, 20) + walks(3, 115), 0)["open_loop"]
    assert loop["count"] == [5] * 10 + [3] * 90


def test_the_batch_changes_nothing(episodes, monkeypatch):
    agent = toy(Walk(noise=0.2), Pixels(-3.0))
    expected = prediction(agent, episodes, 3)
    monkeypatch.setattr(module, "TOGETHER", 96)
    found = prediction(agent, episodes, 3)
    for part in ("one_step", "open_loop", "reward", "done"):
        for name, value in expected[part].items():
            assert np.allclose(flat(found[part][name]), flat(value), rtol=1e-4, atol=1e-7), (part, name)


def flat(value):
    return [value["mean"], *value["ci95"]] if isinstance(value, dict) else value


def test_a_seed_is_all_the_chance_in_it(episodes):
    agent = toy(Walk(noise=0.2), Pixels(-3.0))
    assert prediction(agent, episodes, 1) == prediction(agent, episodes, 1) != prediction(agent, episodes, 2)


def test_intervals_are_over_episodes():
    values = np.random.default_rng(0).normal(size=(15, 4))
    found, means = over_episodes(values.ravel(), 15), values.mean(1)
    half = 2.144787 * means.std(ddof=1) / 15**0.5             # Student's t of 14 degrees of freedom
    assert found == {"mean": pytest.approx(means.mean()), "ci95": pytest.approx([means.mean() - half,
                                                                                means.mean() + half])}
    assert over_episodes(values[:9].ravel(), 9)["ci95"] is None


def test_a_horizon_takes_the_episodes_that_reach_it_and_of_these_the_starts_that_do():
    values = np.random.default_rng(0).random((24, 3))
    values[:4, 1] = np.nan              # two episodes
    values[5, 1] = np.nan               # one start of two
    values[:, 2] = np.nan
    mean, half = by_horizon(values)
    of = [values[4, 1], *values[6:, 1].reshape(-1, 2).mean(1)]
    np.testing.assert_allclose(mean, [values[:, 0].mean(), np.mean(of), np.nan])
    np.testing.assert_allclose(half, [half_width(values[:, 0].reshape(-1, 2).mean(1)), half_width(np.array(of)),
                                      np.nan])


def test_an_interval_of_mean_squares_becomes_one_of_their_root(episodes, monkeypatch):
    monkeypatch.setattr(module, "by_horizon", lambda values: (np.full(values.shape[1], 4.0), np.full(HORIZON, 0.04)))
    loop = prediction(toy(Walk()), episodes, 0)["open_loop"]
    low, high = np.sqrt([4 - 0.04, 4 + 0.04])
    assert loop["z_error"] == [2] * HORIZON
    assert loop["z_error_half"] == pytest.approx([(high - low) / 2] * HORIZON, 1e-3)


def test_a_dimension_that_never_moves_is_no_division_by_zero(episodes):
    still = [e._replace(frames=e.frames[:1].repeat(len(e.frames), 0), action=0 * e.action) for e in episodes]
    found = prediction(toy(Walk()), still, 0)
    assert abs(found["one_step"]["crps"]["mean"]) < 1e-6 and found["open_loop"]["z_error"] == [0] * HORIZON


def test_a_dream_that_goes_to_infinity_has_no_error_but_counts(episodes):
    loop = prediction(toy(Walk(bias=lambda z: z.exp())), episodes, 0)["open_loop"]
    assert loop["count"] == [12] * HORIZON and loop["z_error"][-1] is None


def test_the_memories_of_a_run_are_scored_and_what_is_said_is_json(toy_run):
    env, rng, played = Toy(), np.random.default_rng(0), []
    for seed in range(10):
        frames, moments = [env.reset(seed=seed)[0]], []
        while not (moments and (moments[-1][2] or moments[-1][3])):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            frame, *outcome, _ = env.step(action)
            frames.append(frame)
            moments.append((action, *outcome))
        action, reward, *ends = zip(*moments)
        played.append(Episode(np.stack(frames), np.stack(action), np.array(reward, np.float32), *map(np.array, ends)))
    found = prediction(load_agent(toy_run), played, 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["uncertainty"] is None and found["one_step"]["crps"]["ci95"] and found["one_step"]["v_crps"] > 0
    assert sum(found["done"]["count"]) == sum(len(e.action) for e in played)


def test_a_film_is_the_episode_up_to_its_start_and_a_dream_from_there(episodes):
    found = film(toy(Walk(bias=lambda z: 0 * z + 0.1)), episodes[0], 20, 30, 0)
    assert found.shape == (51, 64, 64, 3) and found.dtype == np.uint8
    expected = episodes[0].frames[:51].astype(int)
    expected[20:, ..., :2] += np.arange(31)[:, None, None, None]
    assert np.array_equal(found, expected)
    assert len(film(toy(Walk()), episodes[0], 120, 300, 0)) == 131         # no longer than the episode


def test_streams_of_chance_are_told_apart():
    first = {generator_of(*key).initial_seed() for key in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1))}
    assert len(first) == 5
