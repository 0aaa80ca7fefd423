"""The dream and the game as Gymnasium environments, on the published runs."""

import multiprocessing
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordVideo, TimeAwareObservation
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn

import worldmodels  # noqa: F401   registers them
from worldmodels.envs.toy import POSITIONS, Toy
from worldmodels.runs import Run, find
from worldmodels.types import Imagined, NoiseSize, State, UserError
from worldmodels.worlds.gym import LatentEnv, LatentVectorEnv, dream_env, dream_vector_env

NAMES = {"take_cover": "TakeCover", "car_racing": "CarRacing"}
WORLDS = ("Dream", "Real")
EVERY = [f"worldmodels/{name}{world}-v0" for name in NAMES.values() for world in WORLDS]


class Column(nn.Module):
    """A user's own memory: the toy world. z [B, 1] is the position of its column."""

    z_size = action_size = 1
    feature_sizes = {"z": 1}
    observe_noise, imagine_noise = NoiseSize(), NoiseSize({"done": 1})

    def __init__(self):
        super().__init__()
        self.speed = nn.Parameter(torch.ones(1))

    def initial(self, z, noise=None):
        return State(z, (z,))

    def imagine(self, state, action, temperature, noise):
        z = (state.inner[0] + self.speed * torch.where(action >= 0, 1, -1)).clamp(min=0)
        position = z[:, 0]
        p_done = (position >= POSITIONS - 1).float()
        return Imagined(self.initial(z), position, p_done, noise["done"][:, 0] < p_done, torch.zeros_like(position),
                        lambda: z)

    def latent(self, state):
        return state.inner[0]


def column(make=dream_env, starts=range(8), **options):
    """The dream of Column, beginning at one of these positions."""
    memory = Column()
    return make(memory, memory.initial(torch.tensor(starts, dtype=torch.float32)[:, None]), Toy.action_space, **options)


def white_column(z):
    """Frames of the toy world at positions z [B, 1]."""
    frames = np.zeros((len(z), 64, 64, 3), np.uint8)
    for frame, (position,) in zip(frames, z.int().tolist()):
        frame[:, 4 * position:4 * position + 4] = 255
    return frames


def played(env, seed, steps=30):
    """Observations and rewards under random actions."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    env.action_space.seed(0)
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(observations), np.array(rewards)


@pytest.mark.parametrize("id", EVERY)
def test_gymnasiums_checker_finds_nothing(id):
    env = gymnasium.make(id, render_mode="rgb_array", max_episode_steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("id", EVERY)
def test_a_seed_is_an_episode(id):
    env, other = gymnasium.make(id), gymnasium.make(id)
    first, again, another = played(env, 3), played(other, 3), played(other, 4)
    for a, b in zip(first, again):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0][0], another[0][0])
    without = [env.reset()[0] for _ in range(2)]
    assert not np.array_equal(*without)
    env.close()
    other.close()


@pytest.mark.parametrize("name", NAMES.values())
def test_dream_and_game_have_the_same_spaces(name):
    dream, game = (gymnasium.make(f"worldmodels/{name}{world}-v0") for world in WORLDS)
    assert dream.observation_space == game.observation_space and dream.action_space == game.action_space
    game.close()


def test_the_dream_of_a_seed_is_that_of_the_worlds():
    env = LatentEnv("take_cover", "dream")
    observations, rewards = played(env, 7)
    env.action_space.seed(0)
    with torch.inference_mode():
        assert torch.equal(env.world.reset([7]).features[0], torch.from_numpy(observations[0]))
        for observation, reward in zip(observations[1:], rewards):
            step = env.world.step(torch.from_numpy(env.action_space.sample()[None]))
            assert torch.equal(step.state.features[0], torch.from_numpy(observation)) and step.reward.item() == reward


@pytest.mark.parametrize("world", ("dream", "real"))
@pytest.mark.parametrize("task, steps", (("take_cover", 7), ("car_racing", 5)))
def test_a_batch_is_as_many_environments(task, steps, world):
    """Through ends and beginnings, which come at different times because the rollouts were begun at different ones."""
    count, options = 3, {"max_episode_steps": steps}
    batch = LatentVectorEnv(task, world, num_envs=count, **options)
    singles = [LatentEnv(task, world, **options) for _ in range(count)]
    batch.action_space.seed(1)
    seen, _ = batch.reset(seed=5)
    expected = [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_allclose(seen, expected, atol=1e-4)
    batch.ended[1] = True                   # the second begins anew, and so is out of step with the others from here on
    ended = [False, True, False]
    for _ in range(3 * steps):
        action = batch.action_space.sample()
        seen, *outcome, _ = batch.step(action)
        for i, env in enumerate(singles):
            row = (*env.reset()[:1], 0.0, False, False) if ended[i] else env.step(action[i])[:4]
            np.testing.assert_allclose(seen[i], row[0], atol=1e-3)
            assert outcome[0][i] == pytest.approx(row[1], abs=1e-3) and (outcome[1][i], outcome[2][i]) == row[2:]
            ended[i] = row[2] or row[3]
    for env in (batch, *singles):
        env.close()


@pytest.mark.parametrize("mode", (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP))
def test_a_batch_says_what_gymnasiums_own_says(mode):
    """To the last bit and key of info, through ends and truncations that come at different times."""
    batch = column(dream_vector_env, num_envs=5, max_episode_steps=12, autoreset_mode=mode)
    singles = SyncVectorEnv([lambda: column(max_episode_steps=12)] * 5, autoreset_mode=mode)
    assert batch.metadata["autoreset_mode"] == singles.metadata["autoreset_mode"] == mode
    batch.action_space.seed(1)
    assert data_equivalence(batch.reset(seed=7), singles.reset(seed=7))
    terminated = truncated = 0
    for _ in range(100):
        action = batch.action_space.sample() + 0.6
        seen, expected = batch.step(action), singles.step(action)
        assert seen[4].keys() == expected[4].keys() and data_equivalence(seen[:4], expected[:4])
        final = [infos.pop("final_obs", np.empty(0)) for infos in (seen[4], expected[4])]
        assert data_equivalence(list(final[0]), list(final[1])) and data_equivalence(seen[4], expected[4])
        terminated, truncated = terminated + seen[2].sum(), truncated + seen[3].sum()
    assert terminated > 5 and truncated > 5


def test_statistics_of_a_batch_are_those_of_its_episodes():
    returns = []
    for mode in AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP:
        env = RecordEpisodeStatistics(column(dream_vector_env, num_envs=3, max_episode_steps=5, starts=[3],
                                             autoreset_mode=mode))
        env.reset(seed=0)
        for _ in range(20):
            env.step(np.ones((3, 1), np.float32))
        assert set(env.length_queue) == {5}
        returns.append(set(env.return_queue))
    assert returns == [{4 + 5 + 6 + 7 + 8}] * 2


def test_make_vec_takes_the_way_to_begin_again():
    for mode in "SameStep", AutoresetMode.SAME_STEP:
        env = gymnasium.make_vec("worldmodels/TakeCoverDream-v0", num_envs=2, max_episode_steps=1, autoreset_mode=mode)
        first, begun = env.reset(seed=0)
        seen, _, _, truncated, info = env.step(env.action_space.sample())
        assert truncated.all() and info["_final_obs"].all() and not (info["seed"] == begun["seed"]).any()
        assert np.array_equal(info["final_info"]["seed"], begun["seed"])
        assert not np.array_equal(info["final_obs"][0], seen[0])
    with pytest.raises(UserError, match="autoreset_mode .*must be NextStep or SameStep"):
        gymnasium.make_vec("worldmodels/TakeCoverDream-v0", autoreset_mode=AutoresetMode.DISABLED)


def test_the_seed_in_the_info_begins_the_episode_again():
    env = LatentEnv("take_cover", "dream")
    env.reset(seed=1)
    drawn, info = env.reset()
    again, said = env.reset(seed=info["seed"])
    assert np.array_equal(drawn, again) and info == said
    assert env.step(env.action_space.sample())[4]["seed"] == info["seed"]


def test_a_dreams_info_has_the_probability_of_an_end():
    env = column(starts=[13])
    env.reset(seed=0)
    said = [env.step(np.ones(1))[2:] for _ in range(2)]
    assert said == [(False, False, {"p_done": 0.0, "uncertainty": 0.0, "seed": 0}),
                    (True, False, {"p_done": 1.0, "uncertainty": 0.0, "seed": 0})]


@pytest.mark.parametrize("id, steps", ((EVERY[0], 525), (EVERY[1], 525), (EVERY[2], 250), (EVERY[3], 250)))
def test_the_spec_has_the_length_of_an_episode(id, steps):
    env, batch = gymnasium.make(id), gymnasium.make_vec(id, num_envs=2)
    assert env.spec.max_episode_steps == batch.spec.max_episode_steps == steps
    assert gymnasium.make(env.spec).spec.max_episode_steps == steps
    assert gymnasium.make(id, max_episode_steps=7).spec.max_episode_steps == 7
    assert gymnasium.make_vec(id, num_envs=2, max_episode_steps=7).spec.max_episode_steps == 7
    assert gymnasium.make_vec(id, num_envs=2, max_episode_steps=7_000).spec.max_episode_steps == steps


@pytest.mark.parametrize("make", (lambda: gymnasium.make("worldmodels/CarRacingDream-v0"),
                                  lambda: column(max_episode_steps=250)))
def test_time_can_be_observed_and_ends_at_one(make):
    env = TimeAwareObservation(make(), normalize_time=True)
    observation, _ = env.reset(seed=0)
    left, ended = env.action_space.low, False
    times = [observation[-1]]
    while not ended:
        observation, _, terminated, truncated, _ = env.step(left)
        ended = terminated or truncated
        times.append(observation[-1])
    assert truncated and not terminated and times[0] == 0 and times[-1] == 1 and len(times) == 251


def test_make_vec_makes_the_batch():
    env = gymnasium.make_vec("worldmodels/CarRacingDream-v0", num_envs=4, render_mode="rgb_array")
    assert isinstance(env, LatentVectorEnv)
    first, _ = env.reset(seed=[4, 3, 2, 1])
    assert first.shape == (4, *env.single_observation_space.shape) and first in env.observation_space
    assert np.array_equal(env.reset(seed=1)[0], first[::-1])
    frames = env.render()
    assert len(frames) == 4 and frames[0].shape == (64, 64, 3) and frames[0].dtype == np.uint8
    env.close()


@pytest.mark.parametrize("world", ("dream", "real"))
def test_actions_beyond_their_bounds_are_those_at_them(world):
    envs = [LatentEnv("car_racing", world) for _ in range(2)]
    steps = []
    for env, action in zip(envs, ([3.0, 7.0, -2.0], [1, 1, 0])):
        env.reset(seed=4)
        steps.append([env.step(action)[0] for _ in range(5)][-1])
        env.close()
    assert np.array_equal(*steps)


@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_an_action_that_is_not_finite_is_refused(value):
    single, batch = column(), column(dream_vector_env, num_envs=2)
    single.reset(seed=0)
    batch.reset(seed=0)
    for env, action in (single, [value]), (batch, [[0.0], [value]]):
        with pytest.raises(ValueError, match=f"an action of {value}: must be finite"):
            env.step(action)


def test_only_an_episode_under_way_is_stepped():
    env = column(starts=[14], render_mode="rgb_array", decode=white_column)
    for method in env.render, lambda: env.step(np.ones(1)):
        with pytest.raises(ResetNeeded, match="before the first reset"):
            method()
    env.reset(seed=0)
    assert env.step(np.ones(1))[2]
    with pytest.raises(ResetNeeded, match="the episode is over"):
        env.step(np.ones(1))
    env.reset()
    env.step(np.ones(1))


@pytest.mark.parametrize("env", (column(), column(dream_vector_env)))
def test_reset_takes_no_options(env):
    env.reset(options={})
    with pytest.raises(ValueError, match="no option low, high"):
        env.reset(options={"low": 0, "high": 1})


@pytest.mark.parametrize("seed", range(5))
def test_a_users_own_memory_is_an_environment(seed):
    """Its dream is the toy world that it knows."""
    env, toy = column(max_episode_steps=40), Toy()
    observation, _ = env.reset(seed=seed)
    toy.reset()
    toy.position, ended = int(observation[0]), False
    env.action_space.seed(seed)
    while not ended:
        action = env.action_space.sample()
        observation, *outcome, _ = env.step(action)
        _, *expected, _ = toy.step(action)
        ended = any(expected[1:])
        assert outcome == expected and observation[0] == toy.position


def test_gymnasiums_checker_finds_nothing_in_a_users_own():
    env = column(render_mode="rgb_array", decode=white_column)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    observation, _ = env.reset(seed=0)
    assert env.render()[0, :, 0].argmax() == 4 * observation[0]


@pytest.mark.parametrize("options, named", (
    ({"temperature": 0}, "temperature 0: must be at least"),
    ({"max_episode_steps": 0}, "max_episode_steps 0: must be at least 1"),
    ({"observe": "h"}, "observe 'h'"),
    ({"render_mode": "rgb_array"}, "no pictures without decode"),
))
def test_a_users_own_memory_is_shown_only_as_it_can_be(options, named):
    with pytest.raises(UserError, match=named):
        column(**options)


@pytest.mark.parametrize("space", (Discrete(3), Box(-1, 1, (2,))))
def test_a_users_own_memory_has_actions_of_its_own_size(space):
    memory = Column()
    with pytest.raises(UserError, match=r"must be a Box of shape \(1,\)"):
        dream_env(memory, memory.initial(torch.zeros(1, 1)), space)


def test_what_is_observed_is_the_callers_own():
    env = LatentEnv("take_cover", "dream", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    observation[:] = 0
    assert np.array_equal(env.render(), frame)


def test_a_batch_wants_a_seed_for_each():
    with pytest.raises(ValueError, match="2 seeds for 3"):
        LatentVectorEnv("take_cover", "dream", num_envs=3).reset(seed=[1, 2])


def test_no_episode_is_longer_than_the_game():
    longest = LatentEnv("take_cover", "dream").world.config.max_steps
    assert LatentEnv("take_cover", "dream", max_episode_steps=10_000).world.config.max_steps == longest == 525


def test_z_is_where_the_features_begin():
    features, z = (LatentEnv("take_cover", "dream", observe=observe) for observe in ("features", "z"))
    assert z.observation_space.shape[0] < features.observation_space.shape[0]
    a, b = played(features, 2)[0], played(z, 2)[0]
    assert np.array_equal(a[:, :b.shape[1]], b)


def test_the_temperature_is_the_runs_own_unless_another_is_given():
    own, same, other = (LatentEnv("take_cover", "dream", **options)
                        for options in ({}, {"temperature": 1.05}, {"temperature": 0.1}))
    a, b, c = (played(env, 2)[0] for env in (own, same, other))
    assert np.array_equal(a, b) and np.array_equal(a[0], c[0]) and not np.array_equal(a[1], c[1])


def test_a_video_can_be_recorded(tmp_path):
    dream = gymnasium.make("worldmodels/TakeCoverDream-v0", render_mode="rgb_array", max_episode_steps=9)
    env = RecordVideo(dream, str(tmp_path), lambda episode: True)
    played(env, 1)
    env.close()
    assert (tmp_path / "rl-video-episode-0.mp4").stat().st_size > 1000


def test_an_end_that_the_clock_makes_is_a_truncation():
    env = LatentEnv("car_racing", "dream", max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("task, world, options, named", (
    ("take_cover", "dream", {"run": "nowhere"}, "no run nowhere of take_cover"),
    ("take_cover", "dream", {"observe": "pixels"}, "observe 'pixels': must be features or z"),
    ("take_cover", "dream", {"temperature": 0}, "temperature 0: must be at least"),
    ("take_cover", "dream", {"temperature": np.inf}, "temperature inf: must be finite"),
    ("take_cover", "dream", {"temperature": None}, "temperature None: must be a number"),
    ("take_cover", "dream", {"start": "last"}, "start 'last': must be first or anywhere"),
    ("take_cover", "dream", {"start": ["anywhere"]}, "start .*first or anywhere"),
    ("take_cover", "dream", {"start": "anywhere", "warmup": -1}, "warmup -1: must be at least 0"),
    ("take_cover", "dream", {"max_episode_steps": 0}, "max_episode_steps 0: must be at least 1"),
    ("take_cover", "dream", {"render_mode": "human"}, "render_mode 'human': must be rgb_array"),
    ("take_cover", "real", {"repeat": 2.5}, "repeat 2.5: must be a whole number"),
    ("take_cover", "real", {"skill": 6}, "skill 6: must be 1 to 5"),
    ("car_racing", "real", {"drawing": "bad"}, "drawing 'bad': must be fast or official"),
    ("take_cover", "dream", {"skill": 5}, "no option skill"),
    ("car_racing", "real", {"skill": 5}, "no option skill"),
    ("take_cover", "dream", {"run": "PUBLISHED"}, "is a run of car_racing"),
))
def test_what_cannot_be_opened_says_why(task, world, options, named):
    if options.get("run") == "PUBLISHED":
        options = {"run": find("car_racing").root}
    with pytest.raises(UserError, match=named):
        LatentEnv(task, world, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_to_be_missing():
    with pytest.raises(UserError, match="device 'cuda'"):
        LatentEnv("take_cover", "dream", device="cuda")


@pytest.mark.parametrize("count", (1, 2, 4))
def test_an_action_of_another_shape_is_refused(count):
    env = LatentVectorEnv("take_cover", "dream", num_envs=3)
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"of shape \\({count}, 1\\): must be \\(3, 1\\)"):
        env.step(np.zeros((count, 1), np.float32))
    single = LatentEnv("take_cover", "dream")
    single.reset(seed=0)
    with pytest.raises(ValueError, match="must be"):
        single.step(0.5)


ASYNCHRONOUS = """
import gymnasium, torch, worldmodels
forked = {"vectorization_mode": "async", "vector_kwargs": {"context": "fork"}}
env = gymnasium.make_vec("worldmodels/TakeCoverDream-v0", num_envs=2, **forked)
env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
print("played")
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no process can be forked here")
def test_gymnasiums_own_worker_processes_can_have_it():
    """Forked from a process whose torch has had threads, which a forked one would wait for without end."""
    done = subprocess.run([sys.executable, "-c", ASYNCHRONOUS], capture_output=True, text=True, timeout=120)
    assert done.stdout == "played\n", done.stderr


def test_a_run_is_found_by_its_folder_and_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("take_cover") == find("take_cover", "laptop") == find("take_cover", find("take_cover").root)
    mine = tmp_path / "data" / "take_cover" / "laptop"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("{}")
    assert find("take_cover", "laptop").root.samefile(mine) and find("take_cover") != Run(mine)
    with pytest.raises(UserError, match="no vision in"):
        LatentEnv("take_cover", "dream", run="laptop")


def test_the_last_round_is_the_last_that_has_it():
    run = find("car_racing")
    assert run.last("memory").round == 6 and run.last("vision").round == 3


def test_only_a_round_is_a_round(tmp_path):
    for name in ("round-2", "round-10", "round-11 copy", "round-12.bak", "old-round-13"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "memory.safetensors").touch()
    assert Run(tmp_path).last("memory").round == 10


def test_importing_it_loads_no_torch():
    """Worker processes set their number of threads before they import it."""
    code = "import sys, worldmodels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
