"""Networks whose weights are a vector: the same as torch's layers, one or many at once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldmodels.controller.network import (
    forward,
    layers_of,
    parameter_count,
    random_parameters,
    with_scaling,
    without_scaling,
)

SIZES = ([4, 3], [4, 6, 3], [5, 7, 6, 2])
B = 8


def plain(parameters, sizes, activation):
    """The network of torch.nn with these parameters [n]."""
    layers, begin = [], 0
    for inputs, outputs in zip(sizes, sizes[1:]):
        layer, end = nn.Linear(inputs, outputs).double(), begin + inputs * outputs
        layer.weight.data = parameters[begin:end].view(inputs, outputs).t()
        layer.bias.data = parameters[end:end + outputs]
        layers += [layer, activation]
        begin = end + outputs
    return nn.Sequential(*layers[:-1])


def random_rows(sizes, networks=1):
    return torch.randn(networks, parameter_count(sizes), dtype=torch.float64)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_there_are_as_many_parameters_as_in_torchs_layers(sizes):
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in zip(sizes, sizes[1:])]
    assert parameter_count(sizes) == sum(p.numel() for layer in layers for p in layer.parameters())


def test_a_layers_parameters_are_its_weights_and_then_its_biases():
    (weight, bias), (second, last) = layers_of(torch.arange(17.0)[None], [3, 2, 3])
    assert torch.equal(weight, torch.tensor([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]))
    assert torch.equal(bias, torch.tensor([[[6.0, 7.0]]]))
    assert torch.equal(second, torch.tensor([[[8.0, 9.0, 10.0], [11.0, 12.0, 13.0]]]))
    assert torch.equal(last, torch.tensor([[[14.0, 15.0, 16.0]]]))


@pytest.mark.parametrize("activation", (F.elu, torch.tanh), ids=("elu", "tanh"))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_one_network_is_that_of_torchs_layers(sizes, activation):
    """With no activation behind the last layer."""
    rows, x = random_rows(sizes), torch.randn(B, sizes[0], dtype=torch.float64)
    module = {F.elu: nn.ELU(), torch.tanh: nn.Tanh()}[activation]
    torch.testing.assert_close(forward(layers_of(rows, sizes), x, activation), plain(rows[0], sizes, module)(x))


@pytest.mark.parametrize("networks", (2, 4, B))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_each_of_many_networks_has_rows_of_its_own(sizes, networks):
    """The first one has the first B / P of them."""
    rows, x = random_rows(sizes, networks), torch.randn(B, sizes[0], dtype=torch.float64)
    together = forward(layers_of(rows, sizes), x, F.elu)
    assert together.shape == (B, sizes[-1])
    for row, mine, found in zip(rows, x.chunk(networks), together.chunk(networks)):
        torch.testing.assert_close(found, plain(row, sizes, nn.ELU())(mine))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("more", (-1, 1))
def test_parameters_of_another_length_make_no_network(sizes, more):
    with pytest.raises(RuntimeError):
        layers_of(torch.zeros(2, parameter_count(sizes) + more), sizes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scaling_is_taken_out_of_a_network_and_put_into_it(sizes):
    row, x = random_rows(sizes)[0], torch.randn(B, sizes[0], dtype=torch.float64)
    mean, std = torch.randn(sizes[0], dtype=torch.float64), 0.1 + torch.rand(sizes[0], dtype=torch.float64)
    network = lambda parameters, x: forward(layers_of(parameters[None], sizes), x, F.elu)
    before, scaled = row.clone(), (x - mean) / std
    without, with_ = without_scaling(row, sizes, mean, std), with_scaling(row, sizes, mean, std)
    torch.testing.assert_close(network(without, x), network(row, scaled))
    torch.testing.assert_close(network(with_, scaled), network(row, x))
    assert not torch.allclose(network(row, x), network(row, scaled))
    torch.testing.assert_close(with_scaling(without, sizes, mean, std), row)
    torch.testing.assert_close(without_scaling(with_, sizes, mean, std), row)
    assert torch.equal(row, before)                             # neither writes into what it is given


def test_random_weights_have_variance_one_over_inputs_and_the_last_layers_are_smaller():
    sizes = [200, 100, 50]
    (first, bias), (last, other) = layers_of(random_parameters(sizes, np.random.default_rng(0), 0.01)[None], sizes)
    assert first.std() == pytest.approx(200**-0.5, rel=0.05) and first.abs().max() <= (3 / 200)**0.5
    assert last.std() == pytest.approx(0.01 * 100**-0.5, rel=0.05) and last.abs().max() <= 0.01 * (3 / 100)**0.5
    assert abs(first.mean()) < 0.002 and not bias.any() and not other.any()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_random_parameters_follow_their_generator(sizes):
    first, again, other = (random_parameters(sizes, np.random.default_rng(seed), 1.0) for seed in (0, 0, 1))
    assert first.shape == (parameter_count(sizes),) and first.dtype == torch.float32
    assert torch.equal(first, again) and not torch.equal(first, other)
