"""One controller in CarRacing as gymnasium draws it and as we do: the same tracks, the same score.

    python benchmarks/same_game.py --run data/car_racing/quick [--episodes 200] [--workers 2]

Physics and rewards are the same to the last bit (tests/envs/test_fast_car_racing.py). What differs is the controller's
view, by 0.4 of 255. From the first different action on the two drives go their own ways. Both sets of drives are means
over the same tracks with the same noise in z. The fast game is the same game if the difference of the two is within its
95% interval.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldmodels.agent import load_controller, open_agent
from worldmodels.executors import LocalExecutor
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
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=2_000_000_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    run, agent = open_agent("car_racing", options.run, with_checkpoint="controller")
    controller, collect = load_controller(run, agent), run.settings(CollectConfig, "collect")
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    returns = {}
    with LocalExecutor(options.workers) as executor:
        for drawing in ("official", "fast"):
            settings = env_settings(agent.task, replace(collect, drawing=drawing))
            fitness = RealFitness(executor, agent, agent.task.max_steps, settings)
            start = time.monotonic()
            with tqdm(total=len(seeds), desc=drawing, unit="episode") as bar:
                returns[drawing] = fitness(controller, seeds, bar)[0].astype(np.float64)
            print(f"{drawing:10} {interval(returns[drawing])}   {time.monotonic() - start:.0f} s", flush=True)
    print(f"difference {interval(returns['fast'] - returns['official'])}")


if __name__ == "__main__":
    main()
