"""A budget of seconds as one of optimiser steps: how many fit into it on this machine."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

import torch

from pipeline.command import device, say, task_of
from pipeline.presets import Config
from worldmodels.agent import build_memory, build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.files import read_json, write_json
from worldmodels.latents import open_latents
from worldmodels.memory.joint import train_jointly
from worldmodels.memory.train import train_memory
from worldmodels.runs import Run, plain

FEWEST = 20                     # optimiser steps
TIMED, REPEATS = (10, 40), 3    # steps of the two trainings by which a step is timed, and how often


def plan(models: dict[str, Config], run: Run, shared: Run) -> dict[str, int]:
    """How many steps of training fit into the budget on this machine, of each world model. They are found once, one
    model after the other on the latents of the shared V, and kept in compare/plan.json."""
    path = run.root / "compare" / "plan.json"
    known = read_json(path) if path.exists() else {}
    budget = next(iter(models.values())).compare.seconds
    key = lambda name: f"{name}, {budget} s"
    for name in models:
        if key(name) in known:
            continue
        say(f"timing a step of {name}")
        seconds = budget + (shared.seconds["train_vision"] if models[name].training == "jointly" else 0)
        known[key(name)] = max(FEWEST, int(seconds / seconds_of_a_step(models[name], shared)))
        write_json(path, known)
    return {name: known[key(name)] for name in models}


def seconds_of_a_step(config: Config, place: Run) -> float:
    """Of training, by the difference of a longer and a shorter one, each the fastest of several."""
    shorter, longer = (min(seconds_of(config, place, steps) for _ in range(REPEATS)) for steps in TIMED)
    return max(longer - shorter, 1e-6) / (TIMED[1] - TIMED[0])


def seconds_of(config: Config, place: Run, steps: int) -> float:
    """Of a training of so many steps, which is then forgotten."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        STEPS[config.training](config, place, steps, Run(Path(folder)))
        return time.monotonic() - start


def some_steps(config: Config, place: Run, steps: int, run: Run):
    memory = build(config)[1]
    memory.config = replace(memory.config, steps=steps)
    latents = open_latents(place, config.collect.min_steps, place.load("vision", "train_vision")[1]["digest"])
    train_memory(memory.to(device(config)), latents, run, {}, config.seed)


def some_joint_steps(config: Config, place: Run, steps: int, run: Run):
    vision, memory = (part.to(device(config)) for part in build(config))
    episodes = EpisodeFolder(place.episodes, config.collect.min_steps)
    train_jointly(vision, memory, replace(config.joint, steps=steps), episodes, run, {}, config.seed)


STEPS: dict[str, Callable[[Config, Run, int, Run], None]] = {"staged": some_steps, "jointly": some_joint_steps}


def build(config: Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    """V and M, untrained."""
    info = plain({"vision": config.vision, "memory": config.memory})
    return build_vision(info), build_memory(info, task_of(config))
