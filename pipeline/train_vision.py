"""Stage 2: V, which compresses frames -> checkpoints/vision."""

import torch

from pipeline.collect import check_collected
from pipeline.command import device, main, own_vision_info, retrains_vision, say, stage, vision_is_trained
from pipeline.presets import Config
from worldmodels.agent import build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.runs import Run, plain, seed_of
from worldmodels.types import UserError
from worldmodels.vision.train import train_vision as train


@stage("vision", of_models=True)
def train_vision(config: Config, run: Run):
    """Stage 2: V, which compresses frames -> checkpoints/vision."""
    if vision_is_trained(config, run):
        return say("train_vision: V is trained")
    retrained, info = retrains_vision(config, run), own_vision_info(config, run)
    if config.training == "jointly" and not retrained:
        raise UserError("with --training jointly V is trained together with M: run `python -m pipeline.train_jointly`")
    if retrained and run.own_path("memory").exists():
        raise UserError(f"M of {run.folder} was trained on what the V of the round before saw: --retrain-vision True "
                        "comes too late for this round, go on without it or choose another --run")
    check_collected(config, run)
    torch.manual_seed(seed_of(config.seed, run.round, "weights of V"))
    vision = build_vision(plain(info))
    if retrained:
        vision.load_state_dict(run.at(run.round - 1).load("vision", "train_vision")[0])
    episodes = EpisodeFolder([round.episodes for round in run.until_now], config.collect.min_steps)
    train(vision.to(device(config)), episodes, run if retrained else run.at(1), info, config.seed)


if __name__ == "__main__":
    main(train_vision)
