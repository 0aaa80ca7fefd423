"""What this machine has for worker processes: its cores, and how many workers it can serve."""

import math
import os
import platform
import re
import time
from functools import cache
from pathlib import Path

import psutil
import torch

from worldmodels.types import UserError

try:
    import resource
except ModuleNotFoundError:         # Windows, which limits neither
    resource = None

MEMORY = 0.3e9      # bytes a worker takes, with torch and a game
TASKS = 4           # processes and threads of a worker: it and its engine, a thread of its own and one that serves it
FILES = 4           # files the serving process keeps open for a worker


def description() -> str:
    """The machine in words: its processor, cores and memory, and a GPU if torch may use one."""
    names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc/cpuinfo") \
        else [platform.processor()]
    cpu = " ".join((names or [platform.machine()])[0].split()) or "an unknown processor"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cpu}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB of memory{gpu}"


def available_memory() -> float:
    """Bytes that new processes can have."""
    return psutil.virtual_memory().available


def most_workers() -> int:
    """How many workers this machine can serve now."""
    limits = [available_memory() / MEMORY]
    for name, each in (("RLIMIT_NPROC", TASKS), ("RLIMIT_NOFILE", FILES)) if resource else ():
        soft, _ = resource.getrlimit(getattr(resource, name))
        limits.append(math.inf if soft == resource.RLIM_INFINITY else soft / each)
    return max(1, int(min(limits)))


def check_workers(count: int):
    """A UserError where this machine cannot serve `count` workers."""
    most = most_workers()
    if not 1 <= count <= most:
        raise UserError(f"--workers {count}: this machine can serve 1 to about {most}")


@cache
def default_workers() -> int:
    """One worker for each core this process may use, as far as the machine can serve them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, most_workers())


def idle_cores() -> list[int]:
    """The cores this process may use, the least busy first; none where processes cannot be bound to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return []

    def idle() -> dict[str, int]:
        with open("/proc/stat") as file:
            return {name: int(counts[3]) for name, *counts in map(str.split, file) if name.startswith("cpu")}

    before = idle()
    time.sleep(0.1)
    after = idle()
    return sorted(os.sched_getaffinity(0), key=lambda core: before.get(f"cpu{core}", 0) - after.get(f"cpu{core}", 0))
