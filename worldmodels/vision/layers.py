"""The convolutional layers that every kind of V has (Ha & Schmidhuber 2018, app. A.1), in forms that train fast on a
CPU.

All convolutions have stride 2. The classes here have the parameters and results of torch's own layers. Where channels
are many and pixels few, oneDNN's convolutions are far from the rate of a matrix product: `PatchConv2d` and
`PixelConvTranspose2d` are one. Where only three channels come out, `PhaseConvTranspose2d` gives oneDNN more of them. In
training with batches of 100 on two cores they take 0.6, 0.2 and 0.7 of the time. Tensors are [B, C, n, n], channels
last in memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_encoder(channels: int) -> nn.Sequential:
    """[B, 3, 64, 64] -> features [B, 32 * channels]; `channels` is the width of the first layer."""
    c = channels
    return nn.Sequential(
        nn.Conv2d(3, c, 4, 2), nn.ReLU(),                       # 64 -> 31
        nn.Conv2d(c, 2 * c, 4, 2), nn.ReLU(),                   # -> 14
        nn.Conv2d(2 * c, 4 * c, 4, 2), nn.ReLU(),               # -> 6
        PatchConv2d(4 * c, 8 * c, 4, 2), nn.ReLU(),             # -> 2
        nn.Flatten())


def conv_decoder(channels: int, z_size: int) -> nn.Sequential:
    """z [B, Z] -> [B, 3, 64, 64] in 0..1; `channels` is the width of the last hidden layer."""
    c, flat = channels, 32 * channels
    return nn.Sequential(
        nn.Linear(z_size, flat),                                # no activation here (released code)
        nn.Unflatten(1, (flat, 1, 1)),
        PixelConvTranspose2d(flat, 4 * c, 5, 2), nn.ReLU(),     # 1 -> 5
        nn.ConvTranspose2d(4 * c, 2 * c, 5, 2), nn.ReLU(),      # -> 13
        nn.ConvTranspose2d(2 * c, c, 6, 2), nn.ReLU(),          # -> 30
        PhaseConvTranspose2d(c, 3, 6, 2), nn.Sigmoid())         # -> 64


def glorot_(layer: nn.Module):
    """Begins a layer's weights as TensorFlow does: U(-l, l) where l = sqrt(6 / (fan_in + fan_out)), and biases of zero
    (Glorot & Bengio 2010)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def scale(frames: Tensor) -> Tensor:
    """[B, 64, 64, 3] uint8 -> [B, 3, 64, 64] float32 in 0..1, channels last in memory."""
    return frames.permute(0, 3, 1, 2).float() / 255


def unscale(x: Tensor) -> Tensor:
    """The inverse of `scale`, rounded."""
    return (x.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


class PatchConv2d(nn.Conv2d):
    """[B, C, m, m] -> [B, O, n, n], a matrix product over the patches."""

    def forward(self, x: Tensor) -> Tensor:
        col = Patches.apply(x.permute(0, 2, 3, 1), self.kernel_size[0])                          # [B, n, n, k, k, C]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # [O, k*k*C], as it lies in memory
        y = torch.addmm(self.bias, col.flatten(0, 2).flatten(1), weight.t())                    # [B*n*n, O]
        return y.unflatten(0, col.shape[:3]).permute(0, 3, 1, 2)


class PixelConvTranspose2d(nn.ConvTranspose2d):
    """[B, C, 1, 1] -> [B, O, k, k]: a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1)  # [C, k, k, O], as it lies in memory
        bias = self.bias.expand(weight.shape[1:]).flatten()
        return torch.addmm(bias, x.flatten(1), weight.flatten(1)).unflatten(1, weight.shape[1:]).permute(0, 3, 1, 2)


class PhaseConvTranspose2d(nn.ConvTranspose2d):
    """[B, C, n, n] -> [B, O, m, m] where m = 2n + k - 2 and k is even: the four pixels that each place of a plain
    convolution becomes (Shi et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        transposed = PhaseConvTranspose.apply if torch.is_grad_enabled() else phase_conv_transpose
        return transposed(x, self.weight, self.bias)


def phase_conv_transpose(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of stride 2, weight [C, O, k, k], as a plain one that puts out 4 O channels."""
    half, O = weight.shape[2] // 2, weight.shape[1]
    weight = weight.unflatten(3, (half, 2)).unflatten(2, (half, 2)).flip(2, 4)              # [C, O, k/2, 2, k/2, 2]
    weight = weight.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias.repeat(4), padding=half - 1)                               # [B, 4O, m/2, m/2]
    y = y.permute(0, 2, 3, 1).unflatten(-1, (2, 2, O)).transpose(2, 3)                      # [B, m/2, 2, m/2, 2, O]
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class PhaseConvTranspose(torch.autograd.Function):
    """`phase_conv_transpose`, with the gradient of oneDNN's own transposed convolution, which is the faster one."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return phase_conv_transpose(x, weight, bias)

    @staticmethod
    def backward(ctx, d_y):
        x, weight = ctx.saved_tensors
        d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(
            d_y, x.to(d_y.dtype), weight.to(d_y.dtype), weight.shape[1:2], (2, 2), (0, 0), (1, 1), True, (0, 0), 1,
            (True, True, True))
        return d_x.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype)


def patches(x: Tensor, k: int) -> Tensor:
    """Every second k×k patch of x [B, m, m, C], [B, n, n, k, k, C]."""
    return x.unfold(1, k, 2).unfold(2, k, 2).permute(0, 1, 2, 4, 5, 3).contiguous()


class Patches(torch.autograd.Function):
    """`patches`, with a gradient that adds slices up instead of single values."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.shape = x.shape
        return patches(x, k)

    @staticmethod
    def backward(ctx, d_col):
        n, k = d_col.shape[2:4]
        d_x, span = d_col.new_zeros(ctx.shape), 2 * n - 1
        for i in range(k):
            for j in range(k):
                d_x[:, i:i + span:2, j:j + span:2] += d_col[:, :, :, i, j]
        return d_x, None
