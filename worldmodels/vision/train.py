"""Stages 2 and 3: training V on stored frames, and encoding them."""

import numpy as np
import torch

from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run
from worldmodels.training import train
from worldmodels.vision.vae import VAE

FEWEST = 16         # batches are a multiple of this: oneDNN keeps 7 MB for each size of batch that it meets


def train_vision(vision: VAE, episodes: EpisodeFolder, run: Run, info: dict, seed: int):
    """Trains V on shuffled frames and stores the checkpoint "vision"."""
    device = next(vision.parameters()).device
    config = vision.config

    def batches(skip: int):
        for frames in episodes.frame_batches(config.batch, seed, skip=skip):
            yield torch.from_numpy(frames).to(device)

    train("vision", vision, config, batches, lambda frames, carry, generator: (*vision.loss(frames, generator), None),
          run, info, seed)


@torch.inference_mode()
def encode(vision: VAE, frames: np.ndarray, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """[T, 64, 64, 3] uint8 -> mean and log-variance, each [T, Z] float32."""
    device = next(vision.parameters()).device
    filled = np.concatenate([frames, frames[:1].repeat(-len(frames) % FEWEST, 0)])
    parts = [vision.encode(torch.from_numpy(filled[i:i + batch]).to(device)) for i in range(0, len(filled), batch)]
    return tuple(torch.cat(part)[:len(frames)].cpu().numpy() for part in zip(*parts))
