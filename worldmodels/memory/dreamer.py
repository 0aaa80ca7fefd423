"""The plain dreamer: `imagine` behind the Dreamer's seam, for any memory. The reference for faster ones."""

import torch
from torch import Tensor

from worldmodels.types import Memory, Noise, State, UserError


class PlainDreamer:
    """See types.Dreamer. Its state stays in the same place, as a CUDA graph needs it. Where a layer's inputs are no
    multiple of 8, torch's products may round a row differently by its place in the batch."""

    def __init__(self, memory: Memory, temperature: float, bfloat16: bool = False):
        if bfloat16:
            kind = memory.config.kind
            raise UserError(f"--dream.precision bfloat16: a memory of kind {kind} dreams in float32 alone")
        self.memory, self.temperature = memory, temperature
        self.state: State | None = None

    def load(self, state: State):
        if self.state is None:
            self.state = State(state.features.clone(), tuple(t.clone() for t in state.inner))
        self._write(state)

    def features(self) -> Tensor:
        features = self.state.features
        return torch.cat([features, torch.ones_like(features[:, :1])], 1).t()

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        chance = {part: numbers.t() for part, numbers in noise.items()}
        imagined = self.memory.imagine(self.state, action.t(), self.temperature, chance)
        self._write(imagined.state)
        return imagined.reward, imagined.p_done, imagined.uncertainty

    def select(self, index: Tensor):
        self.state = self.state.select(index)

    def _write(self, state: State):
        for old, new in zip((self.state.features, *self.state.inner), (state.features, *state.inner)):
            old.copy_(new)
