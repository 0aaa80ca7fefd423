"""V's encoder as it runs beside a game: the same function as VAE.encode, rounding apart, for small batches on a CPU.

oneDNN rearranges a convolution's weights at every call. In the last two layers, which hold most of them, that takes longer than
the arithmetic on a small batch; as a matrix product over the patches they need no rearranging.
"""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.vision.vae import VAE


def frozen_encoder(vision: VAE) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Frames [B, 64, 64, 3] uint8 -> mean and log-variance of z, each [B, Z], by the weights that `vision` has now."""
    if next(vision.parameters()).device.type != "cpu":
        return vision.encode
    first, second, third, fourth = (layer for layer in vision.encoder if isinstance(layer, torch.nn.Conv2d))
    first_weight = (first.weight / 255).contiguous(memory_format=torch.channels_last)
    products = [(patch_weight(layer.weight), layer.bias) for layer in (third, fourth)]
    # the flattened features come as [rows, columns, channels] here, as [channels, rows, columns] in the VAE
    channels = fourth.out_channels
    posterior = vision.posterior.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1).t().contiguous()

    def encode(frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.conv2d(frames.permute(0, 3, 1, 2).float(), first_weight, first.bias, 2).relu_()
        x = F.conv2d(x, second.weight, second.bias, 2).relu_().permute(0, 2, 3, 1)
        for weight, bias in products:
            x = torch.addmm(bias, patches(x), weight).relu_().unflatten(0, (len(x), x.shape[1] // 2 - 1, -1))
        return torch.addmm(vision.posterior.bias, x.flatten(1), posterior).chunk(2, -1)

    return encode


def patches(x: Tensor) -> Tensor:
    """Every second 4×4 patch of [B, n, n, C] -> [B * m * m, 4 * 4 * C] where m = n / 2 - 1."""
    return x.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)


def patch_weight(weight: Tensor) -> Tensor:
    """A convolution's [out, in, 4, 4] as what `patches` is multiplied by, [4 * 4 * in, out]."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
