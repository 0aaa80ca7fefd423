"""Dense networks whose weights are a vector: what CMA-ES can evolve, gradients can train, and a checkpoint keeps.

The parameters of a layer are its weights [I, O] and then its O biases, those of a network its layers' in turn.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]        # weight [P, I, O] and bias [P, 1, O] of each


def parameter_count(sizes: Sequence[int]) -> int:
    """Of a network with these numbers of inputs, of units of each hidden layer, and of outputs."""
    return sum((inputs + 1) * outputs for inputs, outputs in zip(sizes, sizes[1:]))


def layers_of(parameters: Tensor, sizes: Sequence[int]) -> Layers:
    """The layers of P networks, parameters [P, n]; a RuntimeError where n is another number."""
    parts = parameters.split([(inputs + 1) * outputs for inputs, outputs in zip(sizes, sizes[1:])], 1)
    tables = (part.unflatten(1, (-1, outputs)) for part, outputs in zip(parts, sizes[1:]))
    return [(table[:, :-1], table[:, -1:]) for table in tables]


def forward(layers: Layers, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """x [B, I] -> [B, O]: each of the P networks has B / P rows, the first one the first of them."""
    networks = len(layers[0][0])
    x = x.unflatten(0, (networks, -1))
    for number, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, activation(x) if number else x, weight)
    return x.flatten(0, 1)


def random_parameters(sizes: Sequence[int], rng: np.random.Generator, last: float) -> Tensor:
    """Of one network, [n]: uniform weights of variance 1 / inputs, those of the last layer times `last`; no biases."""
    parts = []
    for number, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        scale = (last if number == len(sizes) - 2 else 1.0) * (3 / inputs) ** 0.5
        parts += [scale * rng.uniform(-1, 1, inputs * outputs), np.zeros(outputs)]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def without_scaling(parameters: Tensor, sizes: Sequence[int], mean: Tensor, std: Tensor) -> Tensor:
    """The network [n] that does with x what this one does with (x - mean) / std."""
    (weight, bias), *_ = layers_of(parameters.clone()[None], sizes)
    scaled = weight[0] / std[:, None]
    return torch.cat([scaled.flatten(), (bias[0] - mean @ scaled).flatten(), parameters[scaled.numel() + sizes[1]:]])


def with_scaling(parameters: Tensor, sizes: Sequence[int], mean: Tensor, std: Tensor) -> Tensor:
    """The network [n] that does with (x - mean) / std what this one does with x."""
    return without_scaling(parameters, sizes, -mean / std, 1 / std)
