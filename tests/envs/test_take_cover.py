"""TakeCover: reproducible whatever was played before, with death and the clock kept apart."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from worldmodels.envs.take_cover import TakeCover, shrink


@pytest.fixture(scope="module")
def env():
    env = TakeCover(skill=5)
    yield env
    env.close()


def play(env, seed, steps=50):
    """Observations and rewards of random actions, up to the end of the episode."""
    rng = np.random.default_rng(seed)
    frames, rewards = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        frame, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, 1).astype(np.float32))
        frames.append(frame)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(frames), rewards


def test_it_is_a_gymnasium_environment(env):
    check_env(env, skip_render_check=True)


def test_observations_are_64_by_64_rgb_and_move(env):
    frames, rewards = play(env, 0)
    assert env.observation_space.contains(frames[0]) and frames.shape[1:] == (64, 64, 3)
    assert env.action_space.shape == (1,) and env.action_space.low == -1 and env.action_space.high == 1
    assert set(rewards) == {1.0}
    assert len({frame.tobytes() for frame in frames[10:]}) > 20     # the engine lets nobody move in its first 7 tics


def test_an_episode_is_a_function_of_seed_and_actions(env):
    """Bit for bit, in the same engine after other games and in a fresh one."""
    frames, rewards = play(env, 7)
    play(env, 8, 200)
    play(env, 9, 3)
    again, rewards_again = play(env, 7)
    np.testing.assert_array_equal(frames, again)
    assert rewards == rewards_again
    fresh = TakeCover(skill=5)
    np.testing.assert_array_equal(frames, play(fresh, 7)[0])
    fresh.close()
    assert (frames[:20] != play(env, 8)[0][:20]).any()


def test_the_action_moves_left_right_or_not_at_all(env):
    """Frames after a few tics depend on the action only by its third of [-1, 1]."""
    def after(x):
        env.reset(seed=3)
        for _ in range(14):
            frame = env.step(np.array([x], np.float32))[0]
        return frame

    left, still, right = after(-1.0), after(0.0), after(1.0)
    assert (left != still).any() and (right != still).any() and (left != right).any()
    np.testing.assert_array_equal(left, after(-0.34))
    np.testing.assert_array_equal(right, after(0.34))
    np.testing.assert_array_equal(still, after(0.33))
    np.testing.assert_array_equal(still, after(-0.33))


def test_death_terminates(env):
    env.reset(seed=0)
    for lived in range(1, 2000):
        _, reward, terminated, truncated, _ = env.step(np.zeros(1))
        assert reward == 1 and not truncated
        if terminated:
            break
    assert terminated and 20 < lived < 500         # standing still at skill 5: 57 ± 9 tics


def test_the_clock_truncates():
    env = TakeCover(max_steps=6)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]
    env.close()


def test_the_observation_is_the_upper_five_sixths_resized(env):
    observation = env.reset(seed=0)[0]
    picture = env.render()
    assert picture.shape == (120, 160, 3)
    expected = np.asarray(Image.fromarray(picture[:100]).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(observation - expected).max() <= 1 and np.abs(observation - expected).mean() < 0.1


def test_raw_observations_shrunk_together_are_the_observations(env):
    raw = TakeCover(skill=5, raw=True)
    assert raw.observation_space.shape == (100, 160, 3)
    together = [(raw.reset(seed=3)[0], env.reset(seed=3)[0])]
    for action in ([-1.0], [1.0], [1.0]):
        together.append((raw.step(action)[0], env.step(action)[0]))
    pictures, observations = map(np.stack, zip(*together))
    np.testing.assert_array_equal(shrink(pictures), observations)
    assert shrink(pictures).flags.c_contiguous
    raw.close()


@pytest.mark.parametrize("skill", (0, 6, -1))
def test_a_skill_that_doom_lacks_is_refused(skill):
    with pytest.raises(ValueError, match=str(skill)):
        TakeCover(skill=skill)


def test_a_repeated_action_equals_the_action_taken_so_many_times(env):
    """Frames, rewards and the tic of death."""
    repeating = TakeCover(skill=5, repeat=4)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal(repeating.reset(seed=seed)[0], env.reset(seed=seed)[0])
        terminated = False
        while not terminated:
            action, total = rng.uniform(-1, 1, 1), 0.0
            frame, reward, terminated, truncated, _ = repeating.step(action)
            for _ in range(int(reward)):
                expected, r, dead, _, _ = env.step(action)
                total += r
            assert (reward, terminated, truncated) == (total, dead, False)
            if not terminated:
                assert reward == 4
                np.testing.assert_array_equal(frame, expected)
    repeating.close()
