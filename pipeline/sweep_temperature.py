"""The paper's table of temperatures: controllers evolved in dreams of each tau, scored there and in the real game
-> report/temperature.json and temperature.png."""

from dataclasses import replace

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
    scores = []
    for tau in config.sweep.temperatures:
        for training in range(config.sweep.trainings):
            say(f"\ntau {tau:g}, training {training + 1} of {config.sweep.trainings}")
            dreaming = replace(config, world="dream", learner=config.sweep.learner,
                               dream=replace(config.dream, temperature=tau))
            scores += scores_at(dreaming, training, tau == config.dream.temperature, run, agent, latents)
            write_scores(run.report / "temperature.json", scores)
    title = "A dream that is too certain is exploited: high returns there, low ones in the game"
    plots.save(plots.sheet(plots.temperature(scores), title), run.report / "temperature.png")
    print(table(scores))
    print(f"\nin {run.report}/: temperature.json, temperature.png")


def scores_at(config: Config, training: int, own: bool, run: Run, agent: Agent, latents: Latents) -> list[dict]:
    """Trains a controller, or takes the one that is there, and scores it in the real game and in its dream."""
    name = f"trained at tau {config.dream.temperature:g}"
    place = Run(run.folder / "temperature" / f"{config.dream.temperature:g}-{training}")
    train(config, run, agent, place, training)
    if not own:
        config = replace(config, evaluate=replace(config.evaluate, episodes=config.sweep.episodes))
    with open_executor(config) as executor:
        scores = score_controller(config, run, agent, latents, load_controller(place, agent), name, executor)
    return [score | {"evolved_at": config.dream.temperature, "training": training} for score in scores]


if __name__ == "__main__":
    main(sweep_temperature)
