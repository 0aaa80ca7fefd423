"""Stage 2: V, which compresses frames -> checkpoints/vision."""

import torch

from pipeline.collect import check_collected
from pipeline.command import device, main, say, stage, vision_info
from pipeline.presets import Config
from worldmodels.agent import build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run, plain, seed_of
from worldmodels.types import UserError
from worldmodels.vision.train import train_vision as train


@stage("vision")
def train_vision(config: Config, run: Run):
    """Stage 2: V, which compresses frames -> checkpoints/vision."""
    info, run = vision_info(config), run.at(1)
    if run.finished("vision", info):
        return say("train_vision: V is trained")
    if config.training == "jointly":
        raise UserError("with --training jointly V is trained together with M: run `python -m pipeline.train_jointly`")
    check_collected(config, run)
    episodes = EpisodeFolder(run.episodes, config.collect.min_steps)
    torch.manual_seed(seed_of(config.seed, run.round, "weights of V"))
    train(build_vision(plain(info)).to(device(config)), episodes, run, info, config.seed)


if __name__ == "__main__":
    main(train_vision)
