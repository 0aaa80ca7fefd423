"""A GRU's step, and layers within a recurrent loop the gradients of whose weights are one matrix product for all steps.

Autograd takes them step by step: many products with few rows, which a CPU is slow at, and a sum over as many matrices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class StepLinear:
    """y_t = base_t + x_t W^T of the steps t in their order: weight [O, I], base [T, B, O] (a bias, or what is known
    before the loop begins)."""

    def __init__(self, weight: Tensor, base: Tensor):
        self.inputs: list[Tensor] = []
        self.base = iter(OneProduct.apply(base, weight, self.inputs).unbind(0))
        self.weight = weight.detach().t()

    def __call__(self, x: Tensor) -> Tensor:
        """The next step: x [B, I] -> [B, O]."""
        self.inputs.append(x.detach())
        return torch.addmm(next(self.base), x, self.weight)


class OneProduct(torch.autograd.Function):
    """base, whose gradient is that of all y. When it is known all inputs are too, and so the weight's gradient is."""

    @staticmethod
    def forward(ctx, base: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return base.view_as(base)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y: Tensor):
        return d_y, d_y.flatten(0, 1).t() @ torch.cat(ctx.inputs), None


def gru(cell: nn.GRUCell, x: Tensor, h: Tensor) -> Tensor:
    """`cell`'s step, x [B, I], h [B, H] -> h, of operations that torch can batch over members of an ensemble."""
    return next_h(F.linear(x, cell.weight_ih, cell.bias_ih), F.linear(h, cell.weight_hh, cell.bias_hh), h)


def next_h(from_x: Tensor, from_h: Tensor, h: Tensor) -> Tensor:
    """The same of what the gates (reset, update, candidate) get from x and from h, [B, 3H] each (Cho et al. 2014)."""
    H = h.shape[-1]
    reset, update = (from_x[..., :2 * H] + from_h[..., :2 * H]).sigmoid().chunk(2, -1)
    candidate = torch.addcmul(from_x[..., 2 * H:], reset, from_h[..., 2 * H:]).tanh()
    return torch.lerp(candidate, h, update)                                 # (1 - update) candidate + update h
