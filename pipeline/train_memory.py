"""Stage 4: M, the MDN-RNN with reward and done heads -> checkpoints/memory."""

import torch

from pipeline.command import clocked, device, main, memory_info, say
from pipeline.presets import Config
from worldmodels.memory.latents import open_latents
from worldmodels.memory.train import train_memory as train
from worldmodels.runs import Run
from worldmodels.worlds.agent import build_memory


@clocked
def train_memory(config: Config, run: Run):
    """Stage 4: M, the MDN-RNN with reward and done heads -> checkpoints/memory."""
    info = memory_info(config, run)
    if run.finished("memory", info):
        return say("train_memory: M is trained")
    latents = open_latents(run, config.collect.min_steps, info["vision_digest"])
    torch.manual_seed(config.seed)
    memory = build_memory(info)
    if run.round > 1:
        memory.load_state_dict(run.at(run.round - 1).load("memory", "train_memory")[0])
    train(memory.to(device(config)), latents, run, info, config.seed + run.round - 1)


if __name__ == "__main__":
    main(train_memory)
