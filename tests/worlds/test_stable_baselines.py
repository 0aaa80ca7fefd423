"""Stable-Baselines3 on a batch of dreams. Its own DummyVecEnv of single ones is what the batch is held against."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers.vector import RescaleAction

import worldmodels  # noqa: F401   registers the environments
from tests.worlds.test_gym import EVERY, column, white_column
from worldmodels.types import UserError
from worldmodels.worlds.gym import dream_vector_env

stable_baselines3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor  # noqa: E402

from worldmodels.worlds.stable_baselines import BatchVecEnv  # noqa: E402


def columns(count, **options):
    return BatchVecEnv(column(dream_vector_env, num_envs=count, autoreset_mode="SameStep", **options))


@pytest.mark.parametrize("id", EVERY)
def test_its_checker_passes(id):
    env = gymnasium.make(id)
    check_env(env)
    env.close()


@pytest.mark.parametrize("id, steps, longest", (("worldmodels/TakeCoverDream-v0", 250, {}),
                                                ("worldmodels/CarRacingDream-v0", 125, {"max_episode_steps": 30})))
def test_the_episodes_of_a_batch_are_those_of_single_environments(id, steps, longest):
    """For the same seeds and actions: what is seen, earned and said, at every step and end. In long dreams of
    a car a rounding ends in another component of a mixture, on some machines."""
    batch = BatchVecEnv(gymnasium.make_vec(id, num_envs=4, autoreset_mode="SameStep", **longest))
    singles = DummyVecEnv([lambda: gymnasium.make(id, **longest)] * 4)
    assert batch.seed(11) == singles.seed(11)
    np.testing.assert_allclose(batch.reset(), singles.reset(), rtol=1e-5, atol=1e-5)
    batch.action_space.seed(0)
    ended, returns = 0, np.zeros((2, 4))
    for _ in range(steps):
        action = np.stack([batch.action_space.sample() for _ in range(4)])
        seen, expected = batch.step(action), singles.step(action)
        np.testing.assert_allclose(seen[0], expected[0], rtol=1e-5, atol=1e-5)
        assert seen[1].dtype == expected[1].dtype == np.float32 and np.array_equal(seen[2], expected[2])
        assert batch.reset_infos == singles.reset_infos
        for said, wanted in zip(seen[3], expected[3]):
            assert said.keys() == wanted.keys() and said["TimeLimit.truncated"] == wanted["TimeLimit.truncated"]
            for name in said:
                np.testing.assert_allclose(said[name], wanted[name], rtol=1e-5, atol=1e-5)
        ended, returns = ended + seen[2].sum(), returns + (seen[1], expected[1])
    assert ended >= 4
    np.testing.assert_allclose(*returns, rtol=1e-5, atol=1e-5)


def test_seeds_are_for_the_next_reset_only():
    env = columns(3)
    assert env.seed(5) == [5, 6, 7]
    env.reset()
    assert env.reset_infos == [{"seed": 5}, {"seed": 6}, {"seed": 7}]
    env.reset()
    assert env.reset_infos != [{"seed": 5}, {"seed": 6}, {"seed": 7}]


def test_options_are_refused_as_the_environments_refuse_them():
    env = columns(2)
    env.set_options({"mass": 1})
    with pytest.raises(ValueError, match="no option mass"):
        env.reset()


def test_a_truncation_is_told_from_an_end():
    env = columns(2, starts=[12], max_episode_steps=3)
    env.seed(0)
    env.reset()
    assert env.render_mode is None
    for action in ([1], [-1]), ([1], [1]), ([1], [-1]):
        first, _, ended, infos = env.step(np.array(action, np.float32))
    assert ended.tolist() == [True, True] and (first == 12).all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert [info["terminal_observation"].tolist() for info in infos] == [[15], [11]]


def test_ppo_learns_in_a_batch_of_dreams():
    """To go right, from 64 dreams at once."""
    env = VecMonitor(columns(64, max_episode_steps=10), info_keywords=("seed",))
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=20, batch_size=320, learning_rate=3e-3, seed=0,
                                  device="cpu")
    before, _ = evaluate_policy(model, env, 128, deterministic=False)
    model.learn(4 * 20 * 64)
    after, _ = evaluate_policy(model, env, 128, deterministic=False)
    assert model.num_timesteps == 4 * 20 * 64 and all("seed" in episode for episode in model.ep_info_buffer)
    assert after > before + 10


def test_actions_can_be_rescaled_in_front_of_it():
    plain = gymnasium.make_vec("worldmodels/CarRacingDream-v0", num_envs=2, autoreset_mode="SameStep")
    scaled = gymnasium.make_vec("worldmodels/CarRacingDream-v0", num_envs=2, autoreset_mode="SameStep")
    env = BatchVecEnv(RescaleAction(scaled, -1, 1))
    assert env.action_space.low.tolist() == [-1, -1, -1]
    plain.reset(seed=2)
    env.seed(2)
    env.reset()
    seen = plain.step(np.array([[0, 0.5, 0]] * 2, np.float32))[0]
    np.testing.assert_allclose(env.step(np.array([[0, 0, -1]] * 2, np.float32))[0], seen, atol=1e-6)


def test_pictures_of_all_dreams_are_one():
    env = columns(4, render_mode="rgb_array", decode=white_column)
    env.reset()
    assert env.render().shape == (128, 128, 3)


def test_episodes_that_begin_again_a_step_later_are_refused():
    with pytest.raises(UserError, match='autoreset_mode="SameStep"'):
        BatchVecEnv(column(dream_vector_env))


def test_the_environments_are_there_without_it():
    code = "import sys, worldmodels.worlds.gym; sys.exit('stable_baselines3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
