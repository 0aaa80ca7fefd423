"""The real game through V and M, on the toy world whose frames name their position."""

from copy import copy
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from worldmodels.agent import load_agent, load_controller
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs.toy import Toy, position
from worldmodels.runs import Run
from worldmodels.types import UserError
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.rollout import rollout


@pytest.fixture
def agent(toy_run):
    return load_agent(toy_run)


def controllers(agent, count):
    config = LinearConfig()
    parameters = np.random.default_rng(0).normal(size=(count, agent.parameter_count(config))) * 3
    return PolicySpec(config, {"parameters": parameters})


def play(world, agent, spec, seeds):
    return rollout(world, agent.policy_of(spec), seeds)


def test_frames_latents_rewards_and_ends_belong_together(agent):
    """With a V of next to no variance: z is that of the frame on show, the memory has observed all before it."""
    agent.vision.posterior.weight.data[4:], agent.vision.posterior.bias.data[4:] = 0, -40
    world = RealWorld(lambda: Toy(max_steps=11), agent.vision, agent.memory)

    def encode():
        return agent.vision.encode(torch.from_numpy(world.frames)).mean

    with torch.inference_mode():
        state = world.reset([3, 4, 5])
        expected = agent.memory.initial(encode())
        for t in range(1, 12):
            torch.testing.assert_close(state.features, expected.features, atol=1e-5, rtol=0)
            action = torch.from_numpy(np.random.default_rng(t).uniform(-1, 1, (3, 1)).astype(np.float32))
            before = [position(frame) for frame in world.frames]
            step = world.step(action)
            after = [position(frame) for frame in world.frames]
            assert after == [max(0, p + (1 if a >= 0 else -1)) for p, a in zip(before, action)]
            assert step.reward.tolist() == after and step.reward.dtype == torch.float32
            assert step.done.tolist() == [p == 15 or t == 11 for p in after]
            state, expected = step.state, agent.memory.observe(expected, action, encode())


def test_latents_are_sampled_with_the_episodes_own_seed(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    with torch.inference_mode():
        first, again = (agent.memory.latent(world.reset(seeds)) for seeds in ([3], [4, 3]))
    torch.testing.assert_close(again[1:], first, atol=1e-5, rtol=0)
    mu = agent.vision.encode(torch.from_numpy(world.frames)).mean
    assert (again - mu).abs().min() > 1e-4 and not torch.allclose(again[0], again[1])
    noise = []
    with torch.inference_mode():
        for seed in range(200):
            z = agent.memory.latent(world.reset([seed]))
            mu, log_var = agent.vision.encode(torch.from_numpy(world.frames))
            noise.append((z - mu) / torch.exp(log_var / 2))
    noise = torch.cat(noise)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_a_memory_that_sees_means_gets_them(agent):
    memory = copy(agent.memory)
    memory.config = replace(memory.config, latent="mean")
    world = RealWorld(Toy, agent.vision, memory)
    with torch.inference_mode():
        for move in (lambda: world.reset([3, 4]), lambda: world.step(torch.ones(2, 1)).state):
            state = move()
            mu = agent.vision.encode(torch.from_numpy(world.frames)).mean
            torch.testing.assert_close(memory.latent(state), mu, atol=1e-5, rtol=0)


def test_lockstep_equals_one_at_a_time(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    spec, seeds = controllers(agent, 6), [10, 11, 12, 13, 14, 15]
    together = play(world, agent, spec, seeds)
    for i, seed in enumerate(seeds):
        alone = play(world, agent, spec.select([i]), [seed])
        assert alone.lengths[0] == together.lengths[i]
        torch.testing.assert_close(alone.returns[0], together.returns[i])
    assert len(set(together.returns.tolist())) > 3


def test_games_are_taken_again_for_the_episodes_that_wait(agent):
    """Three games play ten episodes: as if there were ten, and none is stepped after its end."""
    made = []

    def make():
        made.append(Toy())
        return made[-1]

    spec, seeds = controllers(agent, 10), list(range(10))
    few = play(RealWorld(make, agent.vision, agent.memory, max_batch=3), agent, spec, seeds)
    many = play(RealWorld(Toy, agent.vision, agent.memory), agent, spec, seeds)
    assert len(made) == 3
    assert torch.equal(few.lengths, many.lengths)
    torch.testing.assert_close(few.returns, many.returns)


def test_observations_are_shrunk_together(agent):
    """What the games show is not what V sees: here, of a picture beside each frame, the frame."""
    class Wide(gymnasium.ObservationWrapper):
        def observation(self, frame):
            return np.concatenate([frame, 255 - frame], 1)

    seen = []

    def shrink(pictures):
        seen.append(pictures.shape)
        return np.ascontiguousarray(pictures[:, :, :64])

    spec, seeds = controllers(agent, 3), [1, 2, 3]
    wide = play(RealWorld(lambda: Wide(Toy()), agent.vision, agent.memory, shrink), agent, spec, seeds)
    plain = play(RealWorld(Toy, agent.vision, agent.memory), agent, spec, seeds)
    assert torch.equal(wide.returns, plain.returns)
    assert set(seen) <= {(n, 64, 128, 3) for n in (1, 2, 3)} and (3, 64, 128, 3) in seen


def test_an_episode_does_not_depend_on_those_played_before(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    spec = controllers(agent, 3)
    first = play(world, agent, spec, [1, 2, 3])
    play(world, agent, spec.select([0, 1]), [7, 8])
    again = play(world, agent, spec, [1, 2, 3])
    assert torch.equal(first.returns, again.returns) and torch.equal(first.lengths, again.lengths)


@pytest.mark.parametrize("change, named", (
    (lambda info: info["memory"].update(hidden_size=9), "memory.safetensors.*train_memory"),
    (lambda info: info["memory"].update(of_tomorrow=1), "another version.*of_tomorrow"),
    (lambda info: info["memory"].update(kind="of_tomorrow"), "another version.*of_tomorrow"),
    (lambda info: info.update(vision_digest="of another"), "what another V saw"),
))
def test_a_memory_that_does_not_fit_is_refused_by_name(toy_run, tmp_path, change, named):
    run = Run(tmp_path)
    for name in ("vision", "memory"):
        tensors, info = toy_run.load(name, "")
        if name == "memory":
            change(info)
        run.save(name, tensors, info)
    with pytest.raises(UserError, match=named):
        load_agent(run)


def test_a_controller_of_another_memory_is_refused(agent, tmp_path):
    run = Run(tmp_path)
    for digest in (agent.digest, "of another"):
        run.save("controller", {"parameters": torch.zeros(13)}, {"agent_digest": digest, "controller": LinearConfig()})
        if digest == agent.digest:
            spec = load_controller(run, agent)
            assert spec.config == LinearConfig() and spec.arrays["parameters"].tolist() == [[0] * 13]
    with pytest.raises(UserError, match="another V or M"):
        load_controller(run, agent)


def test_what_terminates_is_not_truncated(agent):
    """Also where the clock runs out with the same step."""
    class Both(Toy):
        def step(self, action):
            return *super().step(action)[:2], True, True, {}

    world = RealWorld(Both, agent.vision, agent.memory)
    with torch.inference_mode():
        world.reset([3])
        step = world.step(torch.zeros(1, 1))
    assert step.terminated and not step.truncated and step.done
