"""The LSTM against torch's, its written-out gradient against autograd, and its restarts."""

import math

import pytest
import torch
from torch import nn

from worldmodels.memory.lstm import LSTM

I, H, T, B = 3, 5, 9, 4


@pytest.fixture
def lstm():
    lstm = LSTM(I, H).double()
    for p in lstm.parameters():
        nn.init.normal_(p, std=0.7)
    return lstm


@pytest.fixture
def inputs():
    """x [T, B, I], h and c [B, H], and keep [T, B, 1] with restarts at the start, in the middle, at the end, never."""
    keep = torch.ones(T, B, 1, dtype=torch.float64)
    for t, b in ((0, 0), (4, 1), (5, 1), (T - 1, 2), (3, 0)):
        keep[t, b] = 0
    x, h, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((T, B, I), (B, H), (B, H)))
    return x, h, c, keep


def by_steps(lstm, x, h, c, keep):
    """The same sequence through `step`, with autograd's own gradient."""
    hidden = []
    for t in range(len(x)):
        h, c = lstm.step(x[t], h * keep[t], c * keep[t])
        hidden.append(h)
    return torch.stack(hidden), h, c


def test_the_forget_gate_starts_with_a_bias_of_one():
    bias = LSTM(I, H).input.bias.view(4, H)         # i, f, o, g
    assert torch.equal(bias[1], torch.ones(H)) and not bias[[0, 2, 3]].any()


def test_its_weights_can_begin_as_tensorflows():
    """Its input and recurrent weights are one matrix [I + H, 4H] there."""
    lstm = LSTM(30, 40, "tensorflow")
    limit = math.sqrt(6 / (30 + 40 + 160))
    for weight in (lstm.input.weight, lstm.recurrent.weight):
        assert 0.98 * limit < weight.abs().max() <= limit
    bias = lstm.input.bias.view(4, 40) - torch.tensor([0, 1, 0, 0])[:, None]
    assert 0.9 * math.sqrt(3 / 160) < bias.abs().max() <= math.sqrt(3 / 160) + 1e-6


def test_it_has_one_bias_vector():
    assert sum(p.numel() for p in LSTM(I, H).parameters()) == 4 * H * (I + H + 1)


def test_it_equals_torchs_lstm_with_the_same_weights(lstm, inputs):
    x, h, c, keep = inputs
    reference = nn.LSTM(I, H).double()
    i, f, o, g = range(4)

    def torchs_order(weights):                      # torch's gates: i, f, g, o
        return torch.cat([weights.chunk(4)[gate] for gate in (i, f, g, o)])

    with torch.no_grad():
        reference.weight_ih_l0.copy_(torchs_order(lstm.input.weight))
        reference.weight_hh_l0.copy_(torchs_order(lstm.recurrent.weight))
        reference.bias_ih_l0.copy_(torchs_order(lstm.input.bias))
        reference.bias_hh_l0.zero_()
    expected, (last_h, last_c) = reference(x, (h[None], c[None]))
    out, h, c = lstm(x, h, c, torch.ones_like(keep))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(h, last_h[0])
    torch.testing.assert_close(c, last_c[0])


def test_the_sequence_equals_single_steps_across_restarts(lstm, inputs):
    for a, b in zip(lstm(*inputs), by_steps(lstm, *inputs)):
        torch.testing.assert_close(a, b)


def test_the_gradient_equals_autograds_across_restarts(lstm, inputs):
    x, h, c, keep = inputs
    leaves = [x, h, c, *lstm.parameters()]
    x.requires_grad_(), h.requires_grad_(), c.requires_grad_()
    weight = torch.randn(T, B, H, dtype=torch.float64)
    gradients = [torch.autograd.grad((run(x, h, c, keep)[0] * weight).sum(), leaves)
                 for run in (lstm, lambda *inputs: by_steps(lstm, *inputs))]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)
        assert b.abs().max() > 0


def test_the_gradient_equals_finite_differences(lstm, inputs):
    x, h, c, keep = inputs
    x.requires_grad_(), h.requires_grad_(), c.requires_grad_()
    torch.autograd.gradcheck(lambda x, h, c: lstm(x, h, c, keep)[0], (x, h, c))


def test_a_sequence_in_two_parts_equals_the_whole(lstm, inputs):
    x, h, c, keep = inputs
    whole = lstm(x, h, c, keep)
    first, h, c = lstm(x[:4], h, c, keep[:4])
    second, h, c = lstm(x[4:], h, c, keep[4:])
    torch.testing.assert_close(torch.cat([first, second]), whole[0])
    torch.testing.assert_close(h, whole[1])
    torch.testing.assert_close(c, whole[2])


def test_what_came_before_a_restart_does_not_matter(lstm, inputs):
    x, h, c, keep = inputs
    keep[5] = 0
    before = lstm(x, h, c, keep)[0]
    x[:5] += 1
    after = lstm(x, h + 1, c - 1, keep)[0]
    assert torch.equal(before[5:], after[5:])
    assert not torch.equal(before[4], after[4])


def test_the_last_state_carries_no_gradient(lstm, inputs):
    x, h, c, keep = inputs
    out, h, c = lstm(x, h, c, keep)
    assert out.requires_grad and not h.requires_grad and not c.requires_grad
