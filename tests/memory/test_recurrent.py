"""A GRU's step against torch's own, and StepLinear against F.linear with plain autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldmodels.memory.recurrent import StepLinear, gru, next_h

T, B, I, O = 5, 3, 4, 4


class Plain:
    """StepLinear as autograd has it."""

    def __init__(self, weight, base):
        self.weight, self.base = weight, iter(base.unbind(0))

    def __call__(self, x):
        return next(self.base) + F.linear(x, self.weight)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_a_step_is_that_of_torchs_cell():
    cell, x, h = nn.GRUCell(3, 5).double(), random(7, 3), random(7, 5)
    inputs = (x, h, *cell.parameters())
    found, expected = gru(cell, x, h), cell(x, h)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((weight * out).sum(), inputs) for out in (found, expected)))


def test_a_step_of_what_the_gates_get_is_the_same():
    """Also with more dimensions in front."""
    cell, x, h = nn.GRUCell(3, 5).double(), random(2, 7, 3), random(2, 7, 5)
    from_x, from_h = x @ cell.weight_ih.t() + cell.bias_ih, h @ cell.weight_hh.t() + cell.bias_hh
    expected = torch.stack([cell(x[i], h[i]) for i in range(2)])
    torch.testing.assert_close(next_h(from_x, from_h, h), expected)
    torch.testing.assert_close(gru(cell, x, h), expected)


def test_a_step_can_be_batched_over_members():
    cells, x, h = [nn.GRUCell(3, 5).double() for _ in range(4)], random(7, 3), random(7, 5)
    stacked = {name: torch.stack([dict(cell.named_parameters())[name] for cell in cells])
               for name, _ in cells[0].named_parameters()}

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cells[0]

        def forward(self, x, h):
            return gru(self.cell, x, h)

    found = torch.vmap(lambda weights: torch.func.functional_call(Step(), weights, (x, h)))(
        {f"cell.{name}": weight for name, weight in stacked.items()})
    torch.testing.assert_close(found, torch.stack([cell(x, h) for cell in cells]))


def recurrent(linear, weight, base, x):
    """A loop whose input at each step is of the output of the step before; all outputs."""
    step, y, outputs = linear(weight, base), torch.zeros(B, O).double(), []
    for x_t in x.unbind(0):
        y = step(x_t + y.tanh())
        outputs.append(y)
    return torch.stack(outputs)


def elsewhere(linear, weight, base, x):
    """The weight is used before, within and after the loop too, as that of a layer which `initial` shares is."""
    step, y, outputs = linear(weight, base), F.linear(x[0], weight), []
    for x_t in x.unbind(0):
        y = step(x_t * y.sin()) + F.linear(x_t, weight).tanh()
        outputs.append(y)
    return torch.stack([*outputs, F.linear(y, weight)]) + weight.square().sum()


def loops_in_turn(linear, weight, base, x):
    """Two loops with one weight, the second fed by the first."""
    first = recurrent(linear, weight, base, x)
    return torch.cat([first, recurrent(linear, weight, 2 * base + first, first.cos())])


def two_in_one_loop(linear, weight, base, x):
    """Two StepLinears in one loop, each fed by the other, on parts of one weight."""
    parts = weight.split(2, 0)
    a, b = (linear(part, half) for part, half in zip(parts, base.split(2, 2)))
    y, outputs = torch.zeros(B, O).double(), []
    for x_t in x.unbind(0):
        left = a(x_t + y.tanh())
        right = b(x_t * torch.cat([left, left], 1).sigmoid())
        y = torch.cat([left, right], 1)
        outputs.append(y)
    return torch.stack(outputs)


def last_step_only(linear, weight, base, x):
    return recurrent(linear, weight, base, x)[-1]


def a_shared_bias(linear, weight, base, x):
    return recurrent(linear, weight, base[0, 0].expand(T, B, O), x)


@pytest.mark.parametrize("loop", (
    recurrent, elsewhere, loops_in_turn, two_in_one_loop, last_step_only, a_shared_bias), ids=lambda f: f.__name__)
def test_outputs_and_gradients_are_those_of_linear_layers_step_by_step(loop):
    inputs = random(O, I), random(T, B, O), random(T, B, I)
    found, expected = (loop(linear, *inputs) for linear in (StepLinear, Plain))
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients, wanted = (torch.autograd.grad((weight * out).sum(), inputs) for out in (found, expected))
    assert all((gradient != 0).any() for gradient in gradients)
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("fixed", range(3), ids=("weight", "base", "x"))
def test_what_needs_no_gradient_gets_none_and_the_others_theirs(fixed):
    inputs = random(O, I), random(T, B, O), random(T, B, I)
    inputs[fixed].requires_grad_(False)
    others = [t for t in inputs if t.requires_grad]
    found, expected = (torch.autograd.grad(recurrent(linear, *inputs).sin().sum(), others)
                       for linear in (StepLinear, Plain))
    torch.testing.assert_close(found, expected)


def test_gradients_add_up_over_losses_taken_one_after_the_other():
    weight, base, x = random(O, I), random(T, B, O), random(T, B, I)
    y = recurrent(StepLinear, weight, base, x)
    y.sum().backward(retain_graph=True)
    once = [t.grad.clone() for t in (weight, base, x)]
    y.sum().backward()
    torch.testing.assert_close([t.grad for t in (weight, base, x)], [2 * gradient for gradient in once])


def test_a_loops_steps_are_as_many_as_its_base_has():
    step = StepLinear(random(O, I), random(2, B, O))
    for _ in range(2):
        step(random(B, I))
    with pytest.raises(StopIteration):
        step(random(B, I))
