"""One controller in CarRacing as gymnasium draws it and as we do: the same tracks, the same score.

    python benchmarks/same_game.py --run data/car_racing/quick [--round 8] [--episodes 200] \
        [--official 200] [--workers 2] [--out scores.json]

Physics and rewards are the same to the last bit (tests/envs/test_fast_car_racing.py). What differs is the controller's
view, by 0.4 of 255. From the first different action on the two drives go their own ways. Both sets of drives are means
over the same tracks with the same noise in z. The fast game is the same game if the difference of the two is within its
95% interval.
The official drives may be fewer, on the first of the tracks.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldmodels.agent import load_agent, load_controller, open_agent
from worldmodels.executors import LocalExecutor
from worldmodels.files import write_json
from worldmodels.report.scores import git_commit
from worldmodels.report.statistics import half_width
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.fitness import RealFitness


def interval(values: np.ndarray) -> str:
    mean, half = values.mean(), half_width(values)
    words = "too few episodes" if np.isnan(half) else f"{mean - half:7.1f} to {mean + half:7.1f}"
    return f"{mean:8.1f} ± {values.std(ddof=1):6.1f}   95% interval of the mean: {words}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a folder with V, M and C of CarRacing")
    parser.add_argument("--round", type=int, help="the round whose controller drives; the last one")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--official", type=int, help="of them drawn by gymnasium; all")
    parser.add_argument("--first-seed", type=int, default=2_000_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the returns")
    options = parser.parse_args()
    run, agent = open_agent("car_racing", options.run, with_checkpoint="controller")
    if options.round:
        run = run.at(options.round)
        agent = load_agent(run)
    controller, collect = load_controller(run, agent), run.settings(CollectConfig, "collect")
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    official = options.episodes if options.official is None else options.official
    counts = {"fast": options.episodes, "official": official}
    returns = {}
    with LocalExecutor(options.workers) as executor:
        for drawing, count in counts.items():
            settings = env_settings(agent.task, replace(collect, drawing=drawing))
            fitness = RealFitness(executor, agent, agent.task.max_steps, settings)
            start = time.monotonic()
            with tqdm(total=count, desc=drawing, unit="episode") as bar:
                played, lengths = fitness.play(controller, seeds[:count], bar)[:, 0].astype(np.float64)
            returns[drawing] = played
            low, median = np.percentile(played, (5, 50))
            finished = lengths * agent.repeat < agent.task.max_steps
            print(f"{drawing:10} {interval(played)}   {time.monotonic() - start:.0f} s; median {median:.0f}, 5% below "
                  f"{low:.0f}, laps finished {finished.mean():.0%}", flush=True)
    if official:
        print(f"difference {interval(returns['fast'][:official] - returns['official'])}")
    if options.out:
        found = {name: values.round(2).tolist() for name, values in returns.items()}
        write_json(options.out, {"run": run.root.name, "round": run.round, "first_seed": options.first_seed,
                                 "git_commit": git_commit(), **found})


if __name__ == "__main__":
    main()
