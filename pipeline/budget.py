"""Budgets of seconds as steps of an optimiser: how many fit into them on this machine."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.command import device, say, task_of
from pipeline.presets import Config
from worldmodels.agent import build_memory, build_vision
from worldmodels.episodes import EpisodeFolder
from worldmodels.files import read_json, write_json
from worldmodels.latents import open_latents
from worldmodels.memory.joint import train_jointly
from worldmodels.memory.train import train_memory
from worldmodels.runs import Run, differences, plain
from worldmodels.types import Memory, Vision
from worldmodels.vision.train import train_vision

FEWEST = 20                     # optimiser steps
TIMED, REPEATS = (5, 25), 2     # steps of the two trainings by which a step is timed, and how often
FRAMES = 5_000                  # of the episodes that V sees in them


def within_budget(models: dict[str, Config], base: Run, path: Path) -> dict[str, Config]:
    """The world models with as many steps of training as fit into their budgets on this machine. A step of each is
    timed once, one model after the other on the episodes of `base`, and the numbers of steps are kept at `path`."""
    known, found = read_json(path) if path.exists() else {}, {}
    for name, config in models.items():
        budget = config.compare
        key = f"{name}, {budget.seconds} + {budget.vision_seconds} s"
        if key not in known:
            say(f"timing a step of {name}")
            steps_in = lambda seconds, train, config=config: max(
                FEWEST, int(seconds / seconds_of_a_step(train, config, base)))
            if config.training == "jointly":
                known[key] = {"joint": steps_in(budget.seconds + budget.vision_seconds, of_both)}
            else:
                own = {"vision": steps_in(budget.vision_seconds, of_vision)} if trains_vision(config, base) else {}
                known[key] = own | {"memory": steps_in(budget.seconds, of_memory)}
            write_json(path, known)
        found[name] = replace(config, **{section: replace(getattr(config, section), steps=steps)
                                         for section, steps in known[key].items()})
    return found


def trains_vision(config: Config, base: Run) -> bool:
    """Whether a world model has a V of its own: one of other settings, or one that is trained together with M."""
    stored = {"vision": base.load("vision", "train_vision")[1]["vision"]}
    return config.training == "jointly" or bool(differences(stored, {"vision": config.vision}))


Training = Callable[[Config, Run, int, Run], None]      # so many steps on a run's episodes, kept in another run


def seconds_of_a_step(train: Training, config: Config, base: Run) -> float:
    """By the difference of a longer and a shorter training, each the fastest of several."""
    shorter, longer = (min(seconds_of(train, config, base, steps) for _ in range(REPEATS)) for steps in TIMED)
    return max(longer - shorter, 1e-6) / (TIMED[1] - TIMED[0])


def seconds_of(train: Training, config: Config, base: Run, steps: int) -> float:
    """Of a training, which is then forgotten."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        train(config, base, steps, Run(Path(folder)))
        return time.monotonic() - start


def of_vision(config: Config, base: Run, steps: int, place: Run):
    vision = build(config)[0]
    vision.config = replace(vision.config, steps=steps)
    train_vision(vision, episodes(config, base), place, {}, config.seed)


def of_memory(config: Config, base: Run, steps: int, place: Run):
    memory = build(config)[1]
    memory.config = replace(memory.config, steps=steps)
    digest = base.load("vision", "train_vision")[1]["digest"]
    latents = open_latents(base, config.collect.min_steps, digest, config.memory.latent)
    train_memory(memory, latents, place, {}, config.seed)


def of_both(config: Config, base: Run, steps: int, place: Run):
    train_jointly(*build(config), replace(config.joint, steps=steps), episodes(config, base), place, {}, config.seed)


def build(config: Config) -> tuple[Vision, Memory]:
    """V and M, untrained."""
    info = plain({"vision": config.vision, "memory": config.memory})
    return build_vision(info).to(device(config)), build_memory(info, task_of(config)).to(device(config))


def episodes(config: Config, base: Run) -> EpisodeFolder:
    """As many as a short training needs: to read more would take longer than its steps."""
    found = EpisodeFolder(base.episodes, config.collect.min_steps)
    enough = int(found.lengths.cumsum().searchsorted(FRAMES)) + 1
    found.paths, found.lengths = found.paths[:enough], found.lengths[:enough]
    return found
