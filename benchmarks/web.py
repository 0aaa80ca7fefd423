"""How many visitors one core serves: python benchmarks/web.py. Clients ask for a step 30 times a second, over real
sockets; more of them come until it can no longer keep up."""

import argparse
import asyncio
import json
import os
import time

import aiohttp
import numpy as np
import torch
from aiohttp.test_utils import TestServer

from worldmodels import runs
from worldmodels.web.choices import choices
from worldmodels.web.server import application

RATE = 30           # steps a second that a visitor asks for


async def visitor(session: aiohttp.ClientSession, address: str, seed: int, seconds: float) -> int:
    """Plays in the dream and the game for so long, at most RATE steps a second; the steps that it got."""
    async with session.ws_connect(address) as socket:
        await socket.send_json({"do": "begin", "seed": seed})
        await socket.receive()
        steps, began = 0, time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            await asyncio.sleep(max(0.0, steps / RATE - now))
            await socket.send_json({"do": "step", "actor": "dream", "action": [], "temperature": 1.0})
            await socket.receive()
            steps += 1
            if steps % 100 == 0:
                await socket.send_json({"do": "begin", "seed": seed + steps})
                await socket.receive()
        return steps


async def measure(task: str, most: int, seconds: float) -> list[tuple[int, float]]:
    """Visitors, and the steps a second that each of them gets."""
    found = []
    known = {name: choice for name, choice in choices([runs.PUBLISHED]).items() if name == f"{task}/laptop"}
    async with TestServer(application(known, most)) as server, aiohttp.ClientSession() as session:
        address = str(server.make_url(f"/play?run={task}/laptop"))
        for count in range(1, most + 1):
            steps = await asyncio.gather(*(visitor(session, address, 1000 * i, seconds) for i in range(count)))
            found.append((count, float(np.mean(steps)) / seconds))
            print(f"{task:12} {count:8d} {found[-1][1]:24.1f}", flush=True)
            if found[-1][1] < RATE / 2:
                break
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--most", type=int, default=12, help="visitors")
    parser.add_argument("--out", default="", help="a JSON file for the numbers")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})         # the clients' work is in it too
    torch.set_num_threads(1)
    print(f"{'game':12} {'visitors':>8} {'steps a second of each':>24}")
    found = {task: asyncio.run(measure(task, given.most, given.seconds)) for task in ("car_racing", "take_cover")}
    if given.out:
        with open(given.out, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
