"""What is looked at, against what it must be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldmodels.agent import load_agent
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import observed
from worldmodels.report import look
from worldmodels.runs import find
from worldmodels.types import Transitions


@pytest.fixture(scope="module", params=("take_cover", "car_racing"))
def agent(request):
    return load_agent(find(request.param).last("memory"))


@pytest.fixture
def episode(agent):
    rng = np.random.default_rng(0)
    z, action = rng.normal(size=(9, agent.memory.z_size)), rng.uniform(0, 1, (8, agent.memory.action_size))
    return z.astype(np.float32), action.astype(np.float32)


def test_the_share_of_variance_that_is_explained():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (50, 2, 2, 3)).astype(np.uint8)
    frames[:, 1, 1] = 7                                     # a pixel that never changes
    kept = frames.copy()
    kept[:, 0, 1] = frames[:, 0, 1].mean(0)
    kept[:, 1, 0] = 255 - frames[:, 1, 0]
    share = look.explained(frames, kept)
    assert share[0, 0] == 1 and share[0, 1] == pytest.approx(0, abs=1e-3) and share[1, 0] < -1 and np.isnan(share[1, 1])


def test_a_traversal_moves_one_dimension(agent):
    z = np.random.default_rng(0).normal(size=agent.memory.z_size)
    frames = look.traverse(agent, z, 3, np.array([z[3], -2.0, 2.0]))
    wanted = np.stack(3 * [z]).astype(np.float32)
    wanted[1:, 3] = -2, 2
    assert frames.shape == (3, 64, 64, 3) and np.array_equal(frames, agent.decode(wanted))
    assert not np.array_equal(frames[1], frames[2])


@torch.inference_mode()
def test_what_m_expects_is_what_it_dreams(agent, episode):
    """At each step, many dreams of it have the mean and the width that were expected, and the same reward and
    probability of the end."""
    z, action = (torch.from_numpy(a) for a in episode)
    found, generator = look.expected(agent, *episode), torch.Generator().manual_seed(0)
    for t, state in zip(range(len(action)), observed(agent.memory, z[None], action[None])):
        many = state.select(torch.zeros(20_000, dtype=torch.int64))
        noise = next(draw(agent.memory.imagine_noise, 20_000, generator, z))
        dreamt = agent.memory.imagine(many, action[t].expand(20_000, -1), 1.0, noise)
        drawn = agent.memory.latent(dreamt.state)
        assert ((drawn.mean(0) - found.z.mean[t]).abs() < 0.05 * found.z.stddev[t]).all()
        assert torch.allclose(dreamt.reward, found.reward[t], atol=1e-4)
        assert torch.allclose(dreamt.p_done, found.p_done[t], atol=1e-5)
    assert len(found.reward) == t + 1 == len(episode[1])


@torch.inference_mode()
def test_its_surprise_is_the_loss_that_it_was_trained_with(agent, episode):
    z, action = (torch.from_numpy(a)[None] for a in episode)
    zeros = torch.zeros(action.shape[:2])
    restart = zeros.clone()
    restart[:, 0] = 1
    batch = Transitions(z[:, :-1], action, z[:, 1:], zeros, zeros, restart)
    config = agent.memory.config
    agent.memory.config = replace(config, scheduled_sampling=0.0)
    _, metrics, _ = agent.memory.loss(batch, None, torch.Generator())
    agent.memory.config = config
    found = look.expected(agent, *episode)
    torch.testing.assert_close(-found.z.log_prob(z[0, 1:]).mean(), metrics["nll"], atol=1e-4, rtol=1e-4)
