"""Stages 2 and 3: training V on stored frames, and encoding them."""

import numpy as np
import torch

from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run, seed_of
from worldmodels.training import train
from worldmodels.types import Posterior, Vision

FEWEST = 16         # batches are a multiple of this: oneDNN keeps 7 MB for each size of batch that it meets


def train_vision(vision: Vision, episodes: EpisodeFolder, run: Run, info: dict, seed: int):
    """Trains V on shuffled frames and stores the checkpoint "vision"."""
    device = next(vision.parameters()).device
    config = vision.config

    def batches(skip: int):
        for frames in episodes.frame_batches(config.batch, seed_of(seed, run.round, "frames"), skip=skip):
            yield torch.from_numpy(frames).to(device)

    train("vision", vision, config, batches, lambda frames, carry, generator: (*vision.loss(frames, generator), None),
          run, info, seed)


@torch.no_grad()
def encode(vision: Vision, frames: np.ndarray, batch: int = 64) -> Posterior:
    """[T, 64, 64, 3] uint8 -> what V makes of them, [T, Z] each, on the CPU."""
    device = next(vision.parameters()).device
    filled = np.concatenate([frames, frames[:1].repeat(-len(frames) % FEWEST, 0)])
    parts = [vision.encode(torch.from_numpy(filled[i:i + batch]).to(device)) for i in range(0, len(filled), batch)]
    return Posterior(*(None if part[0] is None else torch.cat(part)[:len(frames)].cpu() for part in zip(*parts)))
