"""Stage 2: V, which compresses frames -> checkpoints/vision."""

import torch

from pipeline.collect import check_collected
from pipeline.command import device, later_info, main, retrains_vision, say, stage, vision_info, vision_is_trained
from pipeline.presets import Config
from worldmodels.agent import build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run, plain, seed_of
from worldmodels.types import UserError
from worldmodels.vision.train import train_vision as train


@stage("vision")
def train_vision(config: Config, run: Run):
    """Stage 2: V, which compresses frames -> checkpoints/vision."""
    if vision_is_trained(config, run):
        return say("train_vision: V is trained")
    again = retrains_vision(config, run)
    info = vision_info(config) | (later_info(config, run) if again else {})
    if config.training == "jointly" and not again:
        raise UserError("with --training jointly V is trained together with M: run `python -m pipeline.train_jointly`")
    if again and run.own_path("memory").exists():
        raise UserError(f"M of {run.folder} was trained on what the V of the round before saw: --retrain-vision True "
                        "comes too late for this round, go on without it or choose another --run")
    check_collected(config, run)
    torch.manual_seed(seed_of(config.seed, run.round, "weights of V"))
    vision = build_vision(plain(info))
    if again:
        vision.load_state_dict(run.at(run.round - 1).load("vision", "train_vision")[0])
    episodes = EpisodeFolder([round.episodes for round in run.until_now], config.collect.min_steps)
    train(vision.to(device(config)), episodes, run if again else run.at(1), info, config.seed)


if __name__ == "__main__":
    main(train_vision)
