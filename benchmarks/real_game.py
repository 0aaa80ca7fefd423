"""The real games' speed on this machine: gymnasium's, EnvPool's, bare ViZDoom and ours, alone and with V, M and C.

    pip install -e .[benchmarks]            # EnvPool, on Linux; without it its lines are left out
    python benchmarks/real_game.py [--seconds 10] [--episodes 96]

Prints steps a second; every step is seen (64×64) and acted on. Lines of one block take turns on one core, in whole
episodes with their resets. "As it comes": the system may put ViZDoom and its caller on two cores, which costs them. V
and M have the paper's sizes and random weights, C is a population of random controllers. The floor is what cannot be
avoided: the physics (or the bare engine's tic), and V's multiplications at the rate of a large matrix product.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}      # before torch: every line is about one core

import cv2
import numpy as np
import torch

from pipeline.command import vision_info
from pipeline.presets import PRESETS
from random_run import random_controllers, random_run
from turns import product_rate
from worldmodels.agent import build_vision, load_agent
from worldmodels.envs import TASKS
from worldmodels.envs.car_racing import CarRacing
from worldmodels.envs.take_cover import STILL, TakeCover
from worldmodels.executors import LocalExecutor
from worldmodels.executors.machine import idle_cores
from worldmodels.runs import plain
from worldmodels.worlds.fitness import RealFitness

try:
    import envpool
except ImportError:
    envpool = None

TOGETHER = 8        # environments that EnvPool advances together


def play(task: str, env) -> Iterator[int]:
    """Episodes of a random policy; yields the steps of each."""
    for seed in range(10**9):
        env.reset(seed=seed)
        for steps, action in enumerate(TASKS[task].policies[POLICY[task]](np.random.default_rng(seed)), 1):
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        yield steps


def play_envpool(task: str, name: str, **settings) -> Iterator[int]:
    """The same in EnvPool, which starts the next episodes by itself; yields after every 100 steps."""
    env = envpool.make(name, env_type="gymnasium", num_envs=TOGETHER, num_threads=1, **settings)
    policies = [TASKS[task].policies[POLICY[task]](np.random.default_rng(seed)) for seed in range(TOGETHER)]
    buttons = lambda actions: np.stack(actions) * (-1.0, 1.0) > STILL
    to_actions = {"car_racing": np.stack, "take_cover": buttons}[task]
    env.reset()
    while True:
        for _ in range(100):
            env.step(to_actions([next(policy) for policy in policies]))
        yield 100 * TOGETHER


POLICY = {"car_racing": "smooth", "take_cover": "held"}


def physics_alone(env: CarRacing) -> CarRacing:
    """gymnasium's game, of which nothing is drawn."""
    black = np.zeros(env.observation_space.shape, np.uint8)     # of a size that is passed on as it is
    env._draw = env.unwrapped._render = lambda mode: black
    return env


def bare_engine(cores: set[int]) -> Iterator[int]:
    """ViZDoom's own calls and nothing else, a tic's picture and all; engine and caller on any of these cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    env = TakeCover()
    game, rng = env.game, np.random.default_rng(0)
    moves = [[True, False], [False, True]]
    for seed in range(10**9):
        env.reset(seed=seed)
        steps = 0
        while not game.is_episode_finished() and steps < 2100:
            game.set_action(moves[rng.integers(2)])
            game.advance_action(1, True)
            state = game.get_state()
            if state is not None:
                _ = state.screen_buffer             # copies the picture
            steps += 1
        os.sched_setaffinity(0, mine)
        yield steps
        os.sched_setaffinity(0, cores)


def rates(players: dict[str, Iterator[int]], seconds: float) -> dict[str, float]:
    """Steps a second of each, taking turns for `seconds` each."""
    steps, wall = dict.fromkeys(players, 0), dict.fromkeys(players, 0.0)
    for player in players.values():
        next(player)                                            # caches, and EnvPool's threads, are warm
    while min(wall.values()) < seconds:
        for name in (name for name in players if wall[name] < seconds):
            start = time.perf_counter()
            steps[name] += next(players[name])
            wall[name] += time.perf_counter() - start
    return {name: steps[name] / wall[name] for name in players}


def encoder_flops(task: str) -> int:
    """Of one frame through V's encoder: two for each multiplication."""
    vision = build_vision(plain(vision_info(PRESETS[task]["paper"]())))
    flops, x = 0, torch.zeros(1, 3, 64, 64)
    for layer in vision.encoder:
        x = layer(x)
        if isinstance(layer, torch.nn.Conv2d):
            flops += 2 * x[0].numel() * layer.weight[0].numel()
    return flops + 2 * vision.posterior.weight.numel()


@dataclass
class Watched:
    """A job that also tells what its worker occupies, game engines included, in MB."""

    job: Callable

    def __call__(self):
        result, group, total = self.job(), os.getpgid(0), 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rpartition(")")[2].split()[2]) == group:
                    rollup = (stat.parent / "smaps_rollup").read_text()
                    total += int(rollup.partition("\nPss:")[2].split()[0])
            except (OSError, IndexError, ValueError):            # it has just ended
                pass
        return result, total / 1024


class Loop:
    """The game with V, M and C in worker processes."""

    def __init__(self, task: str, folder: str):
        self.run = random_run(task, Path(folder) / task)
        self.agent = load_agent(self.run)

    def rates(self, executors: dict[int, LocalExecutor], episodes: int) -> dict[int, float]:
        """Steps a second of a population of 32, for each number of workers, after their games are started."""
        controllers, found = random_controllers(self.agent, 32), {}
        for workers, executor in executors.items():
            fitness = RealFitness(executor, self.agent, self.agent.task.max_steps, ())
            executor.run([fitness.job(controllers, tuple(range(32)))] * workers)
            start = time.perf_counter()
            steps = fitness.play(controllers, range(episodes // 32))[1].sum()
            found[workers] = steps / (time.perf_counter() - start)
        return found

    def memory(self, executor: LocalExecutor, episodes: int = 1000, jobs: int = 10) -> list[float]:
        """MB of a worker after each tenth of the episodes. They are cut short, for what grows would grow with each."""
        fitness, each = RealFitness(executor, self.agent, 60, ()), episodes // jobs
        one = random_controllers(self.agent, 1)
        watched = [Watched(fitness.job(one, tuple(range(i * each, (i + 1) * each)))) for i in range(jobs)]
        return [occupied for _, occupied in executor.run(watched)]


def print_rates(title: str, found: dict[str, float], base: str):
    print(f"\n{title}")
    for name, rate in found.items():
        print(f"  {name:42} {rate:9,.0f} steps/s  {1e6 / rate:8,.0f} us   {rate / found[base]:6.2f} × {base}",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each line of an environment alone")
    parser.add_argument("--episodes", type=int, default=96,
                        help="of CarRacing with V, M and C, at least 32; five times as many of TakeCover")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, idle_cores()[:1])                   # for as long as this process itself plays

    flops = product_rate()
    cars = {"gymnasium": play("car_racing", CarRacing(drawing="official")), "ours": play("car_racing", CarRacing()),
            "gymnasium, nothing drawn": play("car_racing", physics_alone(CarRacing(drawing="official")))}
    doom = {"bare ViZDoom, one core": bare_engine(os.sched_getaffinity(0)),
            "bare ViZDoom, as it comes": bare_engine(cores), "ours": play("take_cover", TakeCover())}
    if envpool:
        cars["EnvPool"] = play_envpool("car_racing", "CarRacing-v3")
        doom["EnvPool"] = play_envpool("take_cover", "TakeCover-v1", frame_skip=1, stack_num=1, img_width=64,
                                       img_height=64)
    cars = rates(cars, options.seconds)
    print_rates("CarRacing alone, one core", cars, "gymnasium")
    if envpool:
        print(f"  ours is {cars['ours'] / cars['EnvPool']:.2f} × EnvPool")
    doom = rates(doom, options.seconds)
    print_rates("TakeCover alone, one core", doom, "bare ViZDoom, one core")
    flops = max(flops, product_rate())                          # the better one, for the floor
    print(f"\none core's matrix product: {flops / 1e9:.0f} GFLOP/s")
    os.sched_setaffinity(0, cores)

    bare = {"car_racing": cars["gymnasium, nothing drawn"], "take_cover": doom["bare ViZDoom, one core"]}
    for task, episodes in (("car_racing", options.episodes), ("take_cover", 5 * options.episodes)):
        encoder = encoder_flops(task) / flops
        floor = 1 / (1 / bare[task] + encoder)
        with tempfile.TemporaryDirectory() as folder, LocalExecutor(1) as one, LocalExecutor(2) as two:
            loop = Loop(task, folder)
            found = loop.rates({1: one, 2: two}, episodes)
            occupied = loop.memory(one)
        print(f"\n{TASKS[task].env_id} with V, M and C; floor {floor:,.0f} steps/s a core: "
              f"{1e6 / bare[task]:.0f} us of game + {1e6 * encoder:.0f} us of V")
        for workers, rate in found.items():
            print(f"  {workers} worker{'s' * (workers > 1)}: {rate:,.0f} steps/s, "
                  f"{rate / workers / floor:.0%} of the floor")
        print(f"  two workers are {found[2] / found[1]:.2f} × one")
        if task == "take_cover":
            free = 1 / (1 / doom["bare ViZDoom, as it comes"] + encoder)
            print(f"  (with the tic of ViZDoom as it comes the floor is {free:,.0f}; "
                  f"one worker has {found[1] / free:.0%} of it)")
        megabytes = ", ".join(f"{mb:.0f}" for mb in occupied)
        print(f"  a worker occupies, after 100, 200 ... 1,000 episodes: {megabytes} MB", flush=True)


if __name__ == "__main__":
    main()
