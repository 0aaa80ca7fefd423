"""Random policies that collect the first experience: endless generators of actions, one for each episode.

Each takes the episode's random generator and yields actions [A]. Sources: Ha & Schmidhuber 2018, secs. 3.1 and 4.1, and
the released code.
"""

import itertools
from collections.abc import Iterator

import numpy as np


def fresh_uniform(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """TakeCover and Toy: a new uniform action every step."""
    while True:
        yield rng.uniform(-1, 1, 1).astype(np.float32)


def held_uniform(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """TakeCover, as the released code collects: a uniform action, and with each a number from 1 to 10. The next action
    is drawn at the next frame whose number that divides, which is after 3.65 frames on average."""
    repeat = rng.integers(1, 11)
    for frame in itertools.count():
        if frame % repeat == 0:
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            repeat = rng.integers(1, 11)
        yield action


def varied_strokes(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """TakeCover: left, still and right in strokes, each unlike the one before; how much each is liked, and the mean
    length of a stroke (1 to 32 steps), are drawn for each episode.

    The released code's short holds never cross the room, lean against a wall or stand still for long. So M cannot know
    what comes of that, and a controller evolved in its dream does just what kills (measured: 180 tics in the game,
    where it dreamt of 650).
    """
    liking, mean, choice = rng.dirichlet([1, 1, 1]) + 0.01, 2 ** rng.uniform(0, 5), 1
    while True:
        others = np.where(np.arange(3) == choice, 0, liking)
        choice = rng.choice(3, p=others / others.sum())
        action = np.array([choice - 1 + rng.uniform(-0.3, 0.3)], np.float32).clip(-1, 1)
        for _ in range(rng.geometric(1 / mean)):
            yield action


def crossing_strokes(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """TakeCover: from side to side in strokes of nearly equal length, 10 to 30 steps, drawn for each episode.

    At 4 tics a step it survives 574 tics where `varied_strokes` survives 322: so V and M also see the crowd that
    gathers later on.
    """
    mean, side = rng.uniform(10, 30), rng.choice([-1, 1])
    while True:
        for _ in range(max(1, round(rng.normal(mean, mean / 4)))):
            yield np.array([side], np.float32)
        side = -side


def mixed_strokes(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """TakeCover: every other episode's strokes cross the room, the others' vary."""
    return rng.choice([crossing_strokes, varied_strokes])(rng)


def random_controller(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """CarRacing, as the released code collects: a fresh linear controller whose weights are Cauchy × U(0, 0.01).

    It reads the latents of an untrained V, which are white noise, so white noise is what it reads here.
    """
    weights = rng.standard_cauchy((3, 33)) * rng.uniform(0, 0.01)
    while True:
        x = np.tanh(weights @ np.append(rng.standard_normal(32), 1.0))
        yield np.array([x[0], (x[1] + 1) / 2, np.clip(x[2], 0, 1)], np.float32)


def smooth_driver(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """CarRacing: a random driver that gets somewhere, for an agent that acts every 4 frames. It holds steering, gas and
    brake for 1 to 8 steps on average; how far it steers (from hardly to full lock), how much gas it gives and the mean
    are drawn for each episode, so that M sees all from standing still over slow driving along the road to spinning at
    full throttle."""
    boldness, reach, mean = max(0.0, rng.uniform(-0.15, 1)), 20 ** rng.uniform(-1, 0), 2 ** rng.uniform(0, 3)
    while True:
        steer = np.clip(reach * rng.standard_normal(), -1, 1)
        gas = boldness * rng.uniform(0, 1) if rng.random() > 0.15 else 0.0
        brake = rng.uniform(0, 0.8) if rng.random() < 0.1 else 0.0
        for _ in range(rng.geometric(1 / mean)):
            yield np.array([steer, gas, brake], np.float32)
