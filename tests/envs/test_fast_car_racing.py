"""The fast CarRacing is gymnasium's, to the last bit, for whole episodes and for each way in which one ends."""

import itertools
import math
from functools import partial

import gymnasium
import numpy as np
import pytest

from worldmodels.envs.fast_car_racing import FastCarRacing
from worldmodels.envs.policies import random_controller, smooth_driver


def along_the_road(env):
    """Drives in the middle of the road at some 25 m/s, round the whole lap."""
    points = np.array(env.track)[:, 2:]
    while True:
        (x, y), hull = env.car.hull.position, env.car.hull
        ahead = points[(np.argmin(((points - (x, y)) ** 2).sum(1)) + 5) % len(points)] - (x, y)
        turn = math.remainder(math.atan2(ahead[1], ahead[0]) - math.pi / 2 - hull.angle, 2 * math.pi)
        fast = hull.linearVelocity.length > 25
        yield np.array([np.clip(-1.5 * turn, -1, 1), 0 if fast else 0.4, 0.1 if fast else 0], np.float32)


def straight_ahead(env):
    """Faster and faster, off the field in the end."""
    return itertools.repeat(np.array([0, 0.3, 0], np.float32))


def braking_hard(env):
    """Skids, with the wheels blocked now and then."""
    for t in itertools.count():
        yield np.array([math.sin(t / 7), t % 60 < 40, 0 if t % 60 < 40 else (0.5, 0.95)[t // 60 % 2]], np.float32)


DRIVES = {
    "along the road": (along_the_road, 2500, {"lap_finished": True}),
    "straight ahead": (straight_ahead, 1000, {"lap_finished": False}),
    "braking hard": (braking_hard, 600, {}),
    "smooth": (lambda env: smooth_driver(np.random.default_rng(0)), 1000, None),
    "paper": (lambda env: random_controller(np.random.default_rng(0)), 1000, None),
}


def state(env) -> list:
    """All that the physics of the car goes on from, and what the track remembers."""
    car = env.car
    bodies = [(*body.position, body.angle, *body.linearVelocity, body.angularVelocity)
              for body in (car.hull, *car.wheels)]
    wheels = [(w.omega, w.phase, w.gas, w.brake, w.steer, w.joint.angle, sorted(tile.idx for tile in w.tiles))
              for w in car.wheels]
    marks = [(mark.color, mark.poly, mark.grass) for mark in car.particles]
    return [bodies, wheels, marks, env.reward, env.tile_visited_count, env.t]


@pytest.mark.parametrize("name", DRIVES)
def test_whole_episodes_are_bit_equal(name):
    """Two in a row in the same environments, with nothing drawn."""
    policy, limit, ending = DRIVES[name]
    envs = gymnasium.make("CarRacing-v3").unwrapped, FastCarRacing()
    for env in envs:
        env._render = lambda mode: None
    for seed in (1, 2):
        for env in envs:
            env.reset(seed=seed)
        assert envs[0].track == envs[1].track
        for action in itertools.islice(policy(envs[0]), limit):
            official, fast = (env.step(action) for env in envs)
            assert official == fast
            assert state(envs[0]) == state(envs[1])
            if official[2]:
                break
        assert ending is None or official[4] == ending
        assert [tile.color.tolist() for tile in envs[0].road] == [tile.color.tolist() for tile in envs[1].road]
        assert len(envs[0].car.particles) > 0 or name in ("along the road", "straight ahead")
    for env in envs:
        env.close()


def test_a_tile_loses_its_shade_in_the_picture_where_it_lost_it_in_the_game():
    """As if the ground had been painted after the drive."""
    env = FastCarRacing()
    env.reset(seed=1)
    before = env.ground.levels[0].copy()
    for action in itertools.islice(along_the_road(env), 200):
        env.step(action)
    driven = env.ground.levels[0].astype(int)
    touched = [tile.touched for tile in env.road]
    shades = [tile.idx % 3 for tile in env.road]
    assert 20 < sum(touched) < len(touched)
    for corners, shade, faded in zip(env.ground.tiles, shades, touched):
        x, y = np.rint(corners.mean(0)).astype(int)
        assert driven[y, x, 0] == 100 + (0 if faded else int(2.55 * shade))
    assert np.abs(driven - before).max() <= 5               # and nothing else: grass and kerbs are as they were
    env.close()


def test_gymnasiums_own_pictures_are_still_there():
    """For people: 600×400, with the marks that the tyres leave."""
    pictures, official = [], partial(gymnasium.make, "CarRacing-v3")
    for make in (official, FastCarRacing):
        env = make(render_mode="rgb_array").unwrapped
        env.reset(seed=3)
        for action in itertools.islice(braking_hard(env), 70):
            env.step(action)
        pictures.append(env.render())
        env.close()
    assert pictures[0].shape == (400, 600, 3)
    np.testing.assert_array_equal(*pictures)
