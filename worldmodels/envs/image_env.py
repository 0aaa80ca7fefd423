"""Any Gymnasium environment with pictures as observations, as the stages play it."""

from collections.abc import Callable, Iterator

import cv2
import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from worldmodels.types import UserError

FRAME = 64              # side of a frame, pixels


def to_frame(picture: np.ndarray) -> np.ndarray:
    """A picture [h, w], [h, w, 1] or [h, w, 3] uint8 of any size -> [64, 64, 3], averaged over areas."""
    if picture.ndim == 2 or picture.shape[2] == 1:
        picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, 2)
    return cv2.resize(picture, (FRAME, FRAME), interpolation=cv2.INTER_AREA)


def continuous(space: gymnasium.Space) -> Box:
    """The actions [A] that M and C know: a Box as it is, flat; one number for each choice of a Discrete, the largest of
    which counts."""
    if isinstance(space, Discrete):
        return Box(0.0, 1.0, (int(space.n),), np.float32)
    if isinstance(space, Box) and space.is_bounded():
        return Box(space.low.flatten().astype(np.float32), space.high.flatten().astype(np.float32), dtype=np.float32)
    raise UserError(f"actions {space}: must be a Discrete, or a Box with bounds")


def squash_to(space: gymnasium.Space) -> Callable[[Tensor], Tensor]:
    """A controller's outputs [B, A] -> actions: one-hot of the largest for a Discrete, tanh between the bounds of a
    Box."""
    if isinstance(space, Discrete):
        return lambda x: torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)
    box = continuous(space)
    low, high = torch.from_numpy(box.low), torch.from_numpy(box.high)
    return lambda x: low.to(x) + (torch.tanh(x) + 1) / 2 * (high - low).to(x)


def random_actions(space: gymnasium.Space, longest: int) -> Callable[[np.random.Generator], Iterator[np.ndarray]]:
    """A random policy: uniform actions, each held for 1 to `longest` steps."""
    box = continuous(space)

    def policy(rng: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            if isinstance(space, Discrete):
                action = np.eye(box.shape[0], dtype=np.float32)[rng.integers(box.shape[0])]
            else:
                action = rng.uniform(box.low, box.high).astype(np.float32)
            for _ in range(rng.integers(1, longest + 1)):
                yield action

    return policy


def arrow_keys(space: gymnasium.Space) -> dict[str, tuple[float, ...]]:
    """What the arrow keys add to an action: choices 1 to 4 of a Discrete, 0 being that of no key; the bounds of a Box's
    first two numbers."""
    box, names = continuous(space), ("left", "right", "up", "down")
    unit = np.eye(len(box.low))
    if isinstance(space, Discrete):
        return dict(zip(names, map(tuple, unit[1:])))
    ends = (end * row for row in unit[:2] for end in (box.low, box.high))
    return dict(zip(names, map(tuple, ends)))


class ImageEnv(gymnasium.Wrapper):
    """Observation [64, 64, 3] uint8, action [A] (see `continuous`), held for `repeat` frames whose rewards are summed.
    Truncated after `max_steps` frames. `make_env` makes the environment."""

    def __init__(self, make_env: Callable[[], gymnasium.Env], repeat: int = 1, max_steps: int = 1000,
                 render_mode: str | None = None):
        super().__init__(make_env())
        self.repeat, self.max_steps, self.inner_space = repeat, max_steps, self.env.action_space
        self.observation_space = Box(0, 255, (FRAME, FRAME, 3), np.uint8)
        self.action_space = continuous(self.inner_space)

    def reset(self, *, seed=None, options=None):
        self.picture, info = self.env.reset(seed=seed, options=options)
        self.steps = 0
        return to_frame(self.picture), info

    def step(self, action):
        if isinstance(self.inner_space, Discrete):
            inner = int(np.argmax(action)) + int(self.inner_space.start)
        else:
            inner = np.asarray(action, self.inner_space.dtype).reshape(self.inner_space.shape)
        total = 0.0
        for _ in range(self.repeat):
            self.picture, reward, terminated, truncated, info = self.env.step(inner)
            total, self.steps = total + float(reward), self.steps + 1
            truncated = truncated or self.steps >= self.max_steps
            if terminated or truncated:
                break
        return to_frame(self.picture), total, bool(terminated), bool(truncated and not terminated), info

    def render(self):
        """What it showed last, in its own size."""
        return self.picture
