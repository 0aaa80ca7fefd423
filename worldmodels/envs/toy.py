"""A toy world with exactly known dynamics, for tests: a white column that the action moves left or right.

The column stands at position p of 16, four pixels wide. An action ≥ 0 moves it one to the right, else one to the left;
the reward is the position arrived at, and arriving at 15 terminates. So each frame names its p, and alignment, reward
and done can be checked exactly.
"""

import gymnasium
import numpy as np

POSITIONS = 16


class Toy(gymnasium.Env):
    """Observation [64, 64, 3] uint8, action [1] in [-1, 1]; starts at a position 0–7 drawn from the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, max_steps: int = 40, render_mode: str | None = None):
        self.max_steps, self.render_mode = max_steps, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = int(self.np_random.integers(8)), 0
        return self.render(), {}

    def step(self, action):
        self.position = max(0, self.position + (1 if action[0] >= 0 else -1))
        self.steps += 1
        terminated = self.position == POSITIONS - 1
        return self.render(), float(self.position), terminated, not terminated and self.steps >= self.max_steps, {}

    def render(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:, 4 * self.position:4 * self.position + 4] = 255
        return frame


def position(frame: np.ndarray) -> int:
    """The position that a frame [64, 64, 3] shows."""
    return int(frame[0, :, 0].argmax()) // 4
