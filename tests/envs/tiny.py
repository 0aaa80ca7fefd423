"""Tiny environments as users may have them: pictures of odd sizes, actions of several kinds."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Tiny(gymnasium.Env):
    """Its picture is filled with 10 × (the frames played + where it began); frame t pays t, and the 7th terminates."""

    def __init__(self, action_space, shape=(30, 50, 3)):
        self.action_space, self.observation_space = action_space, Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begun, self.t, self.taken = int(self.np_random.integers(5)), 0, []
        return self.picture(), {}

    def step(self, action):
        assert action in self.action_space, f"{action!r} is no action of {self.action_space}"
        self.taken.append(action)
        self.t += 1
        return self.picture(), self.t, self.t == 7, False, {}

    def picture(self):
        """The last channel is darker."""
        picture = np.full(self.observation_space.shape, 10 * (self.t + self.begun) % 250, np.uint8)
        if picture.shape[2:] == (3,):
            picture[..., 2] //= 2
        return picture


def make_grey():
    return Tiny(Discrete(3), (30, 50))


def make_one_channel():
    return Tiny(Discrete(3, start=-1), (30, 50, 1))


def make_colour():
    return Tiny(Discrete(4, start=5))


def make_box():
    return Tiny(Box(np.array([[-2, 0], [3, -7]], np.float32), np.array([[1, 5], [4, -6]], np.float32)))
