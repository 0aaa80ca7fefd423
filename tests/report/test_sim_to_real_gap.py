"""Dream against game, on toys of which it is known where they part."""

import numpy as np
import torch

from worldmodels.agent import load_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.report.sim_to_real_gap import (
    BEFORE,
    DREAMS,
    HORIZON,
    MOMENTS,
    WatchJob,
    dream_from,
    follow,
    sim_to_real_gap,
    states,
)
from worldmodels.types import Imagined, NoiseSize, State
from worldmodels.worlds.fitness import RealJob


class Counter:
    """A memory of one latent that counts steps; every action is added to it, and it dies at `end` (the game at 20)."""

    observe_noise, imagine_noise = NoiseSize(), NoiseSize({"done": 1}, {"z": 1})

    def __init__(self, end=20, noise=0.0, pay=1.0):
        self.end, self.noise, self.pay = end, noise, pay

    def initial(self, z, noise=None):
        return State(z, (torch.zeros(len(z), 1),))

    def observe(self, state, action, z, noise=None):
        return State(z, (state.inner[0] + 1,))

    def imagine(self, state, action, temperature, noise):
        t = state.inner[0] + 1
        z = state.features + action + self.noise * noise["z"]
        done = t[:, 0] >= self.end
        return Imagined(State(z, (t,)), torch.full((len(t),), self.pay), done.float(), done, torch.zeros(len(t)),
                        lambda: z)

    def latent(self, state):
        return state.features


class Ahead:
    """A policy that always acts 1."""

    def reset(self, seeds):
        self.count = len(seeds)

    def __call__(self, state):
        assert len(state.features) == self.count
        return torch.ones(self.count, 1)


class Bold:
    """An agent of which only the task, the memory and the policy matter."""

    def __init__(self, memory, task="take_cover"):
        self.memory, self.task = memory, TASKS[task]

    def policy_of(self, spec):
        return Ahead()


def episode(steps=20, terminated=True):
    t = np.arange(steps + 1, dtype=np.float32)[:, None]
    end = np.arange(1, steps + 1) == steps
    action, reward = np.ones((steps, 1), np.float32), np.ones(steps, np.float32)
    return Episode(t, action, reward, end & terminated, end & (not terminated))


def compare(memory, task="take_cover", count=10, **more):
    return sim_to_real_gap(Bold(memory, task), None, [episode(**more) for _ in range(count)], 1.0, 0)


def test_a_right_memory_dies_with_the_game_and_does_not_drift():
    found = compare(Counter())
    assert found.lived.shape == (10 * MOMENTS, DREAMS) and found.left.shape == (10 * MOMENTS,)
    assert (found.lived == found.left[:, None]).all() and len(set(found.left)) > 10
    assert set(found.before) == {k for k in BEFORE if k <= 20} and set(found.before.values()) == {1.0}
    assert (found.error == 0).all() and (found.spread == 0).all() and (found.reward == 1).all()
    assert found.error.shape == (20,) and found.reward.shape == (2, 20)


def test_it_is_the_same_however_many_dreams_are_imagined_together(monkeypatch):
    expected = compare(Counter())
    monkeypatch.setattr("worldmodels.report.sim_to_real_gap.TOGETHER", 100)
    found = compare(Counter())
    assert np.array_equal(found.lived, expected.lived) and found.before == expected.before


def test_a_finished_lap_is_no_death():
    found = compare(Counter(), "car_racing", count=1)
    assert np.isinf(found.left).all() and not found.before


def test_a_memory_that_never_dies_is_found_out():
    found = compare(Counter(end=10**6))
    assert (found.lived == HORIZON + 1).all() and set(found.before.values()) == {0.0}


def test_a_death_three_steps_late_is_seen_by_no_dream():
    assert set(compare(Counter(end=23)).before.values()) == {0.0}
    assert set(compare(Counter(end=22)).before.values()) == {1.0}


def test_drift_grows_with_the_noise_of_the_dream_and_shows_where_it_is_wrong():
    found, steps = compare(Counter(noise=0.1)), np.arange(1, 21)
    np.testing.assert_allclose(found.error, 0.1 * np.sqrt(steps), rtol=0.3)
    np.testing.assert_allclose(found.spread, 0.1 * np.sqrt(2 * steps), rtol=0.3)
    assert (compare(Counter(pay=0.5)).reward == np.array([[1], [0.5]])).all()


def test_an_episode_that_time_ended_is_no_death():
    found = compare(Counter(), terminated=False)
    assert np.isinf(found.left).all() and found.before == {}


def test_states_are_those_of_the_episode_and_step_that_were_asked_for(toy_run):
    agent, rng = load_agent(toy_run), np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    played = [Episode(normal(n + 1, 4), normal(n, 1), None, None, None) for n in (3, 9, 6)]
    where = [(2, 6), (0, 0), (1, 8), (0, 3), (2, 0), (1, 1)]
    with torch.inference_mode():
        found = states(agent, played, *np.array(where).T, torch.Generator())
        for row, (e, t) in enumerate(where):
            z, action = map(torch.from_numpy, (played[e].frames, played[e].action))
            expected = agent.memory.initial(z[:1])
            for i in range(t):
                expected = agent.memory.observe(expected, action[i:i + 1], z[i + 1:i + 2])
            torch.testing.assert_close(found.features[row], expected.features[0], atol=1e-5, rtol=1e-5)
            for mine, theirs in zip(found.inner, expected.inner):
                torch.testing.assert_close(mine[row], theirs[0], atol=1e-5, rtol=1e-5)


def test_a_dream_that_follows_takes_the_given_actions():
    action = torch.tensor([[[1.0], [2.0], [-4.0]]])
    dreamt = follow(Bold(Counter()), Counter().initial(torch.zeros(1, 1)), action, 1.0, torch.Generator())
    assert dreamt.latent[0, :, 0].tolist() == [0, 1, 3, -1] and dreamt.reward.tolist() == [[1, 1, 1]]


def test_a_dream_from_a_step_on_is_the_game_until_there():
    z, action = 10 * np.arange(6, dtype=np.float32)[:, None], np.full((5, 1), 3, np.float32)
    assert dream_from(Bold(Counter()), z, action, 2, 1.0, 0)[:, 0].tolist() == [0, 10, 20, 23, 26, 29]


def test_watched_episodes_are_those_that_a_score_is_made_of(toy_run):
    shared, seeds = load_agent(toy_run).shared, tuple(range(7, 47))
    spec = PolicySpec(LinearConfig(), {"parameters": np.random.default_rng(3).normal(size=(1, 13))})
    played = WatchJob(TASKS["toy"], shared, 30, (), spec, seeds)()
    returns, lengths = RealJob(TASKS["toy"], shared, 30, (), spec, seeds)()
    assert sorted(len(e.action) for e in played) == sorted(lengths)
    assert sorted(float(e.reward.sum()) for e in played) == sorted(returns.tolist())
    assert all(e.frames.shape == (len(e.action) + 1, 4) for e in played)
