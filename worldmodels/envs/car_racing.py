"""CarRacing with 64×64 observations (Gymnasium, Box2D; Ha & Schmidhuber 2018, sec. 3).

Gymnasium's environment untouched, its 96×96 frame cropped to rows 0:84 (which drops the dashboard, so a frame carries no
speed) and resized. CarRacing-v3 ends an episode when the lap is finished; the v0 of the paper did not.
"""

import cv2
import gymnasium
import numpy as np

FRAME = 64                # side of an observation, pixels
VISIBLE = 84              # rows kept of 96 (released code)


class CarRacing(gymnasium.ObservationWrapper):
    """Observation [64, 64, 3] uint8 RGB; action [3]: steering in [-1, 1], gas and brake in [0, 1].

    Truncated after `max_steps` frames (50 a second of game).
    """

    def __init__(self, max_steps: int = 1000, render_mode: str | None = None):
        super().__init__(gymnasium.make("CarRacing-v3", render_mode=render_mode, max_episode_steps=max_steps,
                                        disable_env_checker=True))
        self.observation_space = gymnasium.spaces.Box(0, 255, (FRAME, FRAME, 3), np.uint8)

    def observation(self, observation):
        return cv2.resize(observation[:VISIBLE], (FRAME, FRAME), interpolation=cv2.INTER_AREA)
