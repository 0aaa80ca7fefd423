"""CarRacing's observation, drawn ten times faster: gymnasium draws 1000×800 pixels, polygon by polygon in Python, to keep 96×96.

Physics, rewards and ends are gymnasium's own code. Here only what is in sight is drawn, all of it moved at once and at a fifth
of the size; the observation differs from gymnasium's by 0.3 of 255 on average (0.5 in the first second's zoom).
"""

import math

import cv2
import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_COLOR, WHEEL_R, WHEEL_W, WHEEL_WHITE
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, SCALE, WINDOW_H, WINDOW_W, ZOOM

VISIBLE = 84                        # rows of 96 above the dashboard
FINER = 2                           # the picture is drawn so many times finer than it is kept
SUBPIXEL = 4                        # corners are placed to 1/2^4 of a pixel ...
FRACTION = 1 << SUBPIXEL            # ... and counted in these
DARKER = 2                          # what pygame's smoothscale takes from every colour, by rounding down
CANVAS = np.array([car_racing.STATE_W, VISIBLE]) * FINER                        # width, height
TO_CANVAS = CANVAS / (WINDOW_W, WINDOW_H * VISIBLE / car_racing.STATE_H)        # gymnasium's window -> canvas


def rectangle(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Its corners, [4, 2]."""
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


# Shapes in the game's metres: those of the ground in the world's frame, those of the car in their own body's.
GROUND = np.array([rectangle(-PLAYFIELD, -PLAYFIELD, PLAYFIELD, PLAYFIELD)] +
                  [rectangle(GRASS_DIM * x, GRASS_DIM * y, GRASS_DIM * (x + 1), GRASS_DIM * (y + 1))
                   for x in range(-20, 20, 2) for y in range(-20, 20, 2)])      # the field, and its lighter patches
HULL = [np.array(shape) * SIZE for shape in
        (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY3, car_dynamics.HULL_POLY4)]
HULL_COLOR = (204, 0, 0)
WHEEL = rectangle(-WHEEL_W, -WHEEL_R, WHEEL_W, WHEEL_R) * SIZE


class FastCarRacing(car_racing.CarRacing):
    """gymnasium's CarRacing-v3 whose observation is [84, 96, 3]: above the dashboard."""

    def _create_track(self) -> bool:
        created = super()._create_track()
        if created:
            self._scene = np.concatenate([GROUND, [shape for shape, _ in self.road_poly]])              # [N, 4, 2]
            self._middle = self._scene.mean(1)                                                          # [N, 2]
            self._radius = np.linalg.norm(self._scene - self._middle[:, None], axis=2).max(1)[:, None]  # [N, 1]
            # a tile's colour changes in place when the car has been there
            self._colors = [self.bg_color] + [self.grass_color] * (len(GROUND) - 1) + [color for _, color in self.road_poly]
        return created

    def _render(self, mode: str):
        if mode != "state_pixels":
            return super()._render(mode)
        canvas = np.zeros((*CANVAS[::-1], 3), np.uint8)
        turn, shift = self._camera()
        middle, reach = self._middle @ turn + shift, self._radius * np.linalg.norm(turn, axis=0)
        seen = np.flatnonzero(((middle > -reach) & (middle < CANVAS * FRACTION + reach)).all(1))
        corners = (self._scene[seen].reshape(-1, 2) @ turn + shift).reshape(-1, 4, 2)
        for i, shape in zip(seen, corners):
            fill(canvas, shape, self._colors[i])
        for wheel in self.car.wheels:
            place = placement(wheel, turn, shift)
            fill(canvas, WHEEL @ place[0] + place[1], WHEEL_COLOR)
            white = wheel_mark(wheel.phase)
            if white is not None:
                fill(canvas, white @ place[0] + place[1], WHEEL_WHITE)
        place = placement(self.car.hull, turn, shift)
        for shape in HULL:
            fill(canvas, shape @ place[0] + place[1], HULL_COLOR)
        frame = cv2.resize(canvas, (car_racing.STATE_W, VISIBLE), interpolation=cv2.INTER_AREA)
        return cv2.subtract(frame, (DARKER,) * 4)

    def _camera(self) -> tuple[np.ndarray, np.ndarray]:
        """[2, 2], [2]: a point p of the world is drawn at p @ turn + shift, in fractions of pixels. The car looks up, y down."""
        hull = self.car.hull
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        cos, sin = zoom * math.cos(hull.angle), zoom * math.sin(hull.angle)
        turn = np.array([[cos, sin], [sin, -cos]]) * TO_CANVAS * FRACTION
        car = (np.array([WINDOW_W / 2, WINDOW_H * 3 / 4]) * TO_CANVAS - 0.5) * FRACTION     # whole pixels are their middles
        return turn, car + 0.5 - np.array(hull.position) @ turn             # + 0.5, for `fill` rounds down


def placement(body, turn: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same as `turn` and `shift`, for points of a body."""
    cos, sin = math.cos(body.angle), math.sin(body.angle)
    return np.array([[cos, sin], [-sin, cos]]) @ turn, np.array(body.position) @ turn + shift


def wheel_mark(phase: float) -> np.ndarray | None:
    """The light stripe that shows a wheel's rotation, [4, 2]; None while it is below."""
    angles = phase, phase + 1.2
    above = [math.sin(angle) > 0 for angle in angles]
    if all(above):
        return None
    ends = [WHEEL_R * (np.sign(math.cos(angle)) if up else math.cos(angle)) for angle, up in zip(angles, above)]
    return rectangle(-WHEEL_W, ends[0], WHEEL_W, ends[1]) * SIZE


def fill(canvas: np.ndarray, corners: np.ndarray, color):
    """Draws a convex polygon, its corners [n, 2] in fractions of pixels."""
    cv2.fillConvexPoly(canvas, corners.astype(np.int32), (int(color[0]), int(color[1]), int(color[2])), cv2.LINE_8, SUBPIXEL)
