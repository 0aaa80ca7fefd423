"""How much faster CarRacing is with its observation drawn by worldmodels/envs/car_drawing.py than with gymnasium's drawing.

    python benchmarks/car_racing.py [--seconds 5]

One core; the two drive the same tracks with the same actions, taking turns. Prints frames of game a second and the ratio, for an
agent that acts at every frame and for one that acts at every fourth (where three of four frames are not drawn). The floor is
gymnasium's physics alone, nothing drawn.
"""

import argparse
import time

import numpy as np

from worldmodels.envs import TASKS
from worldmodels.envs.car_racing import CarRacing

EPISODE = 250           # frames; the first 50, while the camera zooms in, are the slowest to draw


def drive(env: CarRacing, seed: int) -> tuple[int, float]:
    """Plays one episode; returns its frames and the seconds of its steps."""
    env.reset(seed=seed)
    start, steps = time.perf_counter(), 0
    for action in TASKS["car_racing"].policies["smooth"](np.random.default_rng(seed)):
        *_, terminated, truncated, _ = env.step(action)
        steps += 1
        if terminated or truncated:
            return steps * env.repeat, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for each of the three")
    seconds = parser.parse_args().seconds
    for repeat in (1, 4):
        envs = {name: CarRacing(repeat, EPISODE, drawing) for name, drawing in
                (("official", "official"), ("fast", "fast"), ("physics alone", "fast"))}
        envs["physics alone"]._draw = lambda mode: None
        envs["physics alone"]._shrink = lambda frame: None
        frames, wall, seed = dict.fromkeys(envs, 0), dict.fromkeys(envs, 0.0), 0
        while min(wall.values()) < seconds:
            for name, env in envs.items():
                if wall[name] < seconds:
                    played = drive(env, seed)
                    frames[name], wall[name] = frames[name] + played[0], wall[name] + played[1]
            seed += 1
        rate = {name: frames[name] / wall[name] for name in envs}
        print(f"acting every {repeat} frames: " + ", ".join(f"{name} {r:,.0f} frames/s" for name, r in rate.items())
              + f"; fast is {rate['fast'] / rate['official']:.1f} times official, "
              f"{rate['fast'] / rate['physics alone']:.0%} of the physics' rate")


if __name__ == "__main__":
    main()
