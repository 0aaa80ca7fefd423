"""V: what the agent sees, compressed."""

from worldmodels.vision.encoder import frozen_encoder
from worldmodels.vision.vae import VAE, VisionConfig, sample

__all__ = ["VAE", "VisionConfig", "frozen_encoder", "sample"]
