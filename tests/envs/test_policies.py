"""Random policies: in range, a function of their generator, and as the paper's."""

from itertools import groupby, islice

import numpy as np
import pytest

from worldmodels.envs import TASKS
from worldmodels.envs.policies import (
    crossing_strokes,
    fresh_uniform,
    held_uniform,
    mixed_strokes,
    random_controller,
    smooth_driver,
)

POLICIES = [(task, name) for task in TASKS for name in TASKS[task].policies]


def actions(policy, seed, count=500):
    return np.array(list(islice(policy(np.random.default_rng(seed)), count)))


@pytest.mark.parametrize("task, name", POLICIES)
def test_actions_are_in_range_and_follow_the_seed(task, name):
    policy, size = TASKS[task].policies[name], TASKS[task].action_size
    low = [-1, 0, 0] if task == "car_racing" else [-1]
    for seed in range(20):
        played = actions(policy, seed)
        assert played.shape == (500, size) and played.dtype == np.float32
        assert (played >= low).all() and (played <= 1).all()
        np.testing.assert_array_equal(played, actions(policy, seed))
    assert (actions(policy, 0) != actions(policy, 1)).any()


def test_fresh_actions_are_uniform_and_new_each_step():
    x = actions(fresh_uniform, 0, 20_000)[:, 0]
    assert len(set(x.tolist())) > 19_900
    np.testing.assert_allclose(np.histogram(x, 10, (-1, 1))[0], 2000, atol=200)


def test_held_actions_are_held_for_1_to_10_steps_and_3_65_on_average():
    """As in the released code: a frame has a new action where the number drawn with the last one divides its own."""
    x = actions(held_uniform, 0, 30_000)[:, 0]
    held = [len(list(group)) for _, group in groupby(x.tolist())][:-1]
    assert min(held) == 1 and max(held) == 10
    assert abs(np.mean(held) - 3.65) < 0.05
    starts = np.array([value for value, _ in groupby(x.tolist())])
    np.testing.assert_allclose(np.histogram(starts, 4, (-1, 1))[0] / len(starts), 0.25, atol=0.03)


def test_crossing_strokes_go_from_side_to_side_at_a_pace_of_their_own():
    means = []
    for seed in range(60):
        played = actions(crossing_strokes, seed, 3000)[:, 0].tolist()
        sides, holds = zip(*((side, len(list(group))) for side, group in groupby(played)))
        assert set(sides) == {-1.0, 1.0}
        means.append(np.mean(holds[:-1]))
        assert np.std(holds[:-1]) < 0.5 * means[-1]
    assert 9 < min(means) < 13 and 27 < max(means) < 31


def test_mixed_strokes_are_of_both_kinds():
    still = [(np.abs(actions(mixed_strokes, seed)) < 1).any() for seed in range(100)]      # crossing ones never are
    assert 35 < sum(still) < 65


def test_random_controllers_differ_in_scale_between_episodes():
    """Cauchy weights × U(0, 0.01): most controllers hardly steer, a few steer hard."""
    spread = np.array([actions(random_controller, seed, 100)[:, 0].std() for seed in range(200)])
    assert np.median(spread) < 0.25 and spread.max() > 0.6


def test_smooth_drivers_hold_their_actions_and_differ_from_each_other():
    """One action at a time, for 1 to 8 steps on average; some stand still, some give full gas or turn at full lock."""
    played = [actions(smooth_driver, seed, 1000) for seed in range(100)]
    holds = [np.mean([len(list(group)) for _, group in groupby(x.tolist())]) for x in played]
    assert min(holds) < 1.5 and 6 < max(holds) < 12
    gas, steer = (np.array([np.abs(x[:, i]).max() for x in played]) for i in (1, 0))
    assert (gas == 0).sum() > 3 and gas.max() > 0.9
    assert (steer < 0.3).sum() > 5 and (steer == 1).sum() > 5
    assert abs(np.mean([x[:, 0].mean() for x in played])) < 0.05
