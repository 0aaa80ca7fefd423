"""What CarRacing's runs learned, by minutes and by frames of the game, beside the log of the paper's authors.

    python benchmarks/learning_curve.py --runs data/car_racing/seed0 data/car_racing/seed1 \
        --out curve.json --picture curve.png

A point is the controller of a round: 40 tracks drawn our way, more for the last round and before one in the game.
Minutes are those of collecting and training. Frames are those of collected episodes, and of a round in the game, whose
episodes are counted as whole ones, at most.
"""

import argparse
from pathlib import Path

from pipeline.command import in_the_real_round
from pipeline.presets import KINDS, Config
from pipeline.report import history
from worldmodels.files import write_json
from worldmodels.metrics import read_metrics
from worldmodels.report import plots
from worldmodels.report.scores import own_score
from worldmodels.report.verdict import AUTHORS_LOG, PAPER
from worldmodels.runs import Run

FRAMES = 1000               # of an episode, at most
AUTHORS = AUTHORS_LOG["car_racing"]
ROLLOUTS = 64 * 16          # of a generation of theirs


def frames_of(config: Config, run: Run) -> float:
    """Frames of the game that a round used to learn from."""
    if in_the_real_round(config, run.round):
        learner = config.real_learner
        return learner.steps / learner.passes / learner.parts * learner.batch * FRAMES
    rows = read_metrics(run.folder, "collect")
    counts = [row["step"] - before["step"] for before, row in zip([{"step": 0}, *rows], rows)]
    return sum(count * row["steps"] for count, row in zip(counts, rows)) * config.collect.repeat


def points(run: Run) -> list[dict]:
    """Of each round, all of which must be scored."""
    config, found, frames = run.settings(Config, kinds=KINDS), [], 0.0
    for part, (minutes, scores) in zip(run.until_now, history(run), strict=True):
        frames += frames_of(config, part)
        game, dream = (own_score(scores, world) for world in ("real", "dream"))
        found.append({"round": part.round, "minutes": round(minutes, 1), "frames": int(frames),
                      "in_the_game": in_the_real_round(config, part.round),
                      "game": round(game["mean"], 1), "std": round(game["std"], 1), "episodes": game["episodes"],
                      "dream": round(dream["mean"], 1)})
    return found


def curve(found: dict[str, list[dict]], x: str, title: str, label: str) -> plots.Panel:
    def panel(axis):
        for name, rounds in found.items():
            axis.plot([point[x] for point in rounds], [point["game"] for point in rounds], "o-", ms=5, label=name)
        if x == "frames":
            axis.plot([generation * ROLLOUTS * FRAMES for generation, _ in AUTHORS], [mean for _, mean in AUTHORS],
                      "k^--", ms=5, label="the paper's authors, in the game")
            axis.set_xscale("log")
        axis.axhline(PAPER["car_racing"].mean, color="black", lw=1, ls=":", label="the paper's controller")
        plots.finish(axis, title, label, "mean return in the game")
    return panel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="their folders")
    parser.add_argument("--out", type=Path, help="a JSON file for the points")
    parser.add_argument("--picture", type=Path, help="a PNG file")
    options = parser.parse_args()
    found = {}
    for folder in options.runs:
        run = Run(folder).last("controller")
        found[f"seed {run.settings(Config, kinds=KINDS).seed}"] = points(run)
    for name, rounds in found.items():
        for point in rounds:
            print(name, *(f"{key} {value}" for key, value in point.items()), sep=", ")
    if options.out:
        write_json(options.out, {"runs": found})
    if options.picture:
        panels = [curve(found, "minutes", "By time", "minutes of collecting and training"),
                  curve(found, "frames", "By frames of the game", "frames of the game learned from")]
        plots.save(plots.sheet(panels), options.picture)


if __name__ == "__main__":
    main()
