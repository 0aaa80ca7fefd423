"""Another library's algorithm in the dream, and what it learned there in the real game: PPO of Stable-Baselines3.

    pip install -e '.[benchmarks]'
    python benchmarks/foreign_ppo.py [--steps 0 10000 200000] [--temperature 1.4] [--seed 0] [--episodes 100]
                                     [--games CarRacing TakeCover] [--num-envs 8]

On the published runs. PPO has its defaults but for 8 dreams as one batch, 4096 steps of all together between updates,
and batches of 256. It never sees the game before it is scored there, on fresh seeds. Without --temperature the dream
has the run's own.
"""

import argparse
import time

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import worldmodels  # noqa: F401   registers them
from worldmodels.report.scores import EvaluateConfig
from worldmodels.worlds.stable_baselines import BatchVecEnv

STEPS = 4096        # between updates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10_000, 200_000])
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--games", nargs="+", default=["CarRacing", "TakeCover"])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--num-envs", type=int, default=8)
    options = parser.parse_args()
    temperature = {} if options.temperature is None else {"temperature": options.temperature}
    for name in options.games:
        dreams = BatchVecEnv(gymnasium.make_vec(f"worldmodels/{name}Dream-v0", num_envs=options.num_envs,
                                                autoreset_mode="SameStep", **temperature))
        model = PPO("MlpPolicy", dreams, n_steps=STEPS // options.num_envs, batch_size=256, seed=options.seed,
                    device="cpu")
        seconds = 0.0
        for steps in options.steps:
            begin = time.perf_counter()
            if steps:
                model.learn(steps - model.num_timesteps, reset_num_timesteps=False)
            seconds += time.perf_counter() - begin
            print(f"{name}, PPO after {model.num_timesteps:,} steps of the dream, {seconds:.0f} s:", end="")
            for world, settings in (("Dream", temperature), ("Real", {})):
                env = Monitor(gymnasium.make(f"worldmodels/{name}{world}-v0", **settings))
                env.reset(seed=EvaluateConfig.first_seed)
                returns, _ = evaluate_policy(model, env, options.episodes, return_episode_rewards=True)
                print(f"  {world.lower()} {np.mean(returns):.0f} ± {np.std(returns, ddof=1):.0f}", end="")
                env.close()
            print(f"  ({options.episodes} episodes)", flush=True)


if __name__ == "__main__":
    main()
