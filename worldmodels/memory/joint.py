"""V and M trained by one objective, from sequences of frames (Chung et al. 2015, VRNN; Hafner et al. 2019, PlaNet).

M is the prior of the latents: the negative evidence lower bound (ELBO) of the frames of a window, given the actions, is

    sum_t [ |x_t - V(z_t)|^2 + log q(z_t | x_t) - log p_M(z_t | z_<t, a_<t) ]       z_t ~ q(z | x_t)

and beside it M learns rewards and ends. The first frame of a window or of an episode has no past: its prior is V's own.
Gradients go through the encoder both ways, by what M reads and by what M is to predict. The members of an ensemble
learn from the same windows.

What keeps z from collapsing to what is easy to predict is the first two terms: a picture must be decoded from z, and
E[log q] is the entropy of q, which falls as z shrinks exactly as fast as M's likelihood rises. So V needs a variance.

Deliberate differences from Dreamer: frames are decoded from z, not from M's state, so that every kind of memory is
trained in the same way, and what comes out are a V and an M like any others.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.commandline import Count, Positive, Share, Weight
from worldmodels.episodes import EpisodeFolder, FrameWindows
from worldmodels.runs import Run, seed_of
from worldmodels.training import TrainConfig, train
from worldmodels.types import Memory, Transitions, UserError, Vision

ENTROPY = 0.5 * (1 + math.log(2 * math.pi))     # of a standard normal number, in nats


@dataclass(frozen=True)
class JointConfig(TrainConfig):
    steps: Count = 5000                 # optimiser steps
    batch: Count = 8                    # windows; the encoder's time is that of batch × (sequence + 1) frames
    sequence: Count = 20                # steps of a window
    learning_rate: Positive = 1e-3      # Adam's
    final_anneal: Share = 0.3           # share of the steps, at the end, over which the rate falls to zero
    clip_value: Weight = 1.0            # gradients are clipped to ± this


class WorldModel(nn.Module):
    """V and M as one model."""

    def __init__(self, vision: Vision, memory: Memory):
        super().__init__()
        self.vision, self.memory = vision, memory

    def loss(self, frames: Tensor, now: Tensor, then: Tensor, rest: tuple[Tensor, ...],
             generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The ELBO above, a mean over steps: frames [N, 64, 64, 3] uint8, of which `now` and `then` [B, T] are those
        before and after each step, and the `rest` of the Transitions."""
        vision, memory = self.vision, self.memory
        posterior = vision.encode(frames)
        if posterior.log_var is None:
            raise UserError(f"V of kind {vision.config.kind} gives points, which M could make easy to predict by "
                            "shrinking them: train it first, or choose a V with a variance")
        z = posterior.sample(torch.randn(posterior.mean.shape, generator=generator, device=frames.device))  # [N, Z]
        error = vision.error(z, frames)                                                                     # [N]
        entropy = (0.5 * posterior.log_var + ENTROPY).sum(-1)                                               # [N]
        action, reward, terminated, restart = rest
        batch = Transitions(z[now], action, z[then], reward, terminated, restart)
        batch = Transitions(*(torch.cat([t] * max(1, memory.config.bootstraps)) for t in batch))    # for each member
        of_memory, metrics, _ = memory.loss(batch, None, generator)
        start = ((error + vision.prior(posterior))[now] * restart).mean()           # of the frames without a past
        loss = start + (error - entropy)[then].mean() + memory.z_size * of_memory
        metrics = {f"memory {name}": value for name, value in metrics.items()}
        return loss, {"loss": loss, "squared_error": error.mean(), "entropy": entropy.mean(), **metrics}


def train_jointly(vision: Vision, memory: Memory, config: JointConfig, episodes: EpisodeFolder, run: Run, info: dict,
                  seed: int) -> WorldModel:
    """Trains V and M and stores the checkpoint "joint"."""
    model = WorldModel(vision, memory)
    device = next(model.parameters()).device

    def batches(skip: int):
        for windows in episodes.windows(config.batch, config.sequence, seed_of(seed, run.round, "frame windows"),
                                        skip=skip):
            yield tensors(windows, device)

    train("joint", model, config, batches, lambda batch, carry, generator: (*model.loss(*batch, generator), None),
          run, info, seed)
    return model


def tensors(windows: FrameWindows, device: torch.device) -> tuple[Any, ...]:
    """What `WorldModel.loss` takes of them."""
    frames, now, then, *rest = (torch.from_numpy(a).to(device) for a in windows)
    return frames, now, then, tuple(t.float() for t in rest)
