"""Stage 4: M, which learns how the world moves, with reward and done heads -> checkpoints/memory."""

import torch

from pipeline.command import device, main, memory_info, say, stage, task_of, vision_is_trained
from pipeline.presets import Config
from worldmodels.agent import build_memory
from worldmodels.latents import open_latents
from worldmodels.memory.train import train_memory as train
from worldmodels.runs import Run, plain, seed_of
from worldmodels.types import UserError


@stage("memory", of_models=True)
def train_memory(config: Config, run: Run):
    """Stage 4: M, which learns how the world moves, with reward and done heads -> checkpoints/memory."""
    if not vision_is_trained(config, run):
        raise UserError(f"no V in {run.root}: run `python -m pipeline.train_vision` first")
    train_on_latents(config, run)


def train_on_latents(config: Config, run: Run):
    """Trains M on the run's episodes as the V that it has encoded them."""
    info = memory_info(config, run)
    if run.finished("memory", info):
        return say("train_memory: M is trained")
    if config.training == "jointly" and run.round == 1:
        raise UserError("with --training jointly M is trained together with V: run `python -m pipeline.train_jointly`")
    latents = open_latents(run, config.collect.min_steps, info["vision_digest"], config.memory.latent)
    torch.manual_seed(seed_of(config.seed, run.round, "weights of M"))
    memory = build_memory(plain(info), task_of(config))
    if run.round > 1:
        before = run.at(run.round - 1)
        try:
            memory.load_state_dict(before.load("memory", "train_memory")[0])
        except RuntimeError:
            raise UserError(f"M of {before.folder} has other sizes: go on with its --memory settings, or choose "
                            "another --run") from None
    train(memory.to(device(config)), latents, run, info, config.seed)


if __name__ == "__main__":
    main(train_memory)
