"""CarRacing with 64×64 observations (Gymnasium, Box2D; Ha & Schmidhuber 2018, sec. 3).

Gymnasium's 96×96 frame cropped to rows 0:84 (which drops the dashboard, so a frame carries no speed; released code) and
resized. CarRacing-v3 ends an episode where the start is crossed after 95% of the tiles; the v0 of the paper ended it
where every tile had been visited.
"""

import cv2
import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from worldmodels.envs.car_drawing import FRAME, VISIBLE
from worldmodels.envs.fast_car_racing import FastCarRacing

GAMES = {
    "fast": lambda max_steps, render_mode: TimeLimit(FastCarRacing(render_mode=render_mode), max_steps),
    "official": lambda max_steps, render_mode: gymnasium.make(
        "CarRacing-v3", render_mode=render_mode, max_episode_steps=max_steps, disable_env_checker=True),
}


class CarRacing(gymnasium.Wrapper):
    """Observation [64, 64, 3] uint8 RGB; action [3]: steering in [-1, 1], gas and brake in [0, 1].

    Each action is held for `repeat` frames (50 a second of game), whose rewards are summed and of which only the last
    is drawn. Truncated after `max_steps` frames. `drawing` is how: "official" is gymnasium's environment untouched,
    which scores come from; "fast" is the same game, its frames drawn by car_drawing.py.
    """

    spec = None             # not gymnasium's: gymnasium.make would not make this environment

    def __init__(self, repeat: int = 1, max_steps: int = 1000, drawing: str = "fast", render_mode: str | None = None):
        super().__init__(GAMES[drawing](max_steps, render_mode))
        self.observation_space = gymnasium.spaces.Box(0, 255, (FRAME, FRAME, 3), np.uint8)
        self.repeat = repeat
        self._draw = self.unwrapped._render

    def reset(self, *, seed=None, options=None):
        frame, info = self.env.reset(seed=seed, options=options)
        self.frame = visible_part(frame)
        return self.frame, info

    def step(self, action):
        total = 0.0
        try:
            for i in range(1, self.repeat + 1):
                self.unwrapped._render = self._draw if i == self.repeat else lambda mode: None
                frame, reward, terminated, truncated, info = self.env.step(action)
                total += reward
                if terminated or truncated:
                    break
        finally:
            self.unwrapped._render = self._draw
        if frame is not None:               # an end before the last repetition is not drawn: the frame before stands in
            self.frame = visible_part(frame)
        return self.frame, total, terminated, truncated, info


def visible_part(frame: np.ndarray) -> np.ndarray:
    """Gymnasium's frame [96, 96, 3] without its dashboard, resized; one of [64, 64, 3] as it is."""
    if frame.shape[0] == FRAME:
        return frame
    return cv2.resize(frame[:VISIBLE], (FRAME, FRAME), interpolation=cv2.INTER_AREA)
