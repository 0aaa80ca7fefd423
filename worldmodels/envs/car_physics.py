"""gymnasium's car with less Python around Box2D: the same operations on the same numbers in the same order, so that
every state is equal to the last bit (gymnasium/envs/box2d/car_dynamics.py, car_racing.py).

numpy's functions of one number, Box2D's accessors called twice and the search for a tile's attributes are most of what
a step of gymnasium's costs beside the physics engine.
"""

import math

from Box2D.b2 import contactListener
from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, WHEEL_MOMENT_OF_INERTIA

GRASS_LIMIT = FRICTION_LIMIT * 0.6
SLIP_FORCE = 205000 * SIZE * SIZE       # force for each m/s between a wheel's rim and the ground
BRAKE_FORCE = 15                        # radians/s


def control(car, steer: float, gas: float, brake: float):
    """What the driver does: steer in [-1, 1], to the left; gas in [0, 1], followed at 0.1 a step; brake in [0, 1]."""
    gas = min(max(gas, 0.0), 1.0)
    front_left, front_right, *rear = car.wheels
    front_left.steer = front_right.steer = steer
    for wheel in rear:
        wheel.gas += min(gas - wheel.gas, 0.1)
    for wheel in car.wheels:
        wheel.brake = brake


def advance(car, dt: float):
    """Turns the wheels, and applies the forces between them and the ground for one step."""
    power = dt * ENGINE_POWER
    for wheel in car.wheels:
        joint = wheel.joint
        error = wheel.steer - joint.angle
        joint.motorSpeed = sign(error) * min(50.0 * abs(error), 3.0)

        limit = FRICTION_LIMIT if wheel.tiles else GRASS_LIMIT
        cos, sin = wheel.GetWorldVector((1, 0))                 # the wheel's right; ahead of it is (-sin, cos)
        x, y = wheel.linearVelocity
        ahead, aside = -sin * x + cos * y, cos * x + sin * y

        omega, brake = wheel.omega, wheel.brake
        omega += power * wheel.gas / WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
        car.fuel_spent += power * wheel.gas
        if brake >= 0.9:
            omega = 0
        elif brake > 0:
            omega += -sign(omega) * min(BRAKE_FORCE * brake, abs(omega))
        wheel.phase += omega * dt

        along = (omega * wheel.wheel_rad - ahead) * SLIP_FORCE
        across = -aside * SLIP_FORCE
        force = math.sqrt(along * along + across * across)
        leave_skid_mark(car, wheel, force > 2.0 * limit)
        if force > limit:
            along = along / force * limit
            across = across / force * limit
        wheel.omega = omega - dt * along * wheel.wheel_rad / WHEEL_MOMENT_OF_INERTIA
        wheel.ApplyForceToCenter((across * cos + along * -sin, across * sin + along * cos), True)


def sign(x: float) -> float:
    return (x > 0) - (x < 0)


def leave_skid_mark(car, wheel, skids: bool):
    """Begins, prolongs or ends the trace that a sliding wheel leaves; only gymnasium's own pictures show it."""
    if not skids:
        wheel.skid_start = wheel.skid_particle = None
        return
    mark, grass = wheel.skid_particle, not wheel.tiles
    if mark and mark.grass == grass and len(mark.poly) < 30:
        mark.poly.append((wheel.position[0], wheel.position[1]))
    elif wheel.skid_start is None:
        wheel.skid_start = wheel.position
    else:
        wheel.skid_particle = car._create_particle(wheel.skid_start, wheel.position, grass)
        wheel.skid_start = None


class TrackListener(contactListener):
    """Box2D's news of what touches a tile of the road: friction under wheels, the reward for a new tile, the lap's
    end."""

    def __init__(self, env):
        super().__init__()
        self.env = env

    def BeginContact(self, contact):
        tile, wheel = self._touched(contact)
        if wheel is None:
            return
        wheel.tiles.add(tile)
        if not tile.road_visited:
            env = self.env
            tile.road_visited = True
            env.reward += 1000.0 / len(env.track)
            env.tile_visited_count += 1
            if tile.idx == 0 and env.tile_visited_count / len(env.track) > env.lap_complete_percent:
                env.new_lap = True

    def EndContact(self, contact):
        tile, wheel = self._touched(contact)
        if wheel is not None:
            wheel.tiles.remove(tile)

    def _touched(self, contact):
        """The tile, which loses its shade, and the wheel that touches it; None for a wheel where it is the hull."""
        tile, other = contact.fixtureA.body.userData, contact.fixtureB.body.userData
        if not hasattr(tile, "road_friction"):
            tile, other = other, tile
        if not tile.touched:
            tile.touched = True
            tile.color[:] = self.env.road_color
            self.env.faded.append(tile.idx)
        return tile, other
