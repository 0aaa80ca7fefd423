"""Scores against a computation by hand, and recordings of episodes."""

import json
import math
import statistics

import numpy as np
import pytest
import torch

from worldmodels.envs import TASKS
from worldmodels.envs.policies import fresh_uniform
from worldmodels.envs.toy import Toy, position
from worldmodels.report.scores import RandomPolicy, record, score, table
from worldmodels.worlds.agent import load_agent
from worldmodels.worlds.real import RealWorld

RETURNS = [3.0, 8.5, 1.0, 4.0, 6.25, 9.0]


def entry(returns=RETURNS, temperature=None, controller="random (fresh)"):
    return score("toy", "real", controller, returns, wall_s=1.23, temperature=temperature, first_seed=5, workers=2, device="cpu")


def test_a_score_has_the_mean_its_deviation_and_its_interval():
    s = entry()
    mean, std = statistics.mean(RETURNS), statistics.stdev(RETURNS)
    half = 1.96 * std / math.sqrt(6)
    assert s["mean"] == pytest.approx(mean) and s["std"] == pytest.approx(std)
    assert s["ci95"] == pytest.approx([mean - half, mean + half])
    assert s["episodes"] == 6 and s["returns"] == RETURNS


def test_a_score_of_one_episode_has_no_deviation():
    s = entry([7.0])
    assert (s["mean"], s["std"], s["ci95"]) == (7.0, 0.0, [7.0, 7.0])


def test_a_score_has_what_the_report_promises_as_json():
    s = json.loads(json.dumps(entry(np.array(RETURNS, np.float32), 1.15)))
    assert s.keys() == {"task", "env_id", "world", "temperature", "controller", "episodes", "first_seed", "mean", "std", "ci95",
                        "returns", "wall_s", "workers", "device", "git_commit"}
    assert s["env_id"] == TASKS["toy"].env_id


def test_the_interval_holds_the_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        low, high = entry(rng.normal(10, 3, 60))["ci95"]
        hits += low < 10 < high
    assert 52 <= hits <= 60


def test_the_table_has_a_line_for_each_score():
    lines = table([entry(), entry(temperature=1.15, controller="controller from the dream")]).splitlines()
    assert len(lines) == 3
    assert "random (fresh)" in lines[1] and "5.3" in lines[1] and "3.2" in lines[1] and lines[1].split()[-1] == "6"
    assert "controller from the dream (tau 1.15)" in lines[2]


def test_a_random_policy_keeps_its_streams_when_rollouts_are_dropped():
    policy = RandomPolicy.seeded(fresh_uniform, [3, 4, 5], "cpu")
    alone = RandomPolicy.seeded(fresh_uniform, [5], "cpu")
    assert torch.equal(policy(None)[2:], alone(None))
    rest = policy.rows(torch.tensor([2, 0]))
    assert torch.equal(rest(None)[:1], alone(None))
    assert policy(None).shape == (3, 1)


@pytest.fixture
def recording(toy_run):
    agent = load_agent(toy_run)[0]
    world = RealWorld(Toy, agent.vision, agent.memory)
    return agent, lambda steps: record(world, RandomPolicy.seeded(fresh_uniform, [3], "cpu"), 3,
                                       lambda: (world.envs[0].render(), world.frames[0]), steps)


def test_a_recording_is_aligned_in_time_and_ends_in_time(recording):
    agent, play = recording
    for steps in (6, 1000):
        played = play(steps)
        count = min(steps, 40)
        assert len(played.action) == len(played.reward) == count
        assert len(played.frames) == len(played.seen) == len(played.features) == count + 1
        p = [position(frame) for frame in played.seen]
        assert p[1:] == played.reward.tolist() == [max(0, q + (1 if a >= 0 else -1)) for q, a in zip(p, played.action[:, 0])]
        np.testing.assert_array_equal(played.frames, played.seen)
