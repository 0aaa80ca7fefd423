"""A finished run to give away: weights, settings, scores, pictures and a model card -> data/published/."""

import shutil
from pathlib import Path

from pipeline.command import in_the_real_round, main, say, stage
from pipeline.evaluate import is_scored
from pipeline.presets import Config
from pipeline.report import history
from pipeline.train_controller import checked_agent
from worldmodels.agent import Agent, load_agent
from worldmodels.files import write_atomic
from worldmodels.report.scores import read_scores, table
from worldmodels.runs import Run
from worldmodels.types import UserError

STARTS = 64         # encoded episodes that go along: a dream begins where one of them does

CARD = """# {task}: V, M and C of the run `{run}`

`--task {task} --preset {preset} --seed {seed}`, scored at commit {commit}; every setting is in `config.json`. V is of
the kind {vision} ({v:,} parameters), M of the kind {memory} with reward and done heads ({m:,}), C of the kind
{controller} ({c:,}), trained by {learner} in {world}{start}.
Rounds of collecting and training: {rounds}; they took {minutes:.0f} minutes.

A copy of it can be scored again without training, here on other seeds, and gets a report of its own (its dreams begin
at the {starts} encoded episodes that lie here, not at all of them):

    cp -r data/published data/again
    python -m pipeline.evaluate --task {task} --data data/again --run {run} --evaluate.first-seed 2000000000

These are the scores, on seeds that nothing was trained on or chosen by (tau: the dream's temperature):

{table}

Loading the files runs no code: they are safetensors and JSON. They know this game, drawn as it is here, and nothing
else.
License: MIT.
"""
WHERE = {"dream": "the dream of M", "real": "the real game"}
TUNED = "the dream of M (that one is in round-{round}/) and then in the real game"
START = {"previous_or_zero": "", "least_squares_dream": " from least squares on dreams on",
         "least_squares": " from least squares on dreams and on the returns of recorded episodes on"}


@stage(of_finished=True)
def publish(config: Config, run: Run):
    """Beside the stages: a finished run to give away, with its scores and a model card -> data/published/."""
    agent = checked_agent(config, run)
    scores = run.report / "scores.json"
    if not is_scored(config, run, agent.digest):
        raise UserError(f"{run.folder} is not scored: run `python -m pipeline.evaluate` first")
    target = Run(run.root.parent.parent / "published" / config.task / config.run, run.round)
    if target.root.exists():
        raise UserError(f"{target.root} is there: delete it first, or choose another --run")
    if config.preset == "smoke":
        say("publish: a run of the preset smoke has learnt next to nothing")
    # what is checked for: the V, M and C that a round goes on from
    tuned = in_the_real_round(config, run.round)
    taught = [run, *([run.at(run.round - 1)] if tuned else [])]
    before = [round.path("memory") for round in taught]
    before += [round.at(round.round - 1).path("controller") for round in taught if round.round > 1]
    pictures = [path for path in run.report.glob("*.png") if not path.name.startswith("compare-")]
    files = [*pictures, *run.report.glob("temperature.json"), run.report / "made_with.json", *before,
             *map(run.path, ("vision", "controller")), *sorted(run.latents_of(run.at(1)).glob("*"))[:STARTS]]
    for round in run.until_now:
        files += [path for path in (round.folder / "metrics.jsonl", round.wall, round.report / "scores.json")
                  if path.exists()]
    files += compared(run, agent)
    files += [path.with_suffix(".json") for path in files if path.parent.name == "checkpoints"]
    for path in [*files, run.config]:
        copy = target.root / path.relative_to(run.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    card = CARD.format(task=config.task, run=config.run, starts=STARTS, preset=config.preset, seed=config.seed,
                       world=TUNED.format(round=run.round - 1) if tuned else WHERE[config.world], rounds=run.round,
                       vision=config.vision.kind, memory=config.memory.kind, controller=config.controller.kind,
                       learner=config.learner.kind,
                       start=START[getattr(config.learner, "start", "previous_or_zero")],
                       commit=read_scores(scores)[0]["git_commit"],
                       minutes=list(history(run))[-1][0], v=sum(p.numel() for p in agent.vision.parameters()),
                       m=sum(p.numel() for p in agent.memory.parameters()),
                       c=run.load("controller", "train_controller")[0]["parameters"].numel(),
                       table="\n".join("    " + line for line in table(read_scores(scores)).splitlines()))
    write_atomic(target.root / "README.md", card.encode())
    size = sum(path.stat().st_size for path in target.root.rglob("*") if path.is_file()) / 1e6
    print(f"published: {target.root}, {size:.1f} MB")


def compared(run: Run, agent: Agent) -> list[Path]:
    """The files of the world models that were compared with the run's own; of V only where it is not the run's."""
    files = []
    for model in run.compared.values():
        files += [model.config, model.root / "entry.json", *map(model.path, ("memory", "controller"))]
        if load_agent(model).vision_digest != agent.vision_digest:
            files.append(model.path("vision"))
    return files


if __name__ == "__main__":
    main(publish)
