"""How long does a decision take, for 16 rollouts in a batch, on the published runs?

    python benchmarks/deciding.py [--rounds 15] [--threads 1 2] [--games car_racing take_cover]

Of controllers as the presets have them in pipeline.compare. Their parameters are random, which takes no other time.
Lines take turns: medians count.
"""

import argparse
from functools import partial

import numpy as np
import torch

from pipeline.presets import presets
from turns import in_turns
from worldmodels.agent import Agent, open_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.controller.actor import critic_sizes
from worldmodels.controller.network import parameter_count
from worldmodels.envs import TASKS
from worldmodels.latents import open_latents
from worldmodels.types import State
from worldmodels.worlds.dream import DreamConfig, DreamWorld

ROLLOUTS = 16


def specs(task: str, agent: Agent) -> dict[str, PolicySpec]:
    """A controller of each kind that is compared."""
    given, rng = presets(TASKS[task])["laptop"]().compare, np.random.default_rng(0)
    random = lambda count: rng.normal(0, 0.1, (1, count)).astype(np.float32)
    critic = {"critic": random(parameter_count(critic_sizes(given.actor, agent)))}
    spec = lambda config, more={}: PolicySpec(config, {"parameters": random(agent.parameter_count(config))} | more)
    return {"linear": spec(LinearConfig()), "actor": spec(given.actor), "planner": spec(given.planner),
            "guided planner": spec(given.guided, critic)}


@torch.inference_mode()
def decide(policy, state: State):
    policy(state)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="each line is measured so often; the median counts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--games", nargs="+", default=["car_racing", "take_cover"])
    options = parser.parse_args()
    for task in options.games:
        run, agent = open_agent(task, "laptop")
        latents = open_latents(run, 0, agent.vision_digest)
        state = DreamWorld(agent.memory, latents, DreamConfig()).starts(range(ROLLOUTS))
        works = {}
        for name, spec in specs(task, agent).items():
            policy = agent.policy_of(spec)
            policy.reset(range(ROLLOUTS))
            works[name] = partial(decide, policy, state)
        for threads in options.threads:
            torch.set_num_threads(threads)
            found = in_turns(works, options.rounds)
            print(f"{task}, {threads} thread(s), ms for {ROLLOUTS} rollouts:",
                  ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in found.items()), flush=True)


if __name__ == "__main__":
    main()
