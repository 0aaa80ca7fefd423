"""How evolution went, generation by generation, beside the logs of the paper's authors.

    python benchmarks/evolution_curve.py --runs data/car_racing/faithful data/take_cover/faithful --picture curve.png

A line is the mean of a generation's members; points are scores of the CMA mean in 1,024 episodes. Both are of the world
that the controller evolves in: CarRacing's game, TakeCover's dream.
"""

import argparse
from pathlib import Path

from pipeline.presets import KINDS, Config
from worldmodels.metrics import read_metrics
from worldmodels.report import plots
from worldmodels.report.verdict import AUTHORS_LOG
from worldmodels.runs import Run


def evolution(config: Config, rows: list[dict]) -> plots.Panel:
    world = "in the game" if config.world == "real" else f"in the dream, tau {config.dream.temperature:g}"
    scored = [row for row in rows if "mean_controller" in row]

    def panel(axis):
        axis.plot([row["step"] for row in rows], [row["mean"] for row in rows], lw=1.2, color=plots.COLOURS["real"],
                  label="members, mean")
        axis.plot([row["step"] for row in scored], [row["mean_controller"] for row in scored], "o-", ms=5,
                  color=plots.COLOURS["dream"], label="CMA mean")
        authors = [(generation, score) for generation, score in AUTHORS_LOG[config.task] if generation <= len(rows)]
        axis.plot(*zip(*authors), "k^--", ms=5, label="CMA mean, the authors' log")
        plots.finish(axis, f"{config.task}: {world}", "generation", "mean return")
    return panel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="their folders")
    parser.add_argument("--picture", type=Path, required=True, help="a PNG file")
    options = parser.parse_args()
    panels = []
    for run in map(Run, options.runs):
        config, rows = run.settings(Config, kinds=KINDS), read_metrics(run.folder, "controller")
        panels.append(evolution(config, rows))
        for row in rows:
            if "mean_controller" in row:
                print(f"{config.task}, generation {row['step']}: members {row['mean']:.1f}, "
                      f"mean {row['mean_controller']:.1f}")
    plots.save(plots.sheet(panels), options.picture)


if __name__ == "__main__":
    main()
