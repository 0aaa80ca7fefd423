"""Stages 2 and 4 at once: V and M by one objective -> checkpoints/vision, checkpoints/memory."""

import torch

from pipeline.collect import check_collected
from pipeline.command import device, main, memory_info, say, stage, task_of, vision_info
from pipeline.presets import Config
from worldmodels.agent import build_memory, build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.memory.joint import WorldModel
from worldmodels.memory.joint import train_jointly as train
from worldmodels.runs import Run, plain, seed_of
from worldmodels.types import UserError


@stage("joint", "vision", "memory")
def train_jointly(config: Config, run: Run):
    """Stages 2 and 4 at once: V and M by one objective -> checkpoints/vision, checkpoints/memory."""
    if config.training != "jointly":
        raise UserError("V and M are trained jointly with --training jointly")
    if config.memory.latent != "sample":
        raise UserError(f"--memory.latent {config.memory.latent}: joint training draws z, take a sample")
    info, run = vision_info(config), run.at(1)
    if run.finished("vision", info) and run.finished("memory", memory_info(config, run)):
        return say("train_jointly: V and M are trained")
    torch.manual_seed(seed_of(config.seed, run.round, "weights of V and M"))
    vision, memory = build_vision(plain(info)), build_memory(plain(info), task_of(config))
    if not run.finished("joint", info):
        check_collected(config, run)
        episodes = EpisodeFolder(run.episodes, config.collect.min_steps)
        train(vision.to(device(config)), memory.to(device(config)), config.joint, episodes, run, info, config.seed)
    trained = WorldModel(vision.to("cpu"), memory.to("cpu"))
    trained.load_state_dict(run.load("joint", "train_jointly")[0])
    run.save("vision", vision.state_dict(), info)
    run.save("memory", memory.state_dict(), memory_info(config, run))


if __name__ == "__main__":
    main(train_jointly)
