"""The real game through V and M, on the toy world whose frames name their position."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodels.envs.toy import Toy, position
from worldmodels.runs import Run
from worldmodels.types import UserError
from worldmodels.worlds.agent import LARGEST, SMALLEST, RealJob, load_agent, load_controller, parts
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.rollout import rollout


@pytest.fixture
def agent(toy_run):
    return load_agent(toy_run)[0]


def controllers(agent, count):
    return np.random.default_rng(0).normal(size=(count, agent.memory.feature_size + 1)) * 3


def test_frames_latents_rewards_and_ends_belong_together(agent):
    """With a V of next to no variance: z is that of the frame on show, the memory has observed all before it."""
    agent.vision.posterior.weight.data[4:], agent.vision.posterior.bias.data[4:] = 0, -40
    world = RealWorld(lambda: Toy(max_steps=11), agent.vision, agent.memory)

    def encode():
        return agent.vision.encode(torch.from_numpy(world.frames))[0]

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
        first, again = world.reset([3]).inner[0], world.reset([4, 3]).inner[0]
    torch.testing.assert_close(again[1:], first, atol=1e-5, rtol=0)
    mu, log_var = agent.vision.encode(torch.from_numpy(world.frames))
    assert (again - mu).abs().min() > 1e-4 and not torch.allclose(again[0], again[1])
    noise = []
    with torch.inference_mode():
        for seed in range(200):
            z = world.reset([seed]).inner[0]
            mu, log_var = agent.vision.encode(torch.from_numpy(world.frames))
            noise.append((z - mu) / torch.exp(log_var / 2))
    noise = torch.cat(noise)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_lockstep_equals_one_at_a_time(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    parameters, seeds = controllers(agent, 6), [10, 11, 12, 13, 14, 15]
    together = rollout(world, agent.policy(parameters), seeds)
    for i, seed in enumerate(seeds):
        alone = rollout(world, agent.policy(parameters[i:i + 1]), [seed])
        assert alone.lengths[0] == together.lengths[i]
        torch.testing.assert_close(alone.returns[0], together.returns[i])
    assert len(set(together.returns.tolist())) > 3


def test_games_are_taken_again_for_the_episodes_that_wait(agent):
    """Three games play ten episodes: as if there were ten, and none is stepped after its end."""
    made = []

    def make():
        made.append(Toy())
        return made[-1]

    parameters, seeds = controllers(agent, 10), list(range(10))
    few = rollout(RealWorld(make, agent.vision, agent.memory, lanes=3), agent.policy(parameters), seeds)
    many = rollout(RealWorld(Toy, agent.vision, agent.memory), agent.policy(parameters), seeds)
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

    parameters, seeds = controllers(agent, 3), [1, 2, 3]
    wide = rollout(RealWorld(lambda: Wide(Toy()), agent.vision, agent.memory, shrink), agent.policy(parameters), seeds)
    plain = rollout(RealWorld(Toy, agent.vision, agent.memory), agent.policy(parameters), seeds)
    assert torch.equal(wide.returns, plain.returns)
    assert set(seen) <= {(n, 64, 128, 3) for n in (1, 2, 3)} and (3, 64, 128, 3) in seen


@pytest.mark.parametrize("count", (1, 15, 16, 40, 100, 1024, 5000))
def test_jobs_shrink_towards_the_end(count):
    """Each episode is in one job; large ones come first, and the last worker waits for a small one."""
    sizes = [len(range(count)[part]) for part in parts(count)]
    assert [i for part in parts(count) for i in range(count)[part]] == list(range(count))
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= LARGEST and (count < SMALLEST or sizes[-2:][0] <= 2 * SMALLEST)


def test_an_episode_does_not_depend_on_those_played_before(agent):
    world = RealWorld(Toy, agent.vision, agent.memory)
    parameters = controllers(agent, 3)
    first = rollout(world, agent.policy(parameters), [1, 2, 3])
    rollout(world, agent.policy(parameters[:2]), [7, 8])
    again = rollout(world, agent.policy(parameters), [1, 2, 3])
    assert torch.equal(first.returns, again.returns) and torch.equal(first.lengths, again.lengths)


def test_a_job_is_refused_when_v_or_m_have_changed(toy_run):
    _, digest = load_agent(toy_run)
    job = RealJob(toy_run, digest, 5, (), np.zeros((2, 13)), (0, 1))
    assert job()[1].tolist() == [5, 5]
    with pytest.raises(UserError, match="changed"):
        RealJob(toy_run, "another-digest", 5, (), np.zeros((2, 13)), (0, 1))()


@pytest.mark.parametrize("change, named", (
    (lambda info: info["memory"].update(hidden_size=9), "memory.safetensors.*train_memory"),
    (lambda info: info["memory"].update(of_tomorrow=1), "another version.*of_tomorrow"),
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


def test_a_controller_of_another_memory_is_refused(toy_run, tmp_path):
    run = Run(tmp_path)
    run.save("controller", {"parameters": torch.zeros(3)}, {"agent_digest": "a"})
    assert load_controller(run, "a")["parameters"].tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="another V or M"):
        load_controller(run, "b")


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
