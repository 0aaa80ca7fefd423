"""Where the chance in a memory's steps is drawn: from a seed for each rollout, or from one generator for a batch."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from worldmodels.types import Noise, NoiseSize, Seeds

BLOCK = 16                      # steps whose noise is drawn together
# streams of a rollout's seed; 0 to 2, 4 and 7 are those of starts, random policies, V in the game, exploration and
# noise on a controller's weights
IMAGINE, OBSERVE, PLAN = 3, 5, 6


def noise_blocks(seed: int, size: NoiseSize, stream: int = IMAGINE) -> Iterator[np.ndarray]:
    """The chance in a rollout, a function of its seed and nothing else: the next BLOCK steps' numbers [BLOCK, U + N],
    uniform ones first.

    Dreams of a seed share it, whoever dreams them, so that members of a generation are compared on equal terms; and no
    dream depends on those beside it.
    """
    rng, (U, N) = np.random.default_rng([seed, stream]), size.total()
    while True:
        yield np.concatenate([rng.random((BLOCK, U), np.float32), rng.standard_normal((BLOCK, N), np.float32)], 1)


class NoiseStream:
    """The chance in rollouts of some seeds: BLOCK steps at a time, for rollouts that begin together, or step by
    step."""

    def __init__(self, seeds: Seeds, size: NoiseSize, like: Tensor, stream: int = IMAGINE):
        self.size, self.like = size, like
        self.blocks = [noise_blocks(seed, size, stream) for seed in seeds]
        self.steps = list(map(chain.from_iterable, self.blocks))

    def join(self, other: "NoiseStream"):
        """Other rollouts go on behind these."""
        self.blocks, self.steps = self.blocks + other.blocks, self.steps + other.steps

    def block(self) -> Tensor:
        """The next BLOCK steps' numbers, [BLOCK, U + N, seeds], on the device and of the type of `like`."""
        return torch.from_numpy(np.stack(list(map(next, self.blocks)))).to(self.like).permute(1, 2, 0).contiguous()

    def step(self) -> Noise:
        """The next step's numbers, each part [seeds, n]."""
        if not sum(self.size.total()):
            return {}
        return self.size.split(torch.from_numpy(np.stack(list(map(next, self.steps)))).to(self.like))

    def select(self, index: Sequence[int]):
        """Goes on with these seeds only."""
        self.blocks, self.steps = ([rows[i] for i in index] for rows in (self.blocks, self.steps))


def draw(size: NoiseSize, batch: int, generator: torch.Generator, like: Tensor) -> Iterator[Noise]:
    """The numbers of step after step, each part [batch, n], from one generator."""
    U, N = size.total()
    while True:
        numbers = [random(batch, n, generator=generator, device=generator.device)
                   for random, n in ((torch.rand, U), (torch.randn, N))]
        yield size.split(torch.cat(numbers, 1).to(like))
