"""A machine that misbehaves: what does the program say, and does the same command then end with the same weights?

    python benchmarks/faults/machine.py --trials 3

A small run of all stages is made once undisturbed. Then it is made in a fresh folder under a fault; the fault is
mended, and the same command is given again.

    full disk       --data is a file system of so few kilobytes that some stage fills it (tmpfs; needs root)
    read-only       one folder of the run cannot be written, after some stages are done (a bind mount; needs root)
    clock           the clock jumps ten years forth and back at every look, also in the workers
    slow workers    a process that the command started stands still for seconds, again and again (SIGSTOP)
    stuck workers   it stands still for ever; jobs have --deadline seconds
    memory          processes may take only so many megabytes more than they have after their imports (RLIMIT_AS)

The table counts, of each fault, the commands that ended well in spite of it, those that said so (exit code 2 and one
line that begins with "error:"), and all others; then those whose run was equal to the undisturbed one afterwards.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiment import SETTINGS, end, marked, products, start, statements, table
from worldmodels.commandline import Count, Range, Whole, check_ranges, errors_in_one_line, parsed
from worldmodels.executors import EXECUTORS
from worldmodels.runs import Run
from worldmodels.types import UserError

LONGEST = 900.0             # seconds, after which a command is hung
OFTEN_SAVED, FAULTY = (Path(__file__).with_name(name) for name in ("often_saved.py", "faulty.py"))


@dataclass(frozen=True)
class MachineConfig:
    trials: Count = 3
    """Runs under each fault."""
    only: str = ""
    """One fault, by its name in the table; all of them if not given."""
    executor: str = "local"
    """Where the runs' jobs run."""
    seed: Whole = 0
    """Of sizes and moments."""
    deadline: Annotated[float, Range(1)] = 60.0
    """Seconds that a job may take where a worker is stuck; a worker has to start within them."""


class Trial:
    """A run in a folder."""

    def __init__(self, config: MachineConfig, folder: Path, mark: str, finished: Path | None = None):
        self.config, self.folder, self.mark, self.finished = config, folder, mark, finished
        self.runs = folder / "runs"
        self.runs.mkdir()

    @property
    def run(self) -> Run:
        return Run(self.runs / "toy" / "smoke")

    def begin(self, fault: str = "") -> subprocess.Popen:
        command = [FAULTY if fault else OFTEN_SAVED, "--task", "toy", *SETTINGS, "--workers", "2", "--executor",
                   self.config.executor]
        return start(command, self.folder, self.mark, FAULT=fault)

    def ended(self, process: subprocess.Popen) -> int | None:
        """Its exit code, when it and all that it started have ended; None where it is hung."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(LONGEST)
        code = process.returncode
        end(self.mark)
        return code

    def said(self) -> list[str]:
        return statements((self.folder / "stderr").read_text(errors="replace"))


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"this fault cannot be made here ({done.stderr.strip()}): --only chooses another")


def unmount(folder: Path):
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def full_disk(trial: Trial, chance: random.Random) -> int | None:
    whole = sum(path.stat().st_size for path in trial.finished.rglob("*") if path.is_file())
    mount("-t", "tmpfs", "-o", f"size={chance.randint(4, whole // 1000)}k", "tmpfs", trial.runs)
    code = trial.ended(trial.begin())
    mount("-o", "remount,size=1g", trial.runs)
    return code


def read_only(trial: Trial, chance: random.Random) -> int | None:
    name = chance.choice(["", "episodes", "latents", "checkpoints", "report", "tensorboard"])
    shutil.copytree(trial.finished, trial.runs, dirs_exist_ok=True)
    for made in ("checkpoints", "latents", "report", *(["episodes"] if name == "episodes" else [])):
        shutil.rmtree(trial.run.root / made)
        (trial.run.root / made).mkdir()
    folder = trial.run.root / name
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,ro,bind", folder)
        return trial.ended(trial.begin())
    finally:
        unmount(folder)


def clock(trial: Trial, chance: random.Random) -> int | None:
    return trial.ended(trial.begin("clock 0"))


def stop_one(trial: Trial, process: subprocess.Popen, chance: random.Random) -> int | None:
    started = sorted(set(marked(trial.mark)) - {process.pid})
    if not started:
        return None
    stopped = chance.choice(started)
    with suppress(OSError):
        os.kill(stopped, signal.SIGSTOP)
    return stopped


def slow_workers(trial: Trial, chance: random.Random) -> int | None:
    process = trial.begin()
    while process.poll() is None:
        stopped = stop_one(trial, process, chance)
        time.sleep(chance.uniform(0.5, 4))
        if stopped:
            with suppress(OSError):
                os.kill(stopped, signal.SIGCONT)
        time.sleep(0.5)
    return trial.ended(process)


def stuck_workers(trial: Trial, chance: random.Random) -> int | None:
    process = trial.begin(f"deadline {trial.config.deadline}")
    until = time.monotonic() + chance.uniform(0, trial.config.deadline)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    while process.poll() is None and stop_one(trial, process, chance) is None:
        time.sleep(0.1)
    return trial.ended(process)


def memory(trial: Trial, chance: random.Random) -> int | None:
    return trial.ended(trial.begin(f"memory {chance.choice([10, 30, 100, 300, 1000]) * 1e6}"))


FAULTS: dict[str, Callable[[Trial, random.Random], int | None]] = {
    "full disk": full_disk, "read-only": read_only, "clock": clock, "slow workers": slow_workers,
    "stuck workers": stuck_workers, "memory": memory}
COLUMNS = ["ended well", "said so", "otherwise", "equal", "different", "not finished"]


def kind_of_end(code: int | None, said: list[str]) -> str:
    if code == 0:
        return "ended well"
    clean = not any("Traceback" in line for line in said)
    return "said so" if code == 2 and clean and said and said[-1].startswith("error:") else "otherwise"


def outcome(name: str, trial: Trial, wanted: dict, chance: random.Random) -> list[str]:
    """What came of a command under a fault, and of the same command afterwards."""
    code = FAULTS[name](trial, chance)
    found, said = kind_of_end(code, trial.said()), trial.said()
    print(f"{name}: exit code {code}", *(line[:300] for line in said[-6 if found == 'otherwise' else -1:]),
          sep="\n    ", flush=True)
    if trial.ended(trial.begin()) != 0:
        print("    again:", *(line[:300] for line in trial.said()[-6:]), sep="\n    ", flush=True)
        return [found, "not finished"]
    made = products(trial.run)
    different = [part for part in wanted if made[part] != wanted[part]]
    if different:
        print(f"    different: {', '.join(different)}")
    return [found, "different" if different else "equal"]


def check(config: MachineConfig):
    """Raises UserError for what cannot be done."""
    check_ranges(config)
    for name, given, known in ("--executor", config.executor, EXECUTORS), ("--only", config.only, ["", *FAULTS]):
        if given not in known:
            raise UserError(f"{name} {given}: choose one of {', '.join(filter(None, known))}")


def main(config: MachineConfig):
    check(config)
    counts, chance = {}, random.Random(config.seed)
    with tempfile.TemporaryDirectory() as finished:
        first = Trial(config, Path(finished), f"machine-{os.getpid()}")
        if first.ended(first.begin()):
            sys.exit("\n".join(first.said()))
        wanted = products(first.run)
        for name in FAULTS if not config.only else [config.only]:
            counts[name] = Counter()
            for number in range(config.trials):
                with tempfile.TemporaryDirectory() as folder:
                    trial = Trial(config, Path(folder), f"machine-{os.getpid()}-{name}-{number}", first.runs)
                    try:
                        counts[name].update(outcome(name, trial, wanted, chance))
                    finally:
                        unmount(trial.runs)
    print(table(["fault", *COLUMNS], [[name, *(found[column] for column in COLUMNS)]
                                      for name, found in counts.items()]))
    sys.exit(any(found[column] for found in counts.values() for column in ("otherwise", "different", "not finished")))


if __name__ == "__main__":
    with errors_in_one_line("begins anew"):
        main(parsed(MachineConfig(), sys.argv[1:], __doc__))
