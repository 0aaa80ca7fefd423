"""gymnasium's CarRacing-v3, tens of times faster: the same game to the last bit, seen through car_drawing.py.

Tracks, physics engine, rewards and ends are gymnasium's; the Python between them is car_physics.py's.
"""

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import FPS, PLAYFIELD, SCALE, ZOOM, CarRacing
from gymnasium.spaces import Box

from worldmodels.envs.car_drawing import FRAME, Ground, camera, draw_car
from worldmodels.envs.car_physics import TrackListener, advance, control


class FastCarRacing(CarRacing):
    """Observation [64, 64, 3] uint8 RGB: what gymnasium's 96×96 frame shows above the dashboard, resized by area."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        self.observation_space = Box(0, 255, (FRAME, FRAME, 3), np.uint8)

    def _create_track(self) -> bool:
        created = super()._create_track()
        if created:
            shapes, colors = zip(*self.road_poly)
            self.ground = Ground(*map(tuple, (self.bg_color, self.grass_color, self.road_color)), shapes, colors)
            for tile in self.road:
                tile.touched = False
            self.faded = []             # tiles that have lost their shade since the last frame
            self.world.contactListener = self.world.contactListener_bug_workaround = TrackListener(self)
        return created

    def step(self, action):
        if action is not None:
            steer, gas, brake = action.astype(np.float64).tolist()
            control(self.car, -steer, gas, brake)
        advance(self.car, 1.0 / FPS)
        self.world.Step(1.0 / FPS, 6 * 30, 2 * 30)
        self.t += 1.0 / FPS
        self.state = self._render("state_pixels")
        reward, terminated, info = 0, False, {}
        if action is not None:
            self.reward -= 0.1
            self.car.fuel_spent = 0.0
            reward = self.reward - self.prev_reward
            self.prev_reward = self.reward
            x, y = self.car.hull.position
            if abs(x) > PLAYFIELD or abs(y) > PLAYFIELD:
                reward, terminated, info = -100, True, {"lap_finished": False}
            elif self.tile_visited_count == len(self.track) or self.new_lap:
                terminated, info = True, {"lap_finished": True}
        if self.render_mode == "human":
            self.render()
        return self.state, reward, terminated, False, info

    def _render(self, mode: str):
        if mode != "state_pixels":
            return super()._render(mode)
        for tile in self.faded:
            self.ground.touch(tile)
        self.faded.clear()
        hull = self.car.hull
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        view = camera(*hull.position, hull.angle, zoom)
        frame = self.ground.seen(view)
        draw_car(frame, view, [(wheel.joint.angle, wheel.phase) for wheel in self.car.wheels])
        return cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB)
