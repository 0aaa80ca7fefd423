"""often_saved.py on a machine that misbehaves as $FAULT says: the clock jumps, jobs have so many seconds, processes may
take so many bytes. Worker processes import this file too, and misbehave alike."""

import os
import random
import resource
import time
from functools import partial

from often_saved import run
from worldmodels.executors import EXECUTORS
from worldmodels.report import sim_to_real_gap
from worldmodels.worlds import explore, fitness

YEARS = 10 * 365 * 24 * 3600.0


def jumping_clock(_: float, now=time.time):
    time.time = lambda: now() + random.choice((-YEARS, 0.0, YEARS))


def short_deadline(seconds: float):
    EXECUTORS.update({kind: partial(executor, deadline=seconds) for kind, executor in EXECUTORS.items()})
    for module in (fitness, explore, sim_to_real_gap):              # whose jobs have deadlines of their own
        module.time_for = lambda frames: seconds


def little_memory(more: float):
    """So many bytes more than this process has when all is imported."""
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    if __name__ == "__main__":
        resource.setrlimit(resource.RLIMIT_AS, (has + int(more),) * 2)


fault, amount = os.environ["FAULT"].split()
{"clock": jumping_clock, "deadline": short_deadline, "memory": little_memory}[fault](float(amount))

if __name__ == "__main__":
    run()
