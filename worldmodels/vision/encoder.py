"""V's encoder as it runs beside a game: the same function as `encode`, rounding apart, for small batches on a CPU.

oneDNN rearranges a convolution's weights at every call. In the last two layers, which hold most of them, that takes
longer than the arithmetic on a small batch; as a matrix product over the patches they need no rearranging.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.training import precision
from worldmodels.types import Posterior
from worldmodels.vision.layers import patches


def autocast(vision: nn.Module) -> torch.autocast:
    """Within it convolutions and matrix products have V's precision."""
    found = precision(vision)
    return torch.autocast(next(vision.parameters()).device.type, torch.bfloat16, enabled=found == torch.bfloat16)


def frozen_encoder(vision: nn.Module) -> Callable[[Tensor], Posterior]:
    """Frames [B, 64, 64, 3] uint8 -> Posterior, by the weights that V has now.

    V has a `conv_encoder` and a Linear layer `posterior`, which puts out z's mean, or its mean and log-variance.
    """
    first, second, third, fourth = (layer for layer in vision.encoder if isinstance(layer, nn.Conv2d))
    dtype = precision(vision)
    first_weight = (first.weight / 255).contiguous(memory_format=torch.channels_last).to(dtype)
    second_weight, first_bias, second_bias = (t.to(dtype) for t in (second.weight, first.bias, second.bias))
    products = [(patch_weight(layer.weight).to(dtype), layer.bias.to(dtype)) for layer in (third, fourth)]
    # the flattened features come as [rows, columns, channels] here, as [channels, rows, columns] in V
    channels = fourth.out_channels
    posterior = vision.posterior.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1).t().contiguous()

    def encode(frames: Tensor) -> Posterior:
        x = F.conv2d(frames.permute(0, 3, 1, 2).to(dtype), first_weight, first_bias, 2).relu_()
        x = F.conv2d(x, second_weight, second_bias, 2).relu_().permute(0, 2, 3, 1)
        for weight, bias in products:
            col = patches(x, 4)                                                     # [B, n, n, 4, 4, C]
            x = torch.addmm(bias, col.flatten(0, 2).flatten(1), weight).relu_().unflatten(0, col.shape[:3])
        numbers = torch.addmm(vision.posterior.bias, x.flatten(1).float(), posterior)
        return Posterior(*numbers.split(vision.config.z_size, -1))

    return encode


def patch_weight(weight: Tensor) -> Tensor:
    """A convolution's [out, in, 4, 4] as what `patches` is multiplied by, [4 * 4 * in, out]."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
