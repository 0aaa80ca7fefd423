"""A finished run, opened to be looked at: what the notebooks begin with."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.__main__ import pipeline
from pipeline.command import main, open_executor, stored_settings
from pipeline.evaluate import whole_dream
from pipeline.presets import Config
from pipeline.train_controller import encoded
from worldmodels import runs
from worldmodels.agent import Agent, load_controller, open_agent
from worldmodels.controller import PolicySpec
from worldmodels.controller.cma_es import scored_means
from worldmodels.files import read_json
from worldmodels.latents import Latents
from worldmodels.report.scores import score
from worldmodels.runs import Run, find
from worldmodels.types import Executor, UserError
from worldmodels.worlds.collect import env_settings
from worldmodels.worlds.fitness import DreamFitness, RealFitness
from worldmodels.worlds.record import Recording, record_games


class Finished(NamedTuple):
    """A run's last round."""

    config: Config
    run: Run
    agent: Agent
    latents: Latents            # where dreams begin
    controller: PolicySpec
    means: PolicySpec           # the N means of the evolution that were scored on the way
    generations: np.ndarray     # [N] when that was

    def executor(self) -> Executor:
        """Worker processes, as many as the run's settings say; to be closed."""
        return open_executor(self.config)

    def seeds(self, count: int) -> range:
        """Of so many episodes (of few on a run of tiny settings) that were not collected and are not among those that
        the report scores."""
        first = self.config.evaluate.first_seed + 10**6
        return range(first, first + min(count, 10 * self.config.evaluate.episodes))

    def watch(self, seeds: Sequence[int]) -> list[Recording]:
        """An episode of the game for each seed, played by the run's controller."""
        return record_games(self.agent, self.controller, env_settings(self.agent.task, self.config.collect), seeds)

    def game(self, executor: Executor) -> RealFitness:
        """Fitness in the real game, as long as it officially is."""
        task = self.agent.task
        return RealFitness(executor, self.agent, task.max_steps, env_settings(task, self.config.collect))

    def dream(self, executor: Executor, temperature: float | None = None) -> DreamFitness:
        """Fitness in dreams as long as the game, at the run's own temperature or another."""
        config = self.config
        if temperature is not None:
            config = replace(config, dream=replace(config.dream, temperature=temperature))
        return DreamFitness(self.agent, whole_dream(config, self.agent, self.latents), executor, config.gpus)

    def scores(self, returns: dict[str, np.ndarray], names: Sequence[str]) -> list[dict]:
        """Entries as in scores.json, of returns [P, E] of controllers of these names in the "real" game and in the
        "dream" of the run's own temperature."""
        tau = {"real": None, "dream": self.config.dream.temperature}
        return [score(self.agent.task, world, name, row, temperature=tau[world]) for world, rows in returns.items()
                for name, row in zip(names, rows, strict=True)]


def finished(task: str, run: str | Path | None = None) -> Finished:
    """A run by its folder or name; without one, that which $WORLDMODELS_RUN names, or the published one. The run
    `smoke` is made, in a minute, where it is not there or not finished."""
    run = run or os.environ.get("WORLDMODELS_RUN")
    if run == "smoke":
        make_smoke(task)
    found, agent = open_agent(task, run, with_checkpoint="controller")
    config, controller = stored_settings(found), load_controller(found, agent)
    means, generations = scored_means(found.load("controller", "train_controller")[0])
    if means.shape != (*generations.shape, agent.parameter_count(controller.config)):
        raise UserError(f"{found.path('controller')} has means of another size than its controller: delete it and run "
                        "`python -m pipeline.train_controller`")
    return Finished(config, found, agent, encoded(config, found, agent), controller,
                    controller._replace(arrays={"parameters": means}), generations)


class Compared(NamedTuple):
    """World models compared (pipeline.compare)."""

    entries: list[dict]         # as report/comparison.py has them
    controllers: list[dict]     # as report/ways_to_act.py has them
    seconds: float              # that each M was trained for
    report: Path                # the folder of the pictures


def compared(task: str, run: str | Path | None = None) -> Compared:
    """The comparison of a run, by its folder or name; without one, the published comparison."""
    report = runs.PUBLISHED / task / "compare" if run is None else find(task, run).last("controller").report
    if not (path := report / "compare.json").exists():
        raise UserError(f"{report} has no comparison: `python -m pipeline.compare` makes one of a finished run")
    found = {"controllers": []} | read_json(path)
    lists = [found.get("entries"), found["controllers"]]
    if not all(isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists) \
            or type(found.get("seconds")) not in (int, float):
        raise UserError(f"{path} is damaged: restore it, or run `python -m pipeline.compare` again")
    return Compared(*lists, found["seconds"], report)


def make_smoke(task: str):
    """Makes or finishes the run `smoke`, where `find` will find it."""
    try:
        smoke = find(task, "smoke")
    except UserError:
        smoke = Run(runs.DATA / task / "smoke")
    if not smoke.path("controller").exists():
        main(pipeline, ["--task", task, "--preset", "smoke", "--data", str(smoke.root.parents[1])])
