"""Collected episodes hold what happened, aligned in time."""

import numpy as np
import torch

from worldmodels import episodes
from worldmodels.envs import TASKS
from worldmodels.envs.policies import fresh_uniform
from worldmodels.envs.toy import position
from worldmodels.worlds.collect import JOBS, TOGETHER, CollectConfig, CollectJob, RandomPolicy, collect_jobs, make_env

CONFIG = CollectConfig(max_steps=40, policy="fresh")


def test_a_stored_episode_is_aligned_in_time(tmp_path):
    """Frame t, action t -> reward t, end t, frame t + 1."""
    for seed in range(5):
        played = CollectJob(TASKS["toy"], CONFIG, (seed,), kept=True)()
        played.write(tmp_path)
        (steps,), (total,) = played.steps, played.returns
        episode = episodes.read(episodes.episode_path(tmp_path, seed))
        assert len(episode.frames) == steps + 1 and len(episode.action) == len(episode.reward) == steps
        p = [position(frame) for frame in episode.frames]
        assert p[1:] == [max(0, q + (1 if a >= 0 else -1)) for q, a in zip(p, episode.action[:, 0])]
        assert episode.reward.tolist() == p[1:] and total == sum(p[1:])
        assert episode.terminated.tolist() == [q == 15 for q in p[1:]]
        assert episode.truncated.tolist() == [False] * (steps - 1) + [p[-1] != 15]


def stored(folder, played):
    """Its episode, of seed 3, from its file."""
    played.write(folder)
    return episodes.read(episodes.episode_path(folder, 3))


def test_an_episode_is_a_function_of_its_seed(tmp_path):
    first, second = (CollectJob(TASKS["toy"], CONFIG, (3,), kept=True)() for _ in range(2))
    assert first[:2] == second[:2] and list(first.files) == list(second.files) == [3]
    for a, b in zip(*(stored(tmp_path / name, played) for name, played in (("a", first), ("b", second)))):
        np.testing.assert_array_equal(a, b)


def test_every_task_is_collected_with_each_of_its_policies():
    for task in list(TASKS.values()):
        for policy in task.policies:
            played = CollectJob(task, CollectConfig(max_steps=3, policy=policy), (0,))()
            assert played.steps.tolist() == [3] and not played.files
    make_env.cache_clear()              # which ends the game's engine


def test_a_random_policy_keeps_its_streams_when_rollouts_are_replaced():
    """A new rollout's stream is that of its own seed, and those that go on keep theirs."""
    policy, alone, new = (RandomPolicy(fresh_uniform, "cpu") for _ in range(3))
    policy.reset([3, 4, 5])
    alone.reset([5])
    new.reset([6])
    assert torch.equal(policy(None)[2:], alone(None))
    policy.select_and_reset(torch.tensor([2, 0]), [6])
    actions = policy(None)
    assert actions.shape == (3, 1)
    assert torch.equal(actions[:1], alone(None)) and torch.equal(actions[2:], new(None))


def test_a_game_can_be_played_on_after_its_end():
    """The random controller of this seed leaves CarRacing's playfield after 233 frames."""
    ended, whole = (CollectJob(TASKS["car_racing"], CollectConfig(max_steps=250, ignore_end=ignored), (9,)).play(9)
                    for ignored in (False, True))
    assert len(ended.moments) == 234 and ended.moments[-1][2:] == (True, False)
    assert len(whole.moments) == 250 and whole.moments[-1][2:] == (False, True)
    assert not any(terminated for *_, terminated, _ in whole.moments)
    for a, b in zip(ended.moments[:-1], whole.moments):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]
    make_env.cache_clear()


def test_many_episodes_share_a_job_and_are_the_same(tmp_path):
    """Few have a job each, so that all workers play."""
    sizes = lambda count: {len(job.seeds) for job in collect_jobs(TASKS["toy"], CONFIG, range(count))}
    assert sizes(0) == set() and sizes(JOBS) == {1} and sizes(TOGETHER * JOBS) == sizes(10_000) == {TOGETHER}
    together = CollectJob(TASKS["toy"], CONFIG, (2, 3, 4), kept=True)()
    alone = CollectJob(TASKS["toy"], CONFIG, (3,), kept=True)()
    assert list(together.files) == [2, 3, 4]
    assert (together.steps[1], together.returns[1]) == (alone.steps[0], alone.returns[0])
    for a, b in zip(stored(tmp_path / "together", together), stored(tmp_path / "alone", alone)):
        np.testing.assert_array_equal(a, b)
