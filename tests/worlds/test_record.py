"""Rollouts that are remembered are those that were played, each by itself."""

import numpy as np
import pytest
import torch

from worldmodels.agent import load_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs.policies import fresh_uniform
from worldmodels.envs.toy import Toy, position
from worldmodels.worlds.collect import RandomPolicy
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.record import Recorder, record
from worldmodels.worlds.rollout import rollout

SEEDS = range(50, 60)


@pytest.fixture
def agent(toy_run):
    return load_agent(toy_run)


@pytest.fixture
def game(agent):
    """Three at a time."""
    return RealWorld(Toy, agent.vision, agent.memory, max_batch=3)


@pytest.fixture
def spec():
    return PolicySpec(LinearConfig(), {"parameters": np.random.default_rng(0).normal(size=(len(SEEDS), 13))})


def recorded(world, agent, spec, see):
    """The tracks of an episode for each of SEEDS, as they ended, and what `rollout` said of them."""
    ended = []
    played = rollout(Recorder(world, see, ended.append), agent.policy_of(spec), SEEDS)
    return ended, played


def test_each_episode_is_handed_over_once_as_it_ends_aligned_in_time(agent, game, spec):
    """Frame t, action t -> reward t, end t, frame t + 1; also of the episodes that begin behind others."""
    tracks, played = recorded(game, agent, spec, lambda: list(map(np.copy, game.frames)))
    assert sorted(track.seed for track in tracks) == list(SEEDS) and len(set(played.lengths.tolist())) > 3
    for track in tracks:
        episode, row = track.episode(), SEEDS.index(track.seed)
        assert len(episode.frames) == len(episode.action) + 1 == played.lengths[row] + 1
        p = [position(frame) for frame in episode.frames]
        assert p[0] == position(Toy().reset(seed=track.seed)[0])
        moved = [max(0, q + (1 if a >= 0 else -1)) for q, a in zip(p, episode.action[:, 0])]
        assert p[1:] == episode.reward.tolist() == moved
        assert episode.terminated.tolist() == [q == 15 for q in p[1:]]
        assert episode.truncated.tolist() == [False] * (len(p) - 2) + [p[-1] != 15]
        assert episode.reward.sum() == played.returns[row]


def test_to_be_remembered_changes_nothing(agent, game, spec):
    _, played = recorded(game, agent, spec, lambda: [None] * len(game.envs))
    alone = rollout(game, agent.policy_of(spec), SEEDS)
    assert torch.equal(played.returns, alone.returns) and torch.equal(played.lengths, alone.lengths)


def test_episodes_of_the_dream_are_handed_over_once_too(agent):
    """Where a few dead dreams would go on being stepped among many: they may well die again."""
    agent.memory.head.bias.data[-1] = -2
    world, seeds, tracks = DreamWorld(agent.memory, None, DreamConfig(max_steps=30)), range(60), []
    world.starts = lambda seeds: agent.memory.initial(torch.tensor([[seed / 30.0] * 4 for seed in seeds]))
    spec = PolicySpec(LinearConfig(), {"parameters": np.random.default_rng(0).normal(size=(1, 13))})
    see = lambda: list(agent.memory.latent(world.state).numpy().copy())
    played = rollout(Recorder(world, see, tracks.append), agent.policy_of(spec), seeds)
    assert sorted(track.seed for track in tracks) == list(seeds) and len(set(played.lengths.tolist())) > 8
    for track in tracks:
        episode = track.episode()
        assert len(episode.action) == played.lengths[track.seed]
        assert episode.reward.sum() == pytest.approx(played.returns[track.seed].item(), abs=1e-4)
        assert np.array_equal(episode.frames[0], np.full(4, track.seed / 30, np.float32))


@pytest.fixture
def recording(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    picture = lambda: (world.envs[0].render(), world.frames[0])
    return lambda steps: record(world, agent.memory, RandomPolicy(fresh_uniform, "cpu"), 3, picture, steps)


def test_a_recording_is_aligned_in_time_and_ends_in_time(agent, recording):
    for steps in (6, 1000):
        played = recording(steps)
        count = min(steps, 40)
        assert len(played.action) == len(played.reward) == count
        assert len(played.frames) == len(played.seen) == len(played.features) == count + 1
        p = [position(frame) for frame in played.seen]
        moved = [max(0, q + (1 if a >= 0 else -1)) for q, a in zip(p, played.action[:, 0])]
        assert p[1:] == played.reward.tolist() == moved
        np.testing.assert_array_equal(played.frames, played.seen)
        assert np.array_equal(played.latent, played.features[:, :agent.memory.z_size])


def test_a_recording_is_an_episode_that_the_clock_ends_where_the_watching_does(recording):
    played = recording(6)
    episode = played.encoded()
    assert episode.frames is played.latent and episode.reward is played.reward
    assert not episode.terminated.any() and episode.truncated.tolist() == [False] * 5 + [True]
