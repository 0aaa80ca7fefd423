"""What --dream.precision bfloat16 changes: the dream's speed, and the returns that a trained controller has in it.

    python benchmarks/bfloat16.py [--dreams 10000] [--tasks car_racing take_cover]

V, M and the controller of each game's published run dream from first frames on, as long as in the run's training, with
the same seeds in float32 and in bfloat16: 1,024 dreams a turn, which the precisions take alternately. Speed is the
median over turns. Means are shown with their standard errors; the difference is that of the means, with the standard
error of the differences from seed to seed.
"""

import argparse
import os
import time
from dataclasses import replace

import numpy as np

from worldmodels.agent import load_controller, open_agent
from worldmodels.executors import LocalExecutor
from worldmodels.latents import open_latents
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.fitness import DreamFitness

PER_TURN = 1024
FIRST_SEED = 1_500_000_000      # of those for development


def compare(task: str, dreams: int, executor: LocalExecutor):
    run, agent = open_agent(task, with_checkpoint="controller")
    controller = load_controller(run, agent)
    latents = open_latents(run, 0, agent.vision_digest, agent.memory.config.latent)
    config = replace(run.settings(DreamConfig, "dream"), start="first")
    fitness = {precision: DreamFitness(agent, DreamWorld(agent.memory, latents, replace(config, precision=precision)),
                                       executor) for precision in ("float32", "bfloat16")}
    returns, rates = ({precision: [] for precision in fitness} for _ in range(2))
    for first in range(0, dreams, PER_TURN):
        seeds = range(FIRST_SEED + first, FIRST_SEED + min(first + PER_TURN, dreams))
        for precision, dream in fitness.items():
            start = time.perf_counter()
            played = dream.play(controller, seeds)[:, 0]
            rates[precision].append(played[1].sum() / (time.perf_counter() - start))
            returns[precision].append(played[0])
    print(f"\n{task}: {agent.memory.config.hidden_size} cells, {dreams:,} dreams of at most {config.max_steps} steps")
    for precision in fitness:
        found = returns[precision] = np.concatenate(returns[precision])
        print(f"  {precision:8}  {np.median(rates[precision]):9,.0f} steps/s   mean return {found.mean():8.2f} "
              f"± {found.std(ddof=1) / np.sqrt(len(found)):.2f}")
    difference = returns["bfloat16"] - returns["float32"]
    error, mean = difference.std(ddof=1) / np.sqrt(len(difference)), returns["float32"].mean()
    faster = np.median(np.divide(rates["bfloat16"], rates["float32"]))
    print(f"  bfloat16: {faster:.2f} × as fast; returns {difference.mean() / mean:+.2%} ± {error / abs(mean):.2%}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dreams", type=int, default=10_000, help="of each game and precision")
    parser.add_argument("--tasks", nargs="+", default=["car_racing", "take_cover"])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with LocalExecutor(options.workers) as executor:
        for task in options.tasks:
            compare(task, options.dreams, executor)


if __name__ == "__main__":
    main()
