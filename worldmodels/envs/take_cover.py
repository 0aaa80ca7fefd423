"""TakeCover as a Gymnasium environment (ViZDoom; Ha & Schmidhuber 2018, sec. 4).

The agent stands at one end of a room, monsters at the other throw fireballs, and one continuous action moves it
sideways. It is rewarded 1 a tic for being alive. Differences from the original: 160×120 is rendered instead of 640×480
(the same share of rows is cropped before the resize to 64×64), and ViZDoom's stock skill 4 is the default: measured
with random policies it is the one comparable with the paper, although the released environment file says 5.
"""

import os
import tempfile

import gymnasium
import numpy as np
import torch
import vizdoom

FRAME = 64                # side of an observation, pixels
VISIBLE = 100             # rows kept of 120: the lower sixth holds the gun and nothing else (released code: 400 of 480)
STILL = 1 / 3             # |action| up to here does not move (released code)


class TakeCover(gymnasium.Env):
    """Observation [64, 64, 3] uint8 RGB, action [1] in [-1, 1]: below -1/3 left, above 1/3 right.

    `skill` is Doom's difficulty, 1 to 5. Each action is held for `repeat` tics, whose rewards are summed and of which
    only the last is drawn. An episode is truncated after `max_steps` tics. No window is ever shown and no display is
    needed. The same seed and actions give the same frames, whatever the engine played before. With `raw` an observation
    is the visible part of the engine's picture, [100, 160, 3], for who has many and calls `shrink` once.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, skill: int = 4, repeat: int = 1, max_steps: int = 2100, render_mode: str | None = None,
                 raw: bool = False):
        if not 1 <= skill <= 5:
            raise ValueError(f"skill is Doom's difficulty, 1 to 5, not {skill}")
        self.max_steps, self.repeat, self.raw = max_steps, repeat, raw
        size = (VISIBLE, 160) if raw else (FRAME, FRAME)
        self.observation_space = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.render_mode = render_mode
        self.game = vizdoom.DoomGame()
        self.game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
        # else in "."
        self.game.set_doom_config_path(os.path.join(tempfile.gettempdir(), f"worldmodels-vizdoom-{os.getuid()}.ini"))
        self.game.set_window_visible(False)
        self.game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self.game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        self.game.set_doom_skill(skill)
        self.game.set_mode(vizdoom.Mode.PLAYER)
        self.game.set_episode_timeout(0)     # the cap is counted here, so that death and time's end stay apart
        self.game.init()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game.set_seed(int(self.np_random.integers(2**31)) if seed is None else seed % 2**31)
        self.game.new_episode()
        self.steps = 0
        self.screen = self.game.get_state().screen_buffer
        return self._observation(), {}

    def step(self, action):
        x = float(np.asarray(action).reshape(-1)[0])
        self.game.set_action([x < -STILL, x > STILL])
        for tic in range(1, self.repeat + 1):
            self.game.advance_action(1, tic == self.repeat)
            self.steps += 1
            terminated = self.game.is_episode_finished() or self.game.is_player_dead()
            truncated = not terminated and self.steps >= self.max_steps
            if terminated or truncated:
                break
        state = self.game.get_state()
        if state is not None:                # None at the end: the last frame stands in for the one that is not drawn
            self.screen = state.screen_buffer
        return self._observation(), float(tic), terminated, truncated, {}

    def render(self):
        """The engine's own picture, [120, 160, 3] uint8."""
        return self.screen

    def close(self):
        self.game.close()

    def _observation(self):
        return self.screen[:VISIBLE] if self.raw else shrink_screen(self.screen)


def shrink(pictures: np.ndarray) -> np.ndarray:
    """[B, 100, 160, 3] uint8 -> [B, 64, 64, 3]: bilinear, over as many pixels as become one (as the released code's
    imresize).

    Five times faster a picture for 16 of them than for one.
    """
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(pixels, (FRAME, FRAME), mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1).numpy()


def shrink_screen(screen: np.ndarray) -> np.ndarray:
    """The engine's own picture [120, 160, 3] -> what V sees, [64, 64, 3]."""
    return shrink(screen[None, :VISIBLE])[0]
