"""V: the convolutional VAE (Ha & Schmidhuber 2018, app. A.1; parameter counts equal the paper's).

Frames come as they are stored, uint8 with channels last, and are scaled here. Deliberate differences: frames are not
"inverted" (the released code's inversion acts on uint8 and is in effect none).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.commandline import Size, Weight
from worldmodels.types import Posterior
from worldmodels.vision.config import VisionConfig
from worldmodels.vision.convolutional import ConvolutionalVision


@dataclass(frozen=True)
class VAEConfig(VisionConfig):
    kind: str = "vae"                   # which of VISIONS
    kl_floor: Weight = 0.5              # nats for each latent dimension that cost nothing (released code)
    channels: Size = 32  # of the first layer, the others are multiples of it; fewer train faster (paper: 32)


class VAE(ConvolutionalVision):
    """Frames [B, 64, 64, 3] uint8 <-> latents [B, Z]."""

    Config = VAEConfig

    def __init__(self, config: VAEConfig):
        super().__init__(config, numbers=2)

    def prior(self, posterior: Posterior) -> Tensor:
        """KL(posterior || N(0, 1)) of each image, in nats, [B]. The floor is not applied."""
        return kl(*posterior).sum(-1)

    def loss(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Per image: sum of squared errors + max(KL, floor)."""
        posterior = self.encode(frames)
        normal = torch.randn(posterior.mean.shape, generator=generator, device=frames.device)
        error, divergence = self.error(posterior.sample(normal), frames), self.prior(posterior)     # [B]
        loss = (error + divergence.clamp(min=self.config.kl_floor * self.config.z_size)).mean()
        return loss, {"loss": loss, "squared_error": error.mean(), "kl": divergence.mean()}


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each latent dimension, in nats, [..., Z]."""
    # KL(N(mu, sigma) || N(0, 1)) = -1/2 (1 + log sigma^2 - mu^2 - sigma^2)
    return -0.5 * (1 + log_var - mean.square() - log_var.exp())
