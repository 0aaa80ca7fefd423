"""Collected episodes hold what happened, aligned in time."""

import numpy as np

from worldmodels import episodes
from worldmodels.envs import TASKS
from worldmodels.envs.toy import position
from worldmodels.worlds.collect import CollectConfig, CollectJob, make_env

CONFIG = CollectConfig(max_steps=40, policy="fresh")


def test_a_stored_episode_is_aligned_in_time(tmp_path):
    """Frame t, action t -> reward t, end t, frame t + 1."""
    for seed in range(5):
        steps, total = CollectJob("toy", CONFIG, seed, tmp_path)()
        episode = episodes.read(episodes.episode_path(tmp_path, seed))
        assert len(episode.frames) == steps + 1 and len(episode.action) == len(episode.reward) == steps
        p = [position(frame) for frame in episode.frames]
        assert p[1:] == [max(0, q + (1 if a >= 0 else -1)) for q, a in zip(p, episode.action[:, 0])]
        assert episode.reward.tolist() == p[1:] and total == sum(p[1:])
        assert episode.terminated.tolist() == [q == 15 for q in p[1:]]
        assert episode.truncated.tolist() == [False] * (steps - 1) + [p[-1] != 15]


def test_an_episode_is_a_function_of_its_seed(tmp_path):
    first, second = ((CollectJob("toy", CONFIG, seed, tmp_path / name)(), episodes.read(episodes.episode_path(tmp_path / name, seed)))
                     for seed, name in ((3, "a"), (3, "b")))
    assert first[0] == second[0]
    for a, b in zip(first[1], second[1]):
        np.testing.assert_array_equal(a, b)


def test_every_task_is_collected_with_each_of_its_policies():
    for name, task in TASKS.items():
        for policy in task.policies:
            steps, _ = CollectJob(name, CollectConfig(max_steps=3, policy=policy), 0)()
            assert steps == 3
    make_env.cache_clear()              # which ends the game's engine
