"""Which temperature do recorded returns ask for? The controller of each round in the dream of the next round's M.

    python benchmarks/recorded_temperature.py --run data/car_racing/laptop [--temperatures 0.5 1 1.5] [--dreams 256]

M of a round was trained on what the controller of the round before collected, and this one has been scored in the game:
a dream that is as hard as the game pays it the same. Rounds that train V on are left out: that controller knows another
V.
"""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from worldmodels.agent import load_agent, load_controller
from worldmodels.latents import open_latents
from worldmodels.report.scores import own_score, read_scores
from worldmodels.runs import Run
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.fitness import DreamFitness

FIRST_SEED = 1_000_005_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a folder of several rounds, with episodes and scores")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.15, 1.3, 1.5])
    parser.add_argument("--dreams", type=int, default=256)
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.dreams)
    rounds = [(run, load_agent(run)) for run in Run(options.run).last("memory").until_now]
    print("round  in the game  " + "".join(f"{f'tau {tau:g}':>12}" for tau in options.temperatures))
    for (before, old), (run, agent) in pairwise(rounds):
        if old.digest == agent.digest or old.vision_digest != agent.vision_digest:
            continue
        controller, config = load_controller(before, old), run.settings(DreamConfig, "dream")
        latents = open_latents(run, 0, agent.vision_digest, agent.memory.config.latent)
        means = []
        for tau in options.temperatures:
            dreams = replace(config.plain(config.max_steps), temperature=tau)
            with torch.inference_mode():
                returns = DreamFitness(agent, DreamWorld(agent.memory, latents, dreams))(controller, seeds)[0]
            means.append(f"{returns.mean():6.0f} ± {returns.std():3.0f}")
        game = own_score(read_scores(before.report / "scores.json"))
        scored = f"{game['mean']:4.0f} ± {game['std']:4.0f}"
        print(f"{before.round:5}  {scored}  " + "".join(f"{mean:>12}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
