"""Encoded episodes: what M is trained on, and where dreams start.

One file an episode: mu and log-variance of each frame as V encoded them, with the actions, rewards and ends beside them, so
that no frame is read again. All of a run's are held in memory at half precision: 10,000 rollouts of 1,000 frames with 32
dimensions take 1.3 GB.
"""

from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from torch import Tensor

from worldmodels.episodes import SUFFIX, Episode, EpisodeFolder
from worldmodels.files import load_arrays, save_arrays
from worldmodels.runs import Run
from worldmodels.types import Transitions, UserError


def latent_path(folder: Path, episode: Path) -> Path:
    """Where the latents of an episode's file are kept."""
    return folder / episode.name.replace(SUFFIX, ".safetensors")


def write_latents(path: Path, mu: np.ndarray, log_var: np.ndarray, episode: Episode, vision_digest: str):
    """Stores mu and log_var [T+1, Z] of an episode at half precision, with what M needs beside them."""
    save_arrays(path, {"mu": mu.astype(np.float16), "log_var": log_var.astype(np.float16), "action": episode.action,
                       "reward": episode.reward, "terminated": episode.terminated}, {"vision": vision_digest})


def open_latents(run: Run, min_steps: int, vision_digest: str) -> "Latents":
    """The latents of a run's episodes of more than `min_steps` steps."""
    paths = EpisodeFolder(run.episodes, min_steps).paths
    return Latents([latent_path(run.latents, path) for path in paths], vision_digest)


class Latents:
    """All frames and transitions of a folder's episodes, one after the other."""

    def __init__(self, paths: list[Path], vision_digest: str):
        self.mu, self.log_var, self.action, self.reward, self.terminated = [], [], [], [], []
        for path in paths:
            if not path.exists():
                raise UserError(f"{path} is missing: run `python -m pipeline.encode`")
            arrays, info = load_arrays(path)
            if info["vision"] != vision_digest:
                raise UserError(f"{path} was encoded by another V: delete {path.parent} and run `python -m pipeline.encode`")
            for name, value in arrays.items():
                getattr(self, name).append(value)
        self.lengths = np.array([len(a) for a in self.action])                      # [E] transitions
        first = np.concatenate([[0], np.cumsum(self.lengths + 1)[:-1]])             # [E] each episode's first frame
        self.first_frame = first
        for name in ("mu", "log_var", "action", "reward", "terminated"):
            setattr(self, name, torch.from_numpy(np.concatenate(getattr(self, name))))

    def sample(self, frame: Tensor, generator: torch.Generator) -> Tensor:
        """z ~ N(mu, sigma) of the frames with the given numbers [...], on the CPU -> [..., Z] float32."""
        mu, log_var = self.mu[frame].float(), self.log_var[frame].float()
        return mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape, generator=generator)

    def windows(self, batch: int, sequence: int, seed: int, skip: int = 0) -> Iterator[Transitions]:
        """Endless windows of `sequence` steps from `batch` parallel streams, one following the other in time.

        Each epoch shuffles the episodes, joins them end to end and cuts the whole into `batch` equal streams. z and next_z
        are sampled anew in every window. The order is a function of `seed` alone, and `skip` starts at a later window.
        """
        per_epoch = int(self.lengths.sum()) // (batch * sequence)
        if not per_epoch:
            raise UserError(f"{self.lengths.sum()} transitions do not fill one batch of {batch} × {sequence}: "
                            "collect more episodes, or lower --memory.batch or --memory.sequence")
        epoch, number = divmod(skip, per_epoch)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(self.lengths))
            frame = np.concatenate([self.first_frame[e] + np.arange(self.lengths[e]) for e in order])
            step = np.concatenate([self.first_frame[e] - e + np.arange(self.lengths[e]) for e in order])
            frame, step = (torch.from_numpy(a[:per_epoch * batch * sequence].reshape(batch, -1)) for a in (frame, step))
            for number in range(number, per_epoch):
                columns = slice(number * sequence, (number + 1) * sequence)
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch * per_epoch + number)
                window = self.transitions(frame[:, columns], step[:, columns], generator)
                if number == 0:
                    window.restart[:, 0] = 1            # what came before is not what this epoch's streams begin with
                yield window
            epoch, number = epoch + 1, 0

    def transitions(self, frame: Tensor, step: Tensor, generator: torch.Generator) -> Transitions:
        """The transitions numbered `step` [B, T], which start at the frames numbered `frame` [B, T]."""
        restart = torch.isin(frame, torch.from_numpy(self.first_frame)).float()
        return Transitions(self.sample(frame, generator), self.action[step], self.sample(frame + 1, generator),
                           self.reward[step], self.terminated[step].float(), restart)
