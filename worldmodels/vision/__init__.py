"""V: what the agent sees, compressed."""

from worldmodels.vision.vae import VAE, VisionConfig, sample

__all__ = ["VAE", "VisionConfig", "sample"]
