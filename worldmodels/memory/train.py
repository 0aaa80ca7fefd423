"""Stage 4: training M on encoded episodes."""

from worldmodels.latents import Latents
from worldmodels.runs import Run, seed_of
from worldmodels.training import train
from worldmodels.types import Transitions


def train_memory(memory, latents: Latents, run: Run, info: dict, seed: int):
    """Trains M on streams of episodes, its state carried from window to window; stores the checkpoint "memory"."""
    device = next(memory.parameters()).device
    config = memory.config

    def batches(skip: int):
        stream = seed_of(seed, run.round, "windows")
        for batch in latents.windows(config.batch, config.sequence, stream, skip, config.bootstraps):
            yield Transitions(*(tensor.to(device) for tensor in batch))

    train("memory", memory, config, batches, memory.loss, run, info, seed)
