"""V: the convolutional VAE (Ha & Schmidhuber 2018, app. A.1; parameter counts equal the paper's).

Frames come as they are stored, uint8 with channels last, and are scaled here. Deliberate differences: frames are not
"inverted" (the released code's inversion acts on uint8 and is in effect none).
"""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn

from worldmodels.commandline import Size, Weight
from worldmodels.types import Posterior
from worldmodels.vision.config import VisionConfig
from worldmodels.vision.encoder import frozen_encoder
from worldmodels.vision.layers import PatchConv2d, PhaseConvTranspose2d, PixelConvTranspose2d


@dataclass(frozen=True)
class VAEConfig(VisionConfig):
    kind: str = "vae"                   # which of VISIONS
    kl_floor: Weight = 0.5              # nats for each latent dimension that cost nothing (released code)
    channels: Size = 32  # of the first layer, the others are multiples of it; fewer train faster (paper: 32)


class VAE(nn.Module):
    """Frames [B, 64, 64, 3] uint8 <-> latents [B, Z]."""

    Config = VAEConfig

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        c, flat = config.channels, 32 * config.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c, 4, 2), nn.ReLU(),                   # 64 -> 31
            nn.Conv2d(c, 2 * c, 4, 2), nn.ReLU(),               # -> 14
            nn.Conv2d(2 * c, 4 * c, 4, 2), nn.ReLU(),           # -> 6
            PatchConv2d(4 * c, 8 * c, 4, 2), nn.ReLU(),         # -> 2
            nn.Flatten())
        self.posterior = nn.Linear(flat, 2 * config.z_size)
        self.decoder = nn.Sequential(
            nn.Linear(config.z_size, flat),                         # no activation here (released code)
            nn.Unflatten(1, (flat, 1, 1)),
            PixelConvTranspose2d(flat, 4 * c, 5, 2), nn.ReLU(),     # 1 -> 5
            nn.ConvTranspose2d(4 * c, 2 * c, 5, 2), nn.ReLU(),      # -> 13
            nn.ConvTranspose2d(2 * c, c, 6, 2), nn.ReLU(),          # -> 30
            PhaseConvTranspose2d(c, 3, 6, 2), nn.Sigmoid())         # -> 64
        self.to(memory_format=torch.channels_last)      # as frames are stored: 1.05 to 1.2 times faster on a CPU

    def encode(self, frames: Tensor) -> Posterior:
        """[B, 64, 64, 3] uint8 -> z's mean and log-variance, each [B, Z]."""
        return self._posterior(scale(frames))

    def fast_encoder(self) -> Callable[[Tensor], Posterior]:
        return self.encode if next(self.parameters()).device.type != "cpu" else frozen_encoder(self)

    def decode(self, z: Tensor) -> Tensor:
        """[B, Z] -> [B, 64, 64, 3] uint8."""
        return (self.decoder(z).permute(0, 2, 3, 1) * 255).round().to(torch.uint8)

    def loss(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Per image: sum of squared errors + max(KL, floor)."""
        x = scale(frames)
        posterior = self._posterior(x)
        z = posterior.sample(torch.randn(posterior.mean.shape, generator=generator, device=x.device))        # [B, Z]
        error = (self.decoder(z) - x).square().sum((1, 2, 3))                       # [B]
        divergence = kl(*posterior).sum(-1)                                         # [B]
        loss = (error + divergence.clamp(min=self.config.kl_floor * self.config.z_size)).mean()
        return loss, {"loss": loss, "squared_error": error.mean(), "kl": divergence.mean()}

    def _posterior(self, x: Tensor) -> Posterior:
        return Posterior(*self.posterior(self.encoder(x)).chunk(2, -1))


def scale(frames: Tensor) -> Tensor:
    """[B, 64, 64, 3] uint8 -> [B, 3, 64, 64] float32 in 0..1, channels last in memory."""
    return frames.permute(0, 3, 1, 2).float() / 255


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each latent dimension, in nats, [..., Z]."""
    # KL(N(mu, sigma) || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2)
    return -0.5 * (1 + log_var - mean.square() - log_var.exp())
