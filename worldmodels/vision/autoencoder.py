"""V: the convolutional autoencoder, in which z is a point (Ghosh et al. 2020, "From variational to deterministic
autoencoders").

Deliberate differences: the decoder is not regularised, and no distribution of z is fitted afterwards, because M
models z. The layers are those of the VAE (Ha & Schmidhuber 2018, app. A.1).
"""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn

from worldmodels.commandline import Size, Weight
from worldmodels.types import Posterior
from worldmodels.vision.config import VisionConfig
from worldmodels.vision.encoder import frozen_encoder
from worldmodels.vision.layers import conv_decoder, conv_encoder, scale, unscale


@dataclass(frozen=True)
class AutoencoderConfig(VisionConfig):
    kind: str = "autoencoder"           # which of VISIONS
    z_weight: Weight = 0.1              # beta: the cost of |z|^2 / 2, in squared errors
    channels: Size = 32                 # of the first layer, the others are multiples of it; fewer train faster


class Autoencoder(nn.Module):
    """Frames [B, 64, 64, 3] uint8 <-> latents [B, Z]."""

    Config = AutoencoderConfig

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = conv_encoder(config.channels)
        self.posterior = nn.Linear(32 * config.channels, config.z_size)
        self.decoder = conv_decoder(config.channels, config.z_size)
        self.to(memory_format=torch.channels_last)      # as in the VAE

    def encode(self, frames: Tensor) -> Posterior:
        """[B, 64, 64, 3] uint8 -> z [B, Z]."""
        return Posterior(self.posterior(self.encoder(scale(frames))))

    def fast_encoder(self) -> Callable[[Tensor], Posterior]:
        return self.encode if next(self.parameters()).device.type != "cpu" else frozen_encoder(self)

    def decode(self, z: Tensor) -> Tensor:
        """[B, Z] -> [B, 64, 64, 3] uint8."""
        return unscale(self.decoder(z))

    def error(self, z: Tensor, frames: Tensor) -> Tensor:
        """Sum of squared errors of each decoded image, values in 0..1, [B]."""
        return (self.decoder(z) - scale(frames)).square().sum((1, 2, 3))

    def prior(self, posterior: Posterior) -> Tensor:
        """beta / 2 |z|^2 of each image, [B]."""
        return 0.5 * self.config.z_weight * posterior.mean.square().sum(-1)

    def loss(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Per image: |x - x^|^2 + beta / 2 |z|^2. No chance is in it."""
        posterior = self.encode(frames)
        error = self.error(posterior.mean, frames)                                  # [B]
        loss = (error + self.prior(posterior)).mean()
        return loss, {"loss": loss, "squared_error": error.mean(), "z_square": posterior.mean.square().mean()}
