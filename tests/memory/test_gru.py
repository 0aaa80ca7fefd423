"""The GRU memory against the equations of its module, written out by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.memory.test_memories import A, B, T, Z, make, noise, transitions, watched
from worldmodels.memory import GRU, gru
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.heads import own_steps


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


def test_scheduled_sampling_reads_what_was_expected_one_step_before(memory, monkeypatch):
    batch = transitions([(1, 5)])
    memory.config = replace(memory.config, scheduled_sampling=1.0)
    own = (torch.arange(T - 1)[:, None] % 3 != torch.arange(B)) & (batch.restart.t()[1:] == 0)
    monkeypatch.setattr(gru, "own_steps", lambda share, restart, generator: own)
    z = batch.z.clone()
    for b in range(B):
        state = memory.initial(batch.z[b, 0][None])
        for t in range(T - 1):
            if batch.restart[b, t]:
                state = memory.initial(batch.z[b, t][None])
            _, mean, _, _ = by_hand(memory, *state.inner, batch.action[b, t][None])
            state = memory.observe(state, batch.action[b, t][None], batch.z[b, t + 1][None])
            if own[t, b]:
                z[b, t + 1] = mean[0]
    found, *_ = memory.loss(batch, None, torch.Generator())
    memory.config = replace(memory.config, scheduled_sampling=0.0)
    torch.testing.assert_close(found, memory.loss(batch._replace(z=z), None, torch.Generator())[0])


def test_own_steps_are_up_to_a_share_in_every_stream_another_and_never_a_first():
    restart = torch.zeros(200, 500)
    restart[50, 3] = 1
    own = own_steps(0.8, restart, torch.Generator().manual_seed(0))
    shares = own.double().mean(0)
    assert own.shape == (199, 500) and not own[49, 3]
    assert abs(shares.mean() - 0.4) < 0.03 and shares.std() > 0.2 and shares.max() < 0.95
