"""The toy world keeps to its rules exactly."""

import numpy as np
from gymnasium.utils.env_checker import check_env

from worldmodels.envs.toy import Toy, position

RIGHT, LEFT = np.ones(1, np.float32), -np.ones(1, np.float32)


def test_it_is_a_gymnasium_environment():
    check_env(Toy())


def test_a_frame_names_its_position():
    env = Toy()
    env.reset(seed=0)
    for env.position in range(16):
        assert position(env.render()) == env.position
        assert (env.render() == 255).sum() == 4 * 64 * 3


def test_the_action_moves_the_column_and_the_reward_is_where_it_arrives():
    env, rng = Toy(), np.random.default_rng(0)
    p = position(env.reset(seed=3)[0])
    for _ in range(30):
        action = rng.uniform(-1, 0.8, 1)
        frame, reward, terminated, truncated, _ = env.step(action)
        p = max(0, p + 1) if action[0] >= 0 else max(0, p - 1)
        assert position(frame) == p == reward
        assert not terminated and not truncated


def test_the_right_end_terminates_and_the_clock_truncates():
    env = Toy(max_steps=20)
    start = position(env.reset(seed=1)[0])
    ends = [env.step(RIGHT)[2:4] for _ in range(15 - start)]
    assert ends == [(False, False)] * (14 - start) + [(True, False)]
    env.reset(seed=1)
    ends = [env.step(LEFT)[2:4] for _ in range(20)]
    assert ends == [(False, False)] * 19 + [(False, True)]


def test_an_end_at_the_last_step_is_a_termination_only():
    env = Toy()
    env.max_steps = 15 - position(env.reset(seed=1)[0])
    ends = [env.step(RIGHT)[2:4] for _ in range(env.max_steps)]
    assert ends[-1] == (True, False)


def test_starts_follow_the_seed_and_differ():
    starts = [position(Toy().reset(seed=seed)[0]) for seed in range(40)]
    assert starts == [position(Toy().reset(seed=seed)[0]) for seed in range(40)]
    assert set(starts) == set(range(8))
