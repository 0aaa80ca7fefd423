"""CarRacing's observation from a painted ground: each track is painted once, and a frame is a small piece of it, turned and resized.

gymnasium draws 1000×800 pixels polygon by polygon in Python, at every step, to keep 96×96 of them. Distances are the game's
metres; angles are radians, the car's zero looks along y.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_COLOR, WHEEL_R, WHEEL_W, WHEEL_WHITE
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, STATE_H, WINDOW_H, WINDOW_W

FRAME = 64                          # side of an observation, pixels
VISIBLE = 84                        # of gymnasium's 96 rows, those above the dashboard
PAINTED = 3                         # pixels a metre the ground is painted at; what is kept is half as fine: as a frame shows it
LEVELS = 5                          # kept, each half as fine as the one before, for the first second's zoom
FINER = 4                           # the car is drawn so many times finer than the ground ...
CAR_TOP, CAR_LEFT, CAR_SIDE = 44, 22, 20    # ... on this square of the frame, always the same
SUBPIXEL = 4                        # corners are placed to 1/2^4 of a pixel
DARKER = 2                          # what pygame's smoothscale takes from every colour, by rounding down
PER_WINDOW = FRAME / WINDOW_W, FRAME / (WINDOW_H * VISIBLE / STATE_H)               # frame's pixels per window's, x and y
CENTRE = WINDOW_W / 2 * PER_WINDOW[0] - 0.5, WINDOW_H * 3 / 4 * PER_WINDOW[1] - 0.5     # where the car is in a frame

HULL = np.array([corner for shape in (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY3,
                                      car_dynamics.HULL_POLY4) for corner in shape]) * SIZE     # [20, 2], in the car's frame
HULL_SHAPES = slice(0, 4), slice(4, 8), slice(8, 16), slice(16, 20)
HULL_COLOR = (204, 0, 0)
HALF_WIDTH, RADIUS = WHEEL_W * SIZE, WHEEL_R * SIZE


class Camera(NamedTuple):
    """Where it is above the ground (x, y), the angle it is turned by, and its scale: frame pixels a metre, across and down."""

    x: float
    y: float
    angle: float
    across: float
    down: float


def camera(x: float, y: float, angle: float, zoom: float) -> Camera:
    """That of a car's position and angle; `zoom` as gymnasium counts it, in pixels of its window a metre."""
    return Camera(x, y, angle, zoom * PER_WINDOW[0], zoom * PER_WINDOW[1])


def darker(color) -> tuple[int, ...]:
    """A colour as it arrives in gymnasium's observation, and a fourth channel: OpenCV moves four together faster than three."""
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


TYRE, STRIPE = darker(WHEEL_COLOR), darker(WHEEL_WHITE)
ON_CANVAS = (np.array(CENTRE) + 0.5 - (CAR_LEFT, CAR_TOP)) * FINER - 0.5          # where the car is on what it is drawn on


class Ground:
    """The playfield with a track on it, as seen from above."""

    def __init__(self, field: tuple, patches: tuple, road: tuple, shapes: list, colors: list):
        """Colours of the playfield, of its patches and of a tile that was touched; shapes [N, 4, 2] of tiles and kerbs with
        their colours, in the order in which they cover each other. A tile's colour is an array, a kerb's a tuple."""
        corners = (np.array(shapes) + PLAYFIELD) * PAINTED - 0.5
        is_tile = [isinstance(color, np.ndarray) for color in colors]
        image = bare_field(field, patches).copy()
        for shape, color in zip(to_pixels(corners), colors):
            fill(image, shape, darker(color))
        self.levels = [halved(image)]
        while len(self.levels) < LEVELS:
            self.levels.append(halved(self.levels[-1]))
        for shape, color, tile in zip(to_pixels(corners), colors, is_tile):
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


def draw_car(frame: np.ndarray, camera: Camera, wheels: list[tuple[float, float, float, float]]):
    """Draws the car that the camera follows on a frame [64, 64, 4], given each wheel's (x, y, angle, phase)."""
    there = frame[CAR_TOP:CAR_TOP + CAR_SIDE, CAR_LEFT:CAR_LEFT + CAR_SIDE]
    canvas = cv2.resize(there, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_NEAREST)
    tyres, stripes = wheel_shapes(camera, wheels)
    shapes = np.array(tyres + stripes).reshape(-1, 4, 2)
    for shape, color in zip(to_canvas(shapes, camera), len(wheels) * [TYRE] + len(stripes) * [STRIPE]):
        fill(canvas, shape, color)
    hull, mask = drawn_hull(camera.across, camera.down)
    cv2.copyTo(hull, mask, canvas)
    half = cv2.resize(canvas, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    there[:] = cv2.resize(half, (CAR_SIDE, CAR_SIDE), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=64)
def drawn_hull(across: float, down: float) -> tuple[np.ndarray, np.ndarray]:
    """The car without its wheels on the canvas, and the mask of it: it is the same in all frames of one zoom."""
    hull = np.zeros((CAR_SIDE * FINER, CAR_SIDE * FINER, 4), np.uint8)
    corners = to_canvas(HULL, Camera(0, 0, 0, across, down))
    for shape in HULL_SHAPES:
        fill(hull, corners[shape], darker(HULL_COLOR))
    return hull, hull[:, :, 0].copy()


def to_canvas(corners: np.ndarray, camera: Camera) -> np.ndarray:
    """From metres in the car's frame, [..., 2], to pixels of what the car is drawn on."""
    return to_pixels(corners * (camera.across * FINER, -camera.down * FINER) + ON_CANVAS)


def wheel_shapes(camera: Camera, wheels: list[tuple[float, float, float, float]]) -> tuple[list, list]:
    """The wheels and the light stripes that show their rotation, in the car's frame: each a list of 8 numbers, four corners."""
    cos, sin = math.cos(camera.angle), math.sin(camera.angle)
    tyres, stripes = [], []
    for x, y, angle, phase in wheels:
        x, y, angle = x - camera.x, y - camera.y, angle - camera.angle
        x, y, c, s = cos * x + sin * y, cos * y - sin * x, math.cos(angle), math.sin(angle)

        def rectangle(low, high):
            ax, ay, lx, ly, hx, hy = c * HALF_WIDTH, s * HALF_WIDTH, x - s * low, y + c * low, x - s * high, y + c * high
            return lx - ax, ly - ay, lx + ax, ly + ay, hx + ax, hy + ay, hx - ax, hy - ay

        tyres.append(rectangle(-RADIUS, RADIUS))
        first, last = math.sin(phase), math.sin(phase + 1.2)
        if first <= 0 or last <= 0:                 # else it is below
            stripes.append(rectangle(*(RADIUS * (math.copysign(1, cosine) if sine > 0 else cosine) for cosine, sine in
                                       ((math.cos(phase), first), (math.cos(phase + 1.2), last)))))
    return tyres, stripes


def to_pixels(corners: np.ndarray) -> np.ndarray:
    """Corners in pixels, in the fractions that `fill` takes."""
    return np.rint(corners * (1 << SUBPIXEL)).astype(np.int32)


def fill(image: np.ndarray, corners: np.ndarray, color):
    """Draws a convex polygon, its corners from `to_pixels`."""
    cv2.fillConvexPoly(image, corners, color, cv2.LINE_8, SUBPIXEL)
