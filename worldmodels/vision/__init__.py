"""V: what the agent sees, compressed. A new kind is one file here and one line in VISIONS."""

from worldmodels.types import Vision
from worldmodels.vision.autoencoder import Autoencoder, AutoencoderConfig
from worldmodels.vision.config import VisionConfig
from worldmodels.vision.vae import VAE, VAEConfig

VISIONS: dict[str, type[Vision]] = {kind.Config.kind: kind for kind in (
    VAE,
    Autoencoder,
)}

__all__ = ["Autoencoder", "AutoencoderConfig", "VAE", "VAEConfig", "VISIONS", "VisionConfig"]
