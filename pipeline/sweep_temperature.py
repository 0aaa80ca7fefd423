"""The paper's table of temperatures: controllers evolved in dreams of each tau, scored there and in the real game
-> report/temperature.json and temperature.png."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.at_once import all_files, train_at_once, within_a_job
from pipeline.command import main, open_executor, say, stage
from pipeline.evaluate import score_controller
from pipeline.presets import Config
from pipeline.train_controller import checked_agent, encoded, train
from worldmodels.agent import Agent, load_controller
from worldmodels.latents import Latents
from worldmodels.report import plots
from worldmodels.report.scores import table, write_scores
from worldmodels.runs import Run


@stage("sweep", of_finished=True)
def sweep_temperature(config: Config, run: Run):
    """Beside the stages: the temperature of the dream and what it does to a controller -> report/temperature.json,
    .png."""
    agent = checked_agent(config, run)
    latents = encoded(config, run, agent)
    scores, trainings = [], [(tau, training) for tau in config.sweep.temperatures
                             for training in range(config.sweep.trainings)]
    if config.trainings_at_once > 1:
        works = [partial(train_in, within_a_job(config), run.round, *which) for which in trainings
                 if not place_of(run, *which).path("controller").exists()]
        train_at_once(config, run.root, [path for path in all_files(run.root) if needed(path, run)], works)
    for tau, training in trainings:
        say(f"\ntau {tau:g}, training {training + 1} of {config.sweep.trainings}")
        scores += scores_at(dreaming(config, tau), training, tau == config.dream.temperature, run, agent, latents)
        write_scores(run.report / "temperature.json", scores)
    title = "A dream that is too certain is exploited: high returns there, low ones in the game"
    plots.save(plots.sheet(plots.temperature(scores), title), run.report / "temperature.png")
    print(table(scores))
    print(f"\nin {run.report}/: temperature.json, temperature.png")


def dreaming(config: Config, tau: float) -> Config:
    """The settings of a training at this temperature, of dreams or of the learner's own imagination."""
    learner = config.sweep.learner
    own: dict[str, Any] = {name: tau for name in ("temperature", "first_temperature") if hasattr(learner, name)}
    return replace(config, world="dream", learner=replace(learner, **own), dream=replace(config.dream, temperature=tau))


def place_of(run: Run, tau: float, training: int) -> Run:
    return run.other(run.folder / "temperature" / f"{tau:g}-{training}")


def train_in(config: Config, round: int, tau: float, training: int, folder: Path):
    """One training in a copy of the run's folder."""
    run = Run(folder, round)
    train(dreaming(config, tau), run, checked_agent(config, run), place_of(run, tau, training), training)


def needed(path: Path, run: Run) -> bool:
    """Whether a training needs the file: V, M and C, the settings and the latents."""
    parts = path.relative_to(run.root).parts
    return not {"temperature", "compare", "tensorboard", "wandb", "report", "episodes", ".lock"} & set(parts)


def scores_at(config: Config, training: int, own: bool, run: Run, agent: Agent, latents: Latents) -> list[dict]:
    """Trains a controller, or takes the one that is there, and scores it in the real game and in its dream."""
    name = f"trained at tau {config.dream.temperature:g}"
    place = place_of(run, config.dream.temperature, training)
    train(config, run, agent, place, training)
    if not own:
        config = replace(config, evaluate=replace(config.evaluate, episodes=config.sweep.episodes))
    with open_executor(config) as executor:
        scores = score_controller(config, agent, latents, load_controller(place, agent), name, executor)
    return [score | {"evolved_at": config.dream.temperature, "training": training} for score in scores]


if __name__ == "__main__":
    main(sweep_temperature)
