"""The layers that are faster to train: torch's own results and gradients."""

import pytest
import torch
from torch import nn

from worldmodels.vision.layers import PatchConv2d, PhaseConvTranspose2d, PixelConvTranspose2d

CASES = (                                   # ours, torch's, kernel, pixels
    (PatchConv2d, nn.Conv2d, 4, 6), (PatchConv2d, nn.Conv2d, 4, 7), (PatchConv2d, nn.Conv2d, 3, 9),
    (PixelConvTranspose2d, nn.ConvTranspose2d, 5, 1), (PixelConvTranspose2d, nn.ConvTranspose2d, 2, 1),
    (PhaseConvTranspose2d, nn.ConvTranspose2d, 6, 5), (PhaseConvTranspose2d, nn.ConvTranspose2d, 4, 3),
    (PhaseConvTranspose2d, nn.ConvTranspose2d, 2, 3))


@pytest.mark.parametrize("memory_format", (torch.channels_last, torch.contiguous_format))
@pytest.mark.parametrize("ours, torchs, kernel, pixels", CASES)
def test_results_and_gradients_equal_torchs(ours, torchs, kernel, pixels, memory_format):
    layer, expected = (cls(6, 3, kernel, 2).double().to(memory_format=memory_format) for cls in (ours, torchs))
    expected.load_state_dict(layer.state_dict())
    x = torch.randn(4, 6, pixels, pixels, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    outputs = [module(x) for module in (layer, expected)]
    torch.testing.assert_close(*outputs)
    d_out = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad(y, [x, *module.parameters()], d_out)
                 for y, module in zip(outputs, (layer, expected))]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)
