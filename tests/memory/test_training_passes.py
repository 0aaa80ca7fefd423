"""The fused passes of a training step against torch's."""

import math

import pytest
import torch

from worldmodels.memory.training_passes import FusedTraining, TorchTraining, training_passes_for

B, H, Z, K = 7, 37, 5, 3


def draw(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def kept():
    """Streams of which some begin anew."""
    return (torch.arange(B) % 3 > 0).float()[:, None]


def by_lstm_forward(passes, dtype, scale):
    """The gates, c, h, and what the next product reads, of which h is a part."""
    gates, c, h, read = draw(B, 4 * H), draw(B, H), draw(B, H), draw(B, H + 3).to(dtype)
    sums = draw(B, 4 * H, seed=1, scale=scale).to(dtype)
    passes.lstm_forward(sums, draw(B, H, seed=2), kept(), gates, c, h, read)
    return gates, c, h, read


def by_lstm_backward(passes, dtype, scale):
    """The gradients by the cell before, and by the gates' sums."""
    gates, c = draw(B, 4 * H, scale=scale), draw(B, H, seed=1, scale=scale)
    gates[:, :3 * H].sigmoid_(), gates[:, 3 * H:].tanh_()
    d_c, d_gates = draw(B, H, seed=2), torch.empty(B, 4 * H, dtype=dtype)
    passes.lstm_backward(gates, draw(B, H, seed=3), kept(), c, draw(B, H, seed=4), draw(B, H, seed=5).to(dtype), d_c,
                         d_gates)
    return d_c, d_gates


def by_mixture_loss(passes, dtype, scale):
    """The loss, and the gradients by the mixture and by z; two outputs belong to other heads. At scale 40 log sigma is
    beyond its bound."""
    out, z = draw(B, 3 * K * Z + 2, scale=scale).to(dtype), draw(B, Z, seed=1)
    d_out, d_z = torch.empty_like(out), torch.empty_like(z)
    loss = passes.mixture_loss(out, z, d_out, d_z)
    return torch.as_tensor(loss, dtype=torch.float32), d_out[:, :-2], d_z


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("result", (by_lstm_forward, by_lstm_backward, by_mixture_loss))
@pytest.mark.parametrize("scale", (0.1, 3.0, 40.0))
def test_a_fused_pass_computes_what_torchs_does(result, dtype, scale):
    """To rounding, from the linear range of the gates to saturated ones."""
    for found, expected in zip(*(result(passes, dtype, scale) for passes in (FusedTraining, TorchTraining))):
        assert found.dtype == expected.dtype
        rtol = 2**-7 if found.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(found, expected, rtol=rtol, atol=2e-5)


def test_the_loss_without_the_gradient_by_z():
    out, z = draw(B, 3 * K * Z + 2), draw(B, Z, seed=1)
    d_out, with_z = torch.empty_like(out), torch.empty_like(out)
    loss = FusedTraining.mixture_loss(out, z, d_out, z[:, :0])
    assert loss == FusedTraining.mixture_loss(out, z, with_z, torch.empty_like(z))
    assert torch.equal(d_out[:, :-2], with_z[:, :-2])


def test_a_number_that_is_none_stays_none():
    """Training stops where the loss is not finite; it must be seen."""
    out, z = draw(B, 3 * K * Z + 2), draw(B, Z, seed=1)
    out[2, 4] = torch.nan
    assert math.isnan(FusedTraining.mixture_loss(out, z, torch.empty_like(out), z[:, :0]))


def test_they_are_for_float32_on_a_cpu():
    weight = torch.zeros(1)
    assert training_passes_for(weight) is FusedTraining
    assert training_passes_for(weight.double()) is training_passes_for(weight.to("meta")) is TorchTraining
