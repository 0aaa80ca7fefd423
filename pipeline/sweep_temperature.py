"""The paper's table of temperatures: controllers evolved in dreams of each tau, scored there and in the real game
-> report/temperature.json and temperature.png."""

from dataclasses import replace

from pipeline.command import main, say, workers
from pipeline.evaluate import score_controller
from pipeline.presets import Config
from pipeline.train_controller import checked_agent, encoded, evolved
from worldmodels import plots
from worldmodels.evaluate import table
from worldmodels.executors import LocalExecutor
from worldmodels.files import write_json
from worldmodels.memory.latents import Latents
from worldmodels.runs import Run
from worldmodels.worlds.agent import Agent


def sweep_temperature(config: Config, run: Run):
    """Beside the stages: the temperature of the dream and what it does to a controller -> report/temperature.json, .png."""
    agent, digest = checked_agent(config, run)
    latents = encoded(config, run, digest)
    scores = []
    for tau in config.sweep.temperatures:
        for training in range(config.sweep.trainings):
            say(f"\ntau {tau:g}, training {training + 1} of {config.sweep.trainings}")
            dreaming = replace(config, world="dream", controller=config.sweep.controller, seed=config.seed + training,
                               dream=replace(config.dream, temperature=tau))
            scores += scores_at(dreaming, tau == config.dream.temperature, run, agent, digest, latents)
            write_json(run.report / "temperature.json", scores)
    title = "A dream that is too certain is exploited: high returns there, low ones in the game"
    plots.save(plots.sheet(plots.temperature(scores), title), run.report / "temperature.png")
    print(table(scores))
    print(f"\nin {run.report}/: temperature.json, temperature.png")


def scores_at(config: Config, own: bool, run: Run, agent: Agent, digest: str, latents: Latents) -> list[dict]:
    """Evolves a controller, or takes the one that is there, and scores it in the real game and in its dream."""
    name = f"evolved at tau {config.dream.temperature:g}"
    place = Run(run.folder / "temperature" / f"{config.dream.temperature:g}-{config.seed}")
    evolved(config, run, agent, digest, place)
    if not own:
        config = replace(config, evaluate=replace(config.evaluate, episodes=config.sweep.episodes))
    controller = place.load("controller", "sweep_temperature")[0]["parameters"].numpy()
    with LocalExecutor(workers(config)) as executor:
        scores = score_controller(config, run, agent, digest, latents, controller, name, executor)
    return [score | {"evolved_at": config.dream.temperature, "seed": config.seed} for score in scores]


if __name__ == "__main__":
    main(sweep_temperature)
