"""What every stage script shares: the command line, the run's folder, and errors in one line."""

import contextlib
import functools
import math
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Callable, Iterator

import torch

from pipeline.presets import PRESETS, Config
from worldmodels.commandline import errors_in_one_line, parsed
from worldmodels.envs import TASKS
from worldmodels.envs.car_racing import GAMES
from worldmodels.evaluate import git_commit
from worldmodels.files import write_atomic, write_json
from worldmodels.memory import DEATH, MEMORIES
from worldmodels.runs import Run
from worldmodels.types import UserError
from worldmodels.worlds.dream import STARTS

SEEDS = 10_000_000      # episodes that a run's seed may collect

Stage = Callable[[Config, Run], None]


def main(stage: Stage, arguments: list[str] | None = None):
    """Parses the command line and runs a stage."""
    with errors_in_one_line("goes on from here"):
        config = parse(sys.argv[1:] if arguments is None else arguments, stage.__doc__)
        with open_run(config) as run, kept_settings(config, run):
            stage(config, run.at(config.rounds))


def clocked(stage: Stage) -> Stage:
    """The same stage, whose seconds are added to what wall.json says of it; the curve against wall time is drawn from there."""
    @functools.wraps(stage)
    def timed(config: Config, run: Run):
        start = time.monotonic()
        try:
            stage(config, run)
        finally:
            if run.folder.exists():                 # not where a round before is missing
                seconds = run.seconds
                spent = seconds.get(stage.__name__, 0) + time.monotonic() - start
                write_json(run.wall, seconds | {stage.__name__: round(spent, 1)})
    return timed


def parse(arguments: list[str], description: str | None = None) -> Config:
    """The settings: a preset, or those of an existing run named without a preset, then what the command line changes."""
    base = Config()
    chosen = {name: option(arguments, name) or getattr(base, name) for name in ("task", "preset", "run", "data")}
    run = Run(Path(chosen["data"]) / chosen["task"] / (chosen["run"] or chosen["preset"]))
    if option(arguments, "preset") is None and chosen["run"] and run.config.exists():
        default = run.settings(Config)
    else:                                       # a wrong task or preset is left for the parser to name
        default = PRESETS.get((chosen["task"], chosen["preset"]), Config)()
    config = parsed(default, arguments, description)
    if (config.task, config.preset) not in PRESETS:
        raise UserError(f"--task {config.task} has no --preset {config.preset}: choose one of "
                        + ", ".join(preset for task, preset in PRESETS if task == config.task))
    config = replace(config, run=config.run or config.preset)
    check(config)
    return config


def option(arguments: list[str], name: str) -> str | None:
    """The value of --name in the arguments, wherever it stands."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


COUNTS = {"rounds", "again", "steps", "batch", "episodes", "max_steps", "generations", "z_size", "channels", "hidden_size",
          "mixtures", "sequence", "repeat", "eval_every", "eval_episodes", "trainings", "random_episodes", "dream_episodes",
          "transfer_episodes", "video_steps"}           # at least 1
LEAST = {"dream.temperature": 1e-6, "controller.population": 4, "vision.learning_rate": 1e-12, "memory.learning_rate": 1e-12,
         "controller.sigma": 1e-12}


def check(config: Config):
    """Raises UserError for a value that no stage could use."""
    choices = {"--collect.policy": (config.collect.policy, TASKS[config.task].policies),
               "--memory.kind": (config.memory.kind, MEMORIES), "--memory.death": (config.memory.death, DEATH),
               "--dream.start": (config.dream.start, STARTS), "--collect.drawing": (config.collect.drawing, GAMES)}
    for flag, (value, allowed) in choices.items():
        if value not in allowed:
            raise UserError(f"{flag} {value}: choose one of {', '.join(allowed)}")
    for path, value in [*leaves(asdict(config)), *(("dream.temperature", tau) for tau in config.sweep.temperatures)]:
        least = LEAST.get(path.removeprefix("sweep."), 1 if path.split(".")[-1] in COUNTS else 0)
        if isinstance(value, (int, float)) and not value >= least:
            raise UserError(f"--{path.replace('_', '-')} {value}: must be at least {least:g}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{path.replace('_', '-')} {value}: must be finite")
    if Path(config.run).name != config.run or config.run in (".", ".."):
        raise UserError(f"--run {config.run}: a run is a name, not a path; --data says where runs are kept")
    if (config.seed + 1) * SEEDS > config.evaluate.first_seed:
        raise UserError(f"--seed {config.seed}: it would collect the episodes from --evaluate.first-seed {config.evaluate.first_seed} on, "
                        f"which scores are made of; each seed has {SEEDS:,} of its own")
    if config.collect.explore > 1:
        raise UserError(f"--collect.explore {config.collect.explore}: it is a share, 0 to 1")
    for flag, skills in {"--collect.skill": [config.collect.skill], "--evaluate.other-skills": config.evaluate.other_skills}.items():
        if not all(1 <= skill <= 5 for skill in skills):
            raise UserError(f"{flag} {' '.join(map(str, skills))}: Doom's skill is 1 to 5")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA GPU that torch can use; try --device cpu")


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@contextlib.contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """The run's folder, locked for this process."""
    run = Run(Path(config.data) / config.task / config.run)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.locked())
        except OSError as error:
            raise UserError(f"cannot write to {run.root} ({error.strerror}): choose another --data") from None
        yield run


@contextlib.contextmanager
def kept_settings(config: Config, run: Run):
    """Writes config.json, and puts the one before back when the command turns out not to fit the run."""
    path = run.config
    before = path.read_bytes() if path.exists() else None
    packages = {name: version(name) for name in ("torch", "numpy", "gymnasium", "vizdoom", "cma")}
    try:
        write_json(path, {"config": asdict(config), "python": platform.python_version(), "packages": packages,
                          "git_commit": git_commit()})
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another --data") from None
    try:
        yield
    except UserError:
        path.unlink() if before is None else write_atomic(path, before)
        raise


def device(config: Config) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def workers(config: Config) -> int:
    return config.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else config.workers or os.cpu_count()


# What each checkpoint records of its making; a stage is finished when the stored one equals this.

def vision_info(config: Config) -> dict:
    collect = {key: value for key, value in asdict(config.collect).items() if key not in ("again", "explore")}
    return {"task": config.task, "seed": config.seed, "collect": collect, "vision": asdict(config.vision)}


def memory_info(config: Config, run: Run) -> dict:
    info = vision_info(config) | {"memory": asdict(config.memory), "vision_digest": run.load("vision", "train_vision")[1]["digest"]}
    if run.round > 1:
        _, before = run.at(run.round - 1).load("controller", f"train_controller --rounds {run.round - 1}")
        info |= {"again": config.collect.again, "explore": config.collect.explore, "controller_before": before["digest"]}
    return info


def controller_info(config: Config, agent_digest: str) -> dict:
    dreamt = config.world == "dream" or config.controller.start != "zero"
    return {"task": config.task, "seed": config.seed, "world": config.world, "controller": asdict(config.controller),
            "agent_digest": agent_digest} | ({"dream": asdict(config.dream)} if dreamt else {})


def say(text: str):
    print(text, file=sys.stderr, flush=True)
