"""How controllers drive in CarRacing: how fast, how often off the road, and how much of it they miss.

    python benchmarks/driving.py --run data/car_racing/laptop [--rounds 4 5 6] [--episodes 32]

Missed is what lies behind the furthest tile that was touched and was not touched itself: it is lost for good, and where
it is more than 5% of the lap, the lap does not end before the clock.
"""

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np

from worldmodels.agent import load_agent, load_controller
from worldmodels.runs import Run
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.real import real_world
from worldmodels.worlds.record import recorded

FIRST_SEED = 1_000_005_000


def driving(game) -> tuple[float, bool, float, float]:
    """Of gymnasium's CarRacing as it is now: speed (units a second), whether no wheel is on the road, and shares of
    the lap, touched and reached."""
    touched = [number for number, tile in enumerate(game.road) if tile.road_visited]
    return (float(np.hypot(*game.car.hull.linearVelocity)), not any(wheel.tiles for wheel in game.car.wheels),
            len(touched) / len(game.road), (max(touched, default=-1) + 1) / len(game.road))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a folder with V, M and C of CarRacing")
    parser.add_argument("--rounds", type=int, nargs="+", help="whose controllers drive; the last one's")
    parser.add_argument("--episodes", type=int, default=32)
    options = parser.parse_args()
    last, seeds = Run(options.run).last("controller"), range(FIRST_SEED, FIRST_SEED + options.episodes)
    print("round          return  laps ended  speed: mean (5%, 95%)  off the road  missed")
    for run in map(last.at, options.rounds or [last.round]):
        agent = load_agent(run)
        controller, collect = load_controller(run, agent), run.settings(CollectConfig, "collect")
        with closing(real_world(agent, agent.task.max_steps, env_settings(agent.task, collect))) as world:
            see = lambda world=world: [driving(env.unwrapped) for env in world.envs]
            played = recorded(world, agent.policy_of(controller), seeds, see)
        speed, off, _, _ = np.concatenate([np.asarray(episode.frames) for episode in played]).T
        _, _, touched, reached = np.array([episode.frames[-1] for episode in played]).T
        returns = np.array([episode.reward.sum() for episode in played])
        slow, fast = np.percentile(speed, (5, 95))
        ended = np.mean([episode.terminated[-1] for episode in played])
        print(f"{run.round:5} {returns.mean():8.0f} ± {returns.std():3.0f}  {ended:10.0%}  {speed.mean():11.0f} "
              f"({slow:3.0f}, {fast:3.0f})  {off.mean():12.1%}  {(reached - touched).mean():6.1%}", flush=True)


if __name__ == "__main__":
    main()
