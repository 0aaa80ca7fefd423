"""Collecting with a controller: what is stored is what was played, and how much of it was left to chance."""

from itertools import count, islice

import numpy as np
import pytest
import torch

from worldmodels import episodes
from worldmodels.agent import load_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.envs.policies import fresh_uniform
from worldmodels.envs.toy import Toy
from worldmodels.types import State
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.explore import LONGEST, ExploreJob, Explorer, stretches, with_weight_noise
from worldmodels.worlds.fitness import RealJob

SEEDS = tuple(range(100, 140))          # more than a worker plays at a time


@pytest.fixture
def explore(toy_run, tmp_path):
    """explore(share, weight_noise): the job, and what it returned."""
    agent = load_agent(toy_run)
    spec = PolicySpec(LinearConfig(), {"parameters": np.random.default_rng(3).normal(size=(1, 13))})

    def explore(share, weight_noise=0.0):
        config = CollectConfig(max_steps=30, policy="fresh", explore_share=share)
        job = ExploreJob(TASKS["toy"], agent.shared, 1, config, (), spec, SEEDS, weight_noise)
        played = job()
        played.write(tmp_path)
        return job, played

    return explore


def test_what_is_stored_can_be_played_again(explore, tmp_path):
    _, (lengths, returns, _) = explore(0.5)
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
    job, (lengths, returns, _) = explore(0.0)
    expected_returns, expected_lengths = RealJob(job.task, job.agent, 30, (), job.spec, SEEDS)()
    assert np.array_equal(lengths, expected_lengths) and np.array_equal(returns, expected_returns)
    for other in ((1.0, 0.0), (0.0, 1.0)):
        _, (_, explored, _) = explore(*other)
        assert not np.array_equal(explored, returns)


def test_noise_on_the_weights_leaves_anything_from_the_controller_to_a_random_one_of_its_scale():
    row = np.random.default_rng(3).normal(2, 1, (1, 5000))
    spec, seeds = PolicySpec(LinearConfig(), {"parameters": row}), tuple(range(300))
    noisy = with_weight_noise(spec, 1.0, seeds).arrays["parameters"]
    scale = np.sqrt(np.square(row).mean())
    assert np.abs(np.sqrt(np.square(noisy).mean(1)) / scale - 1).max() < 0.1
    left = noisy @ row[0] / np.square(row).sum()                # the share of the controller itself, sqrt(1 - mine)
    assert np.abs(np.square(left).mean() - 0.5) < 0.05 and left.min() < 0.2 and left.max() > 0.98
    half = with_weight_noise(spec, 0.5, seeds).arrays["parameters"] @ row[0] / np.square(row).sum()
    assert half.min() > np.sqrt(0.5) - 0.05
    assert np.array_equal(with_weight_noise(spec, 1.0, seeds[7:8]).arrays["parameters"][0], noisy[7])
    assert np.array_equal(with_weight_noise(spec, 0.0, seeds).arrays["parameters"], row.repeat(300, 0))


class Numbered:
    """A policy that acts the number of each rollout, in the order in which they begin."""

    def reset(self, seeds):
        self.begun, self.number = 0, torch.zeros(0)
        self.select_and_reset(torch.arange(0), seeds)

    def __call__(self, state):
        return self.number[:, None].clone()

    def select_and_reset(self, index, seeds):
        self.number = torch.cat([self.number[index], torch.arange(self.begun, self.begun + len(seeds)).float()])
        self.begun += len(seeds)


@pytest.fixture
def explorer():
    """The policy, and act(). In the odd steps t of a rollout of seed s its stream acts, 10 s + t."""
    def stream(seed):
        for t in count():
            yield np.array([10 * seed + t], np.float32) if t % 2 else None

    explorer = Explorer(Numbered(), stream)
    return explorer, lambda: explorer(State(torch.zeros(len(explorer.streams), 1), ())).flatten().tolist()


def test_an_action_of_the_stream_is_taken_instead_of_the_policys_own(explorer):
    explorer, act = explorer
    explorer.reset([5, 6, 7])
    assert [act() for _ in range(4)] == [[0, 1, 2], [51, 61, 71], [0, 1, 2], [53, 63, 73]]
    explorer.reset([6])
    assert [act(), act()] == [[0], [61]]                # each reset begins anew


def test_rollouts_that_go_on_keep_their_streams_and_new_ones_begin_their_own(explorer):
    explorer, act = explorer
    explorer.reset([5, 6, 7])
    act()
    explorer.select_and_reset(torch.tensor([2, 0]), [8])
    assert [act() for _ in range(3)] == [[71, 51, 3], [2, 0, 81], [73, 53, 3]]
    explorer.select_and_reset(torch.tensor([2]), [])
    assert [act(), act()] == [[83], [3]]


@pytest.mark.parametrize("share", (0.0, 0.2, 0.8))
def test_stretches_are_as_many_as_asked_for_and_all_differ(share):
    taken = np.array([[action is not None for action in islice(stretches(fresh_uniform, share, seed), 3000)]
                      for seed in range(200)])
    shares = taken.mean(1)
    assert abs(shares.mean() - share / 2) < 0.03 and shares.max() < share + 0.25
    if share:
        assert shares.std() > share / 5
        runs = [row.sum() / max(1, (np.diff(row.astype(int)) == 1).sum()) for row in taken]     # mean lengths
        assert np.percentile(runs, 5) < 3 and LONGEST / 2 < np.percentile(runs, 95) < 2 * LONGEST


def test_stretches_are_a_function_of_the_seed():
    first, again, other = (list(islice(stretches(fresh_uniform, 0.5, seed), 50)) for seed in (5, 5, 6))
    assert first == again != other
