"""CarRacing: Gymnasium's own game, cropped and resized."""

import warnings

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import PassiveEnvChecker

from worldmodels.envs.car_racing import CarRacing


@pytest.fixture(scope="module", params=["official", "fast"])
def env(request):
    env = CarRacing(drawing=request.param)
    env.drawing = request.param
    yield env
    env.close()


def play(env, seed, steps=12):
    """Observations and rewards of random actions."""
    rng = np.random.default_rng(seed)
    frames, rewards = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        frame, reward, *_ = env.step(rng.uniform((-1, 0, 0), (1, 1, 0.3)).astype(np.float32))
        frames.append(frame)
        rewards.append(reward)
    return np.stack(frames), rewards


def test_it_is_a_gymnasium_environment(env):
    check_env(env, skip_render_check=True)


def test_every_answer_passes_gymnasiums_own_checks(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        play(PassiveEnvChecker(env), 0, 3)


def test_observations_are_the_games_own_frames_without_the_dashboard():
    """Rows 0:84 of 96, resized by area; rewards untouched."""
    env = CarRacing(drawing="official")
    official = gymnasium.make("CarRacing-v3")
    reference, reference_rewards = play(official, 5)
    official.close()
    frames, rewards = play(env, 5)
    assert env.observation_space.contains(frames[0]) and frames.shape[1:] == (64, 64, 3)
    np.testing.assert_array_equal(
        frames, [cv2.resize(frame[:84], (64, 64), interpolation=cv2.INTER_AREA) for frame in reference])
    assert rewards == reference_rewards
    # resizing by area keeps the mean brightness of what is kept
    np.testing.assert_allclose(frames.mean((1, 2, 3)), reference[:, :84].mean((1, 2, 3)), atol=0.6)
    env.close()


def drive(env, seed, steps):
    """Observations, outcomes and where the car's parts were, of a drive that turns, brakes and skids."""
    rng = np.random.default_rng(seed)
    frames, outcomes = [env.reset(seed=seed)[0]], []
    for t in range(steps):
        if t % 15 == 0:
            action = np.array([rng.uniform(-0.6, 0.6), rng.uniform(0.2, 1), rng.choice([0, 0, 0.7])], np.float32)
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        car = env.unwrapped.car
        parts = [(*body.position, body.angle, *body.linearVelocity) for body in [car.hull, *car.wheels]]
        outcomes.append((reward, terminated, truncated, parts, [wheel.omega for wheel in car.wheels]))
        if terminated or truncated:
            break
    return np.stack(frames).astype(int), outcomes


@pytest.mark.parametrize("seed", [3, 4])
def test_fast_drawing_is_the_same_game_and_nearly_the_same_picture(seed):
    """Bit-equal rewards, ends and bodies; frames at most 1/255 away on average, 2/255 while the camera zooms in."""
    drives = []
    for drawing in ("official", "fast"):
        env = CarRacing(drawing=drawing, max_steps=260)
        drives.append(drive(env, seed, 300))
        env.close()
    (official, outcomes), (fast, fast_outcomes) = drives
    assert outcomes == fast_outcomes and outcomes[-1][2]
    distance = np.abs(official - fast).mean((1, 2, 3))
    assert distance[:50].max() < 2 and distance[50:].max() < 1
    # and nearer to the same moment than to the next one, but where the car stands
    assert (np.abs(official[51:] - fast[50:-1]).mean((1, 2, 3)) > distance[50:-1]).mean() > 0.8


def test_beyond_the_playfield_it_is_black():
    """Where the field ends, as in gymnasium's own drawing."""
    frames = []
    for drawing in ("official", "fast"):
        env = CarRacing(drawing=drawing)
        env.reset(seed=0)
        env.unwrapped.t = 2.0
        env.unwrapped.car.hull.position, env.unwrapped.car.hull.angle = (331.0, 10.0), -1.2
        frames.append(env.step(np.zeros(3, np.float32))[0].astype(int))
        env.close()
    assert 0.2 < (frames[0] == 0).all(-1).mean() < 0.8
    assert np.abs(frames[0] - frames[1]).mean() < 1


def test_an_episode_is_a_function_of_seed_and_actions(env):
    frames, rewards = play(env, 7)
    play(env, 8, 30)
    again, rewards_again = play(env, 7)
    np.testing.assert_array_equal(frames, again)
    assert rewards == rewards_again
    assert (frames != play(env, 8)[0]).any()


def test_the_action_is_steering_gas_and_brake(env):
    assert env.action_space.low.tolist() == [-1, 0, 0] and env.action_space.high.tolist() == [1, 1, 1]


def test_the_clock_truncates():
    env = CarRacing(max_steps=4)
    env.reset(seed=0)
    ends = [env.step(np.zeros(3, np.float32))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]
    env.close()


def test_leaving_the_playfield_terminates(env):
    env.reset(seed=0)
    env.unwrapped.car.hull.position = (400.0, 0.0)
    _, reward, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
    assert terminated and not truncated and reward == -100


def test_a_repeated_action_equals_the_action_taken_so_many_times(env):
    """Frames and rewards; the clock counts frames of the game."""
    repeating = CarRacing(repeat=3, max_steps=20, drawing=env.drawing)
    np.testing.assert_array_equal(repeating.reset(seed=2)[0], env.reset(seed=2)[0])
    rng = np.random.default_rng(0)
    for step in range(1, 8):
        action = rng.uniform((-1, 0, 0), (1, 1, 0.3)).astype(np.float32)
        frame, reward, terminated, truncated, _ = repeating.step(action)
        outcomes = [env.step(action) for _ in range(3 if step < 7 else 2)]
        assert reward == pytest.approx(sum(r for _, r, *_ in outcomes)) and not terminated
        assert truncated == (step == 7)
        if not truncated:
            np.testing.assert_array_equal(frame, outcomes[-1][0])
    repeating.close()


def test_an_action_that_the_game_cannot_take_leaves_its_drawing_as_it_was(env):
    """The frames before the last one of a held action are not drawn, and the game stops at the first of them."""
    repeating = CarRacing(repeat=3, drawing=env.drawing)
    repeating.reset(seed=2)
    drawing = repeating.unwrapped._render
    with pytest.raises((ValueError, IndexError)):
        repeating.step(np.zeros(2, np.float32))
    assert repeating.unwrapped._render == drawing
    np.testing.assert_array_equal(repeating.reset(seed=2)[0], env.reset(seed=2)[0])
    repeating.close()
