"""CarRacing's observation from a painted ground: each track is painted once, and a frame is a small piece of it, turned
and resized.

gymnasium draws 1000×800 pixels polygon by polygon in Python, at every step, to keep 96×96 of them. Distances are the
game's metres; angles are radians, the car's zero looks along y.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_COLOR, WHEEL_R, WHEEL_W, WHEEL_WHITE, WHEELPOS
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, STATE_H, WINDOW_H, WINDOW_W

FRAME = 64                          # side of an observation, pixels
VISIBLE = 84                        # of gymnasium's 96 rows, those above the dashboard
PAINTED = 3  # pixels a metre the ground is painted at; what is kept is half as fine: as a frame shows it
LEVELS = 5                          # kept, each half as fine as the one before, for the first second's zoom
CAR = slice(49, 61), slice(27, 37)  # where the car is in a frame, always the same
FINER = 8                           # it is drawn so many times finer than the frame, and kept for later frames ...
ANGLES, TURN = 25, 32               # ... of the same wheels, their angles to 1/25 radian, their rotation to 1/32 turn
ROTATIONS = TURN / (2 * math.pi)
SUBPIXEL = 4                        # corners are placed to 1/2^4 of a pixel
DARKER = 2                          # what pygame's smoothscale takes from every colour, by rounding down
PER_WINDOW = FRAME / WINDOW_W, FRAME / (WINDOW_H * VISIBLE / STATE_H)  # frame's pixels per window's, x and y
CENTRE = WINDOW_W / 2 * PER_WINDOW[0] - 0.5, WINDOW_H * 3 / 4 * PER_WINDOW[1] - 0.5     # where the car is in a frame

HULL = [np.array(shape) * SIZE for shape in (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY3,
                                             car_dynamics.HULL_POLY4)]
HULL_COLOR = (204, 0, 0)


class Camera(NamedTuple):
    """Where it is above the ground (x, y), the angle it is turned by, and its scale: frame pixels a metre, across and
    down."""

    x: float
    y: float
    angle: float
    across: float
    down: float


def camera(x: float, y: float, angle: float, zoom: float) -> Camera:
    """That of a car's position and angle; `zoom` as gymnasium counts it, in pixels of its window a metre."""
    return Camera(x, y, angle, zoom * PER_WINDOW[0], zoom * PER_WINDOW[1])


def darker(color) -> tuple[int, ...]:
    """A colour as it arrives in gymnasium's observation, and a fourth channel: OpenCV moves four together faster than
    three."""
    return *(max(int(c) - DARKER, 0) for c in color), 0


@lru_cache(maxsize=1)
def bare_field(field: tuple, patches: tuple) -> np.ndarray:
    """The playfield and its lighter patches in their colours [n, n, 4], without a track."""
    image = np.empty((round(2 * PLAYFIELD * PAINTED),) * 2 + (4,), np.uint8)
    image[:] = darker(field)
    corners = np.round((np.arange(-20, 21) * GRASS_DIM + PLAYFIELD) * PAINTED).astype(int)
    for left, right in zip(corners[:-1:2], corners[1::2]):
        for bottom, top in zip(corners[:-1:2], corners[1::2]):
            image[bottom:top, left:right] = darker(patches)
    return image


def halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


# the car's middle on what it is drawn on
ON_CANVAS = (np.array(CENTRE) + 0.5 - (CAR[1].start, CAR[0].start)) * FINER - 0.5


class Ground:
    """The playfield with a track on it, as seen from above."""

    def __init__(self, field: tuple, patches: tuple, road: tuple, shapes: list, colors: list):
        """Colours of the playfield, of its patches and of a tile that was touched; shapes [N, 4, 2] of tiles and kerbs
        with their colours, in the order in which they cover each other. A tile's colour is an array, a kerb's a
        tuple."""
        corners = (np.array(shapes) + PLAYFIELD) * PAINTED - 0.5
        pixels, is_tile = to_pixels(corners), [isinstance(color, np.ndarray) for color in colors]
        image = bare_field(field, patches).copy()
        for shape, color in zip(pixels, colors):
            fill(image, shape, darker(color))
        self.levels = [halved(image)]
        while len(self.levels) < LEVELS:
            self.levels.append(halved(self.levels[-1]))
        for shape, color, tile in zip(pixels, colors, is_tile):
            fill(image, shape, darker(road if tile else color))
        self.touched = halved(image)                            # as it looks when the car has been everywhere
        self.tiles = corners[is_tile] / 2 - 0.25                # [T, 4, 2], in the finest level's pixels

    def touch(self, tile: int):
        """A tile loses its shade, at the finest level: the car is on it."""
        corners = self.tiles[tile]
        (left, top), (right, bottom) = corners.min(0).astype(int), corners.max(0).astype(int) + 2
        mask = np.zeros((bottom - top, right - left), np.uint8)
        fill(mask, to_pixels(corners - (left, top)), 255)
        cv2.copyTo(self.touched[top:bottom, left:right], mask, self.levels[0][top:bottom, left:right])

    def seen(self, camera: Camera) -> np.ndarray:
        """[64, 64, 4] uint8, from the level that is about as fine as the frame; black outside of the playfield."""
        level = min(max(int(math.log2(PAINTED / (camera.across + camera.down))), 0), LEVELS - 1)
        pixels = PAINTED / 2 ** (level + 1)
        cos, sin = math.cos(camera.angle) * pixels, math.sin(camera.angle) * pixels
        a, b, c, d = cos / camera.across, sin / camera.down, sin / camera.across, -cos / camera.down
        x = (camera.x + PLAYFIELD) * pixels - 0.5 - a * CENTRE[0] - b * CENTRE[1]
        y = (camera.y + PLAYFIELD) * pixels - 0.5 - c * CENTRE[0] - d * CENTRE[1]
        return cv2.warpAffine(self.levels[level], np.array(((a, b, x), (c, d, y))), (FRAME, FRAME),
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)


def draw_car(frame: np.ndarray, camera: Camera, wheels: list[tuple[float, float]]):
    """Draws the car that the camera follows on a frame [64, 64, 4], given each wheel's angle to the hull and its
    rotation."""
    there = frame[CAR]
    car = hull_sprite(camera.across, camera.down)
    for place, (angle, rotation) in zip(WHEELPOS, wheels):
        car = cv2.add(
            car,
            wheel_sprite(camera.across, camera.down, place, round(angle * ANGLES),
                         round(rotation * ROTATIONS) % TURN))
    light, cover = car[:len(there)], car[len(there):]
    there[:] = cv2.add(cv2.multiply(there, cv2.bitwise_not(cover), scale=1 / 255), light)


@lru_cache(maxsize=64)
def hull_sprite(across: float, down: float) -> np.ndarray:
    return sprite(drawn_hull(across, down))


@lru_cache(maxsize=8192)
def wheel_sprite(across: float, down: float, place: tuple, angle: int, rotation: int) -> np.ndarray:
    """A wheel with the light stripe that shows its rotation, as far as the hull does not cover it."""
    cos, sin = math.cos(angle / ANGLES), math.sin(angle / ANGLES)
    turn, middle = np.array(((cos, sin), (-sin, cos))) * SIZE, np.array(place) * SIZE

    def rectangle(low, high):
        return np.array(((-WHEEL_W, low), (WHEEL_W, low), (WHEEL_W, high), (-WHEEL_W, high))) @ turn + middle

    canvas = drawn([rectangle(-WHEEL_R, WHEEL_R)], WHEEL_COLOR, across, down)
    ends = [rotation / ROTATIONS, rotation / ROTATIONS + 1.2]
    if any(math.sin(end) <= 0 for end in ends):             # else the stripe is below
        stripe = rectangle(*(WHEEL_R * (math.copysign(1, math.cos(end)) if math.sin(end) > 0 else math.cos(end))
                             for end in ends))
        canvas = np.maximum(canvas, drawn([stripe], WHEEL_WHITE, across, down))
    canvas[drawn_hull(across, down)[:, :, 3] > 0] = 0
    return sprite(canvas)


@lru_cache(maxsize=64)
def drawn_hull(across: float, down: float) -> np.ndarray:
    return drawn(HULL, HULL_COLOR, across, down)


def drawn(shapes: list[np.ndarray], color: tuple, across: float, down: float) -> np.ndarray:
    """Shapes in metres around the car's middle, much finer than the frame; 255 in the fourth channel."""
    height, width = (FINER * (part.stop - part.start) for part in CAR)
    canvas = np.zeros((height, width, 4), np.uint8)
    for corners in shapes:
        fill(canvas, to_pixels(corners * (across * FINER, -down * FINER) + ON_CANVAS), (*darker(color)[:3], 255))
    return canvas


def sprite(canvas: np.ndarray) -> np.ndarray:
    """As fine as the frame: the light that comes from the shapes, and below it the share of each pixel that they
    cover."""
    light = cv2.resize(canvas, None, fx=1 / FINER, fy=1 / FINER, interpolation=cv2.INTER_AREA)
    return np.concatenate([light, np.repeat(light[:, :, 3:], 4, 2)])


def to_pixels(corners: np.ndarray) -> np.ndarray:
    """Corners in pixels, in the fractions that `fill` takes."""
    return np.rint(corners * (1 << SUBPIXEL)).astype(np.int32)


def fill(image: np.ndarray, corners: np.ndarray, color):
    """Draws a convex polygon, its corners from `to_pixels`."""
    cv2.fillConvexPoly(image, corners, color, cv2.LINE_8, SUBPIXEL)
