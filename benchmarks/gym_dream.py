"""The dream as Gymnasium environments: one batch against as many environments beside each other, and against M alone;
and what Stable-Baselines3's PPO makes of both.

    pip install -e '.[benchmarks]'
    python benchmarks/gym_dream.py [--num-envs 64] [--steps 64] [--rounds 5] [--batch-size 256]

On one core of the CPU, the published runs' M. "imagine" is the memory's own step with nothing around it, for a batch as
large. PPO collects --steps of each environment and then learns from them: ten epochs in batches of --batch-size, its
default network.
"""

import argparse
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import worldmodels  # noqa: F401   registers them
from turns import in_turns
from worldmodels.memory.noise import draw
from worldmodels.worlds.stable_baselines import BatchVecEnv


def stepping(env: gymnasium.vector.VectorEnv, steps: int) -> Callable[[], None]:
    """Advances an environment `steps` times, with actions that cost nothing to draw."""
    env.reset(seed=0)
    return repeating(env.step, env.action_space.sample(), steps)


def stepping_for_ppo(env: VecEnv, steps: int) -> Callable[[], None]:
    """The same as Stable-Baselines3 calls it."""
    env.seed(0)
    env.reset()
    return repeating(env.step, np.stack([env.action_space.sample() for _ in range(env.num_envs)]), steps)


def repeating(step: Callable, action: np.ndarray, steps: int) -> Callable[[], None]:
    def work():
        for _ in range(steps):
            step(action)

    return work


def learning(env: VecEnv, steps: int, batch_size: int) -> Callable[[], None]:
    """One round of PPO: `steps` of each environment, and learning from them."""
    model = PPO("MlpPolicy", env, n_steps=steps, batch_size=batch_size, seed=0, device="cpu")
    return lambda: model.learn(steps * env.num_envs, reset_num_timesteps=False)


@torch.inference_mode()
def imagining(world, count: int, action_size: int, steps: int) -> Callable[[], None]:
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
    for name, default in (("num-envs", 64), ("steps", 64), ("rounds", 5), ("batch-size", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    count, steps = options.num_envs, options.steps
    torch.set_num_threads(1)
    for name in ("CarRacing", "TakeCover"):
        id = f"worldmodels/{name}Dream-v0"
        batch, beside = (gymnasium.make_vec(id, num_envs=count, vectorization_mode=mode) for mode in (None, "sync"))
        for_ppo = lambda id=id: VecMonitor(
            BatchVecEnv(gymnasium.make_vec(id, num_envs=count, autoreset_mode="SameStep")))
        works = {"batch": stepping(batch, steps), "beside": stepping(beside, steps),
                 "imagine": imagining(batch.world, count, batch.single_action_space.shape[0], steps),
                 "vec_env": stepping_for_ppo(for_ppo(), steps),
                 "vec_env beside": stepping_for_ppo(make_vec_env(id, n_envs=count), steps),
                 "ppo": learning(for_ppo(), steps, options.batch_size),
                 "ppo beside": learning(make_vec_env(id, n_envs=count), steps, options.batch_size)}
        rate = {name: steps * count / seconds for name, seconds in in_turns(works, options.rounds).items()}
        print(f"{id}, {count} rollouts: {rate['batch']:,.0f} steps a second as one batch, "
              f"{rate['batch'] / rate['beside']:.1f} × {count} environments beside each other ({rate['beside']:,.0f}), "
              f"{rate['batch'] / rate['imagine']:.0%} of imagine alone ({rate['imagine']:,.0f})")
        for works_on, name in (("Stable-Baselines3's environment", "vec_env"), ("its PPO, learning included", "ppo")):
            fast, slow = rate[name], rate[f"{name} beside"]
            print(f"    {works_on}: {fast:,.0f} steps a second on one batch, {fast / slow:.1f} × {count} dreams in its "
                  f"DummyVecEnv ({slow:,.0f})", flush=True)


if __name__ == "__main__":
    main()
