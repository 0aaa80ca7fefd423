"""The GRU memory against the equations of its module, written out by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.memory.test_memories import A, B, T, Z, make, noise, transitions, watched
from worldmodels.memory import GRU
from worldmodels.memory.gru import GRUConfig


@pytest.fixture
def memory():
    return make("gru", {})


def by_hand(memory, z, h, action):
    """h' (Cho et al. 2014, as torch has it), and the heads' z', reward and done logit."""
    H, x = memory.config.hidden_size, torch.cat([z, action], -1)
    of_x = x @ memory.cell.weight_ih.t() + memory.cell.bias_ih
    of_h = h @ memory.cell.weight_hh.t() + memory.cell.bias_hh
    reset = torch.sigmoid(of_x[:, :H] + of_h[:, :H])
    update = torch.sigmoid(of_x[:, H:2 * H] + of_h[:, H:2 * H])
    candidate = torch.tanh(of_x[:, 2 * H:] + reset * of_h[:, 2 * H:])
    h = (1 - update) * candidate + update * h
    out = h @ memory.head.weight.t() + memory.head.bias
    return h, out[:, :-2], out[:, -2], out[:, -1]


def test_its_number_of_parameters():
    Z, A, H = 32, 3, 256
    count = sum(p.numel() for p in GRU(GRUConfig(hidden_size=H), Z, A).parameters())
    assert count == 3 * H * (Z + A + H + 2) + (H + 1) * (Z + 2)


def test_a_step_is_that_of_the_equations(memory):
    state, action, z = watched(memory), torch.randn(B, A).double(), torch.randn(B, Z).double()
    h, mean, reward, logit = by_hand(memory, *state.inner, action)
    observed, imagined = memory.observe(state, action, z), memory.imagine(state, action, 1.0, noise(memory))
    torch.testing.assert_close(observed.features, torch.cat([z, h], 1))
    torch.testing.assert_close(imagined.state.features, torch.cat([mean, h], 1))
    torch.testing.assert_close(imagined.reward, reward)
    torch.testing.assert_close(imagined.p_done, logit.sigmoid())


def test_an_episode_begins_with_an_empty_memory(memory):
    z = torch.randn(B, Z).double()
    state = memory.initial(z)
    assert torch.equal(state.inner[0], z) and not state.inner[1].any()


@pytest.mark.parametrize("weights", ((1.0, 1.0, 1.0), (0.5, 2.0, 10.0)))
def test_the_loss_is_the_weighted_sum_of_the_errors_of_its_single_steps(memory, weights):
    reward_weight, done_weight, positive = weights
    memory.config = replace(memory.config, reward_weight=reward_weight, done_weight=done_weight,
                            done_positive_weight=positive)
    batch = transitions([(0, 0), (0, 7), (1, 0), (2, 0), (2, 3)])
    squared, error, done = [], [], []
    for b in range(B):
        for t in range(T):
            if batch.restart[b, t]:
                state = memory.initial(batch.z[b, t][None])
            _, mean, reward, logit = by_hand(memory, *state.inner, batch.action[b, t][None])
            state = memory.observe(state, batch.action[b, t][None], batch.next_z[b, t][None])
            squared.append((mean - batch.next_z[b, t]).square().sum() / Z)
            error.append((reward[0] - batch.reward[b, t]) ** 2)
            end = batch.terminated[b, t]
            done.append(-(positive * end * F.logsigmoid(logit[0]) + (1 - end) * F.logsigmoid(-logit[0])))
    loss, metrics, _ = memory.loss(batch, None, torch.Generator())
    for name, values in (("squared_error", squared), ("reward_error", error), ("done", done)):
        torch.testing.assert_close(metrics[name], torch.stack(values).mean())
    parts = metrics["squared_error"] + reward_weight * metrics["reward_error"] + done_weight * metrics["done"]
    torch.testing.assert_close(loss, parts)


def test_the_temperature_changes_nothing_and_the_noise_the_end_only(memory):
    state, action = watched(memory), torch.randn(B, A).double()
    first = memory.imagine(state, action, 0.1, {"done": torch.zeros(B, 1).double()})
    second = memory.imagine(state, action, 2.0, {"done": torch.ones(B, 1).double()})
    assert torch.equal(first.state.features, second.state.features)
    assert torch.equal(first.reward, second.reward) and torch.equal(first.p_done, second.p_done)
    assert first.done.all() and not second.done.any()


def test_death_by_threshold_is_a_positive_logit(memory):
    state, action = watched(memory), torch.zeros(B, A).double()
    memory.config = replace(memory.config, death="threshold")
    for logit in (-1.0, 0.5):
        memory.head.weight.data[-1], memory.head.bias.data[-1] = 0, logit
        assert (memory.imagine(state, action, 1.0, noise(memory)).p_done == float(logit > 0)).all()
