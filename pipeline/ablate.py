"""The paper's ablation (its sec. 3.3): controllers that see less than z and h, and those whose M, or V and M, are
untrained, each evolved in the real game by the same budget -> report/ablation.json and ablation.png."""

from dataclasses import replace
from typing import NamedTuple

from pipeline.command import main, open_executor, say, stage
from pipeline.evaluate import score_played
from pipeline.presets import Config
from pipeline.train_controller import checked_agent, train
from worldmodels.agent import Agent, load_controller
from worldmodels.controller import ControllerConfig
from worldmodels.files import read_json, write_json
from worldmodels.report import plots
from worldmodels.report.scores import table, write_scores
from worldmodels.runs import Run, differences, plain, seed_of
from worldmodels.types import UserError


class Ablation(NamedTuple):
    """What is left of the agent."""

    sees: str = "all"                   # of the features
    controller: str = "controller"      # which of the settings `ablate`
    untrained: tuple[str, ...] = ()     # "vision", "memory"


ABLATIONS = {
    "z": Ablation(sees="z"),
    "z, hidden layer": Ablation(sees="z", controller="hidden"),
    "z and h": Ablation(),
    "untrained M": Ablation(untrained=("memory",)),
    "untrained V and M": Ablation(untrained=("vision", "memory")),
}


@stage("ablate", of_finished=True)
def ablate(config: Config, run: Run):
    """Beside the stages: what z, h, and trained V and M are worth to a controller -> report/ablation.json, .png."""
    chosen = config.ablate.which or tuple(ABLATIONS)
    if unknown := set(chosen) - ABLATIONS.keys():
        raise UserError(f"--ablate.which {' '.join(sorted(unknown))}: choose from {', '.join(ABLATIONS)}")
    agent, scores = checked_agent(config, run), []
    for name in (name for name in ABLATIONS if name in chosen):
        say(f"\n{name}")
        scores.append(scored(config, name, ABLATIONS[name], run, agent))
        write_scores(run.report / "ablation.json", scores)
    title = "Controllers evolved in the game, with equal budgets"
    plots.save(plots.sheet([plots.ablation(scores)], title, 1, (7, 3)), run.report / "ablation.png")
    print(table(scores))
    print(f"\nin {run.report}/: ablation.json, ablation.png")


def scored(config: Config, name: str, ablation: Ablation, run: Run, agent: Agent) -> dict:
    """Trains a controller, or takes the one that is there, and scores it in the real game."""
    seed = seed_of(config.seed, run.round, "untrained")
    agent = agent.untrained(ablation.untrained, seed) if ablation.untrained else agent
    controller: ControllerConfig = replace(getattr(config.ablate, ablation.controller), sees=ablation.sees)
    config = replace(config, world="real", controller=controller, learner=config.ablate.learner,
                     evaluate=replace(config.evaluate, episodes=config.ablate.episodes))
    place = run.other(run.folder / "ablation" / name.replace(", ", "-").replace(" ", "-"))
    train(config, run, agent, place)
    settings, known = {"evaluate": config.evaluate, "agent": agent.digest}, place.root / "score.json"
    if known.exists() and not differences((found := read_json(known))["settings"], settings):
        return found["score"]
    with open_executor(config) as executor:
        score = score_played(config, agent, load_controller(place, agent), name, executor)
    write_json(known, {"score": score, "settings": plain(settings)})
    return score


if __name__ == "__main__":
    main(ablate)
