"""Stage 2: V, the convolutional VAE -> checkpoints/vision."""

import torch

from pipeline.collect import check_collected
from pipeline.command import clocked, device, main, say, vision_info
from pipeline.presets import Config
from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run
from worldmodels.vision import VAE
from worldmodels.vision.train import train_vision as train


@clocked
def train_vision(config: Config, run: Run):
    """Stage 2: V, the convolutional VAE -> checkpoints/vision."""
    info, run = vision_info(config), run.at(1)
    if run.finished("vision", info):
        return say("train_vision: V is trained")
    check_collected(config, run)
    episodes = EpisodeFolder(run.episodes, config.collect.min_steps)
    torch.manual_seed(config.seed)
    train(VAE(config.vision).to(device(config)), episodes, run, info, config.seed)


if __name__ == "__main__":
    main(train_vision)
