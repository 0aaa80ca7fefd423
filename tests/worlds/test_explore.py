"""Collecting with a controller: what is stored is what was played, and how much of it was left to chance."""

from itertools import islice

import numpy as np
import pytest
import torch

from worldmodels import episodes
from worldmodels.envs.policies import fresh_uniform
from worldmodels.envs.toy import Toy
from worldmodels.types import State
from worldmodels.worlds.agent import RealJob, load_agent
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.explore import LONGEST, Explorer, ExploreJob, stretches

SEEDS = tuple(range(100, 140))          # more than a worker plays at a time


@pytest.fixture
def explore(toy_run, tmp_path):
    """explore(share): the job, and what it returned."""
    _, digest = load_agent(toy_run)

    def explore(share):
        config = CollectConfig(max_steps=30, policy="fresh", explore=share)
        job = ExploreJob(toy_run, digest, config, (), np.random.default_rng(3).normal(size=13), SEEDS, tmp_path)
        return job, job()

    return explore


def test_what_is_stored_can_be_played_again(explore, tmp_path):
    _, (lengths, returns) = explore(0.5)
    assert len({int(length) for length in lengths}) > 1
    for seed, length, total in zip(SEEDS, lengths, returns):
        stored, env = episodes.read(episodes.episode_path(tmp_path, seed)), Toy(max_steps=30)
        assert len(stored.action) == length and stored.reward.sum() == total
        frames = [env.reset(seed=seed)[0]]
        for t, action in enumerate(stored.action):
            frame, *rest, _ = env.step(action)
            frames.append(frame)
            assert rest == [stored.reward[t], stored.terminated[t], stored.truncated[t]]
        assert np.array_equal(np.stack(frames), stored.frames)
        assert stored.terminated[-1] or stored.truncated[-1]


def test_without_exploration_it_is_the_controller_that_plays(explore, toy_run):
    job, (lengths, returns) = explore(0.0)
    parameters = np.repeat(job.parameters[None], len(SEEDS), 0)
    expected_returns, expected_lengths = RealJob(toy_run, job.digest, 30, (), parameters, SEEDS)()
    assert np.array_equal(lengths, expected_lengths) and np.array_equal(returns, expected_returns)
    _, (_, explored) = explore(1.0)
    assert not np.array_equal(explored, returns)


def test_an_action_of_the_stream_is_taken_instead_of_the_policys_own():
    class Policy:
        def __init__(self, number): self.number = number
        def __call__(self, state): return self.number[:, None].clone()
        def rows(self, index): return Policy(self.number[index])

    streams = [iter([None, np.array([7.0], np.float32)] * 3), iter([None] * 9), iter([np.array([9.0], np.float32)] * 9)]
    explorer, state = Explorer(Policy(torch.arange(3.0)), streams), State(torch.zeros(3, 1), ())
    assert explorer(state).flatten().tolist() == [0, 1, 9]
    assert explorer(state).flatten().tolist() == [7, 1, 9]
    assert explorer.rows(torch.tensor([2, 0]))(state).flatten().tolist() == [9, 0]


@pytest.mark.parametrize("share", (0.0, 0.2, 0.8))
def test_stretches_are_as_many_as_asked_for_and_all_differ(share):
    taken = np.array([[action is not None for action in islice(stretches(fresh_uniform, share, seed), 3000)]
                      for seed in range(200)])
    shares = taken.mean(1)
    assert abs(shares.mean() - share / 2) < 0.03 and shares.max() < share + 0.25
    if share:
        assert shares.std() > share / 5
        runs = [row.sum() / max(1, (np.diff(row.astype(int)) == 1).sum()) for row in taken]       # mean length of a stretch
        assert np.percentile(runs, 5) < 3 and LONGEST / 2 < np.percentile(runs, 95) < 2 * LONGEST


def test_stretches_are_a_function_of_the_seed():
    first, again, other = (list(islice(stretches(fresh_uniform, 0.5, seed), 50)) for seed in (5, 5, 6))
    assert first == again != other
