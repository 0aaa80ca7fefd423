"""V: the convolutional autoencoder, in which z is a point (Ghosh et al. 2020, "From variational to deterministic
autoencoders"). The layers are those of the VAE (Ha & Schmidhuber 2018, app. A.1).

Deliberate differences: the decoder is not regularised. No density of z is fitted after training, because M models z.

`z_weight` keeps z from growing. Without it, z's root mean square (RMS) reached 263 in the toy game after 1,500 steps.
Tried: one V for each weight, 2,500 steps with the batch, rate and channels of the quick presets. The squared error
showed no trend with the weight: 14 to 16 in CarRacing, 17 to 18 in TakeCover, where z is small without a penalty too.

    z_weight          0.1    0.03   0.01   0.003  0.001  0
    RMS in CarRacing  0.33   0.44   0.63   0.94   0.93
    RMS in TakeCover  0.20          0.26   0.30   0.29   0.32

In the toy, 0.003 gave 1.56 with one seed. With another, V put out black pictures only after 1,500 steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.commandline import Size, Weight
from worldmodels.types import Posterior
from worldmodels.vision.config import VisionConfig
from worldmodels.vision.convolutional import ConvolutionalVision


@dataclass(frozen=True)
class AutoencoderConfig(VisionConfig):
    kind: str = "autoencoder"           # which of VISIONS
    z_weight: Weight = 0.003            # beta: the cost of |z|^2 / 2, in squared errors of an image
    channels: Size = 32                 # of the first layer, the others are multiples of it; fewer train faster


class Autoencoder(ConvolutionalVision):
    """Frames [B, 64, 64, 3] uint8 <-> latents [B, Z]."""

    Config = AutoencoderConfig

    def __init__(self, config: AutoencoderConfig):
        super().__init__(config, numbers=1)

    def prior(self, posterior: Posterior) -> Tensor:
        """beta / 2 |z|^2 of each image, [B]."""
        return 0.5 * self.config.z_weight * posterior.mean.square().sum(-1)

    def loss(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Per image: |x - x^|^2 + beta / 2 |z|^2. No chance is in it."""
        posterior = self.encode(frames)
        error = self.error(posterior.mean, frames)                                  # [B]
        loss = (error + self.prior(posterior)).mean()
        return loss, {"loss": loss, "squared_error": error.mean(), "z_square": posterior.mean.square().mean()}
