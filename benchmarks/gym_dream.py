"""The dream as Gymnasium environments: one batch against as many environments beside each other, and against M alone.

    python benchmarks/gym_dream.py [--num-envs 64] [--steps 200] [--rounds 5]

On one core of the CPU, the published runs' M. "imagine" is the memory's own step with nothing around it, for a batch as
large.
"""

import argparse

import gymnasium
import torch

import worldmodels  # noqa: F401   registers them
from turns import in_turns
from worldmodels.memory.noise import draw


def stepping(env, steps: int):
    """Advances an environment `steps` times, with actions that cost nothing to draw."""
    env.reset(seed=0)
    action = env.action_space.sample()

    def work():
        for _ in range(steps):
            env.step(action)

    return work


@torch.inference_mode()
def imagining(world, count: int, action_size: int, steps: int):
    """Only `imagine`."""
    state, action = world.starts(range(count)), torch.zeros(count, action_size)
    noise = next(draw(world.memory.imagine_noise, count, torch.Generator().manual_seed(0), action))

    @torch.inference_mode()
    def work():
        for _ in range(steps):
            world.memory.imagine(state, action, 1.0, noise)

    return work


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("num-envs", 64), ("steps", 200), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    count, steps = options.num_envs, options.steps
    torch.set_num_threads(1)
    for name in ("CarRacing", "TakeCover"):
        id = f"worldmodels/{name}Dream-v0"
        batch, beside = (gymnasium.make_vec(id, num_envs=count, vectorization_mode=mode) for mode in (None, "sync"))
        works = {"batch": stepping(batch, steps), "beside": stepping(beside, steps),
                 "imagine": imagining(batch.world, count, batch.single_action_space.shape[0], steps)}
        rate = {name: steps * count / seconds for name, seconds in in_turns(works, options.rounds).items()}
        print(f"{id}, {count} rollouts: {rate['batch']:,.0f} steps a second as one batch, "
              f"{rate['batch'] / rate['beside']:.1f} × {count} environments beside each other ({rate['beside']:,.0f}), "
              f"{rate['batch'] / rate['imagine']:.0%} of imagine alone ({rate['imagine']:,.0f})")


if __name__ == "__main__":
    main()
