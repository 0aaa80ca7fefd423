"""Runs killed at random moments: does the same command, given again, end with the same weights and scores?

    python benchmarks/faults/kills.py --runs 100 --victim mix
    python benchmarks/faults/kills.py --runs 5 --task take_cover        # real ViZDoom engines

A small run of all stages is made once undisturbed. Then it is made again and again, each time in a fresh folder, and
disturbed one to three times, each time in a stage drawn at random ("start" is before the first one), at a moment drawn
from the seconds that it took undisturbed. Whenever the command has ended otherwise than by exit code 0, it is given
again. Checkpoints are written at every line of the log.

    driver      the command's own process is killed (SIGKILL)
    worker      one of the processes that it started is killed, or one that those started: a worker, a game engine
    interrupt   Ctrl-C: every process of the group gets SIGINT
    terminate   the command's own process gets SIGTERM

Of each sort the table says in which stage the kills fell, how many runs ended with every checkpoint's digest and every
score's returns as the undisturbed run's (equal) or not (different), how many ended by another exit code than the kill's
(failed) or were not done in ten times the seconds (hung), how many processes were alive --grace seconds after their
command had ended (outlived), and how many half-written or temporary files were there in the end (files).
"""

import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from experiment import SETTINGS, end, marked, products, start, statements, table
from pipeline.__main__ import STAGED
from worldmodels.commandline import Count, Range, Whole, check_ranges, errors_in_one_line, parsed
from worldmodels.executors import EXECUTORS
from worldmodels.files import HALF_WRITTEN
from worldmodels.runs import Run
from worldmodels.types import UserError

LONGER = ["--collect.episodes", "20", "--vision.steps", "100", "--memory.steps", "200", "--learner.generations", "8"]
MOST_KILLS = 3
LOOK = 0.05                 # seconds between two looks at a process
HUNG, LEAST = 10, 120.0     # times the undisturbed seconds, or so many seconds, after which a run is hung
STAGES = ["start", *(stage.__name__ for stage in STAGED)]
COUNTS = ["equal", "different", "failed", "hung", "outlived", "files"]


@dataclass(frozen=True)
class KillsConfig:
    runs: Count = 100
    """Runs that are disturbed."""
    victim: Literal["mix", "driver", "worker", "interrupt", "terminate"] = "mix"
    """What is killed; mix: each in turn."""
    task: str = "toy"
    """The game."""
    executor: str = "local"
    """Where the runs' jobs run."""
    workers: Count = 2
    """Worker processes of each."""
    seed: Whole = 0
    """Of the moments and the victims."""
    grace: Annotated[float, Range(0)] = 20.0
    """Seconds in which all processes of a command that has ended have to end too."""


def kill(pid: int, sign: int):
    with suppress(OSError):             # it has ended meanwhile
        os.kill(pid, sign)


def kill_one_it_started(pid: int, mark: str, chance: random.Random):
    started = sorted(set(marked(mark)) - {pid})
    if started:
        kill(chance.choice(started), signal.SIGKILL)


VICTIMS: dict[str, Callable[[int, str, random.Random], None]] = {
    "driver": lambda pid, mark, chance: kill(pid, signal.SIGKILL),
    "worker": kill_one_it_started,
    "interrupt": lambda pid, mark, chance: os.killpg(pid, signal.SIGINT),
    "terminate": lambda pid, mark, chance: kill(pid, signal.SIGTERM)}
# by which codes a command may end after that, beside 0
CODES = {"driver": {-signal.SIGKILL}, "worker": set(), "interrupt": {130, -signal.SIGINT},
         "terminate": {-signal.SIGTERM}}


class Disturbed:
    """A run in a folder, and what happened to it."""

    def __init__(self, config: KillsConfig, folder: Path, mark: str):
        self.config, self.folder, self.mark = config, folder, mark
        (folder / "tmp").mkdir()
        self.found, self.said, self.stages = Counter(), "", []

    @property
    def run(self) -> Run:
        return Run(self.folder / "runs" / self.config.task / "smoke")

    def command(self):
        """Begins the command, or goes on with it."""
        c = self.config
        script = Path(__file__).with_name("often_saved.py")
        arguments = ["--task", c.task, *SETTINGS, *LONGER, "--executor", c.executor, "--workers", c.workers]
        return start([script, *arguments], self.folder, self.mark, TMPDIR=str(self.folder / "tmp"))

    def number_of_stage(self) -> int:
        """In which the command is, by what it has said."""
        said = re.findall(r"^\[(\d)/\d\]", (self.folder / "stderr").read_text(errors="replace"), re.MULTILINE)
        return int(said[-1]) if said else 0

    def go_through(self, victim: str, moments: list[tuple[int, float]], chance: random.Random, limit: float):
        """Gives the command until it ends by 0, and disturbs it at moments: in which stage, and after how many seconds
        of it."""
        process, begun, stage, since = self.command(), time.monotonic(), -1, 0.0
        while True:
            code = process.poll()
            if self.number_of_stage() != stage:
                stage, since = self.number_of_stage(), time.monotonic()
            if code is None and moments and (stage, time.monotonic() - since) >= moments[0]:
                moments.pop(0)
                self.stages.append(STAGES[stage])
                VICTIMS[victim](process.pid, self.mark, chance)
            elif code is None and time.monotonic() - begun > limit:
                self.found["hung"] += 1
                self.said += f"hung in {STAGES[stage]}\n"
                return end(self.mark)
            elif code is None:
                time.sleep(LOOK)
            else:
                self.count_outlived()
                if code == 0:
                    return
                if code not in CODES[victim]:
                    self.found["failed"] += 1
                    said = statements((self.folder / "stderr").read_text(errors="replace"))
                    self.said += "\n".join([f"exit code {code}", *said[-8:], ""])
                    return
                process, stage = self.command(), -1

    def count_outlived(self):
        until = time.monotonic() + self.config.grace
        while marked(self.mark) and time.monotonic() < until:
            time.sleep(LOOK)
        for pid in marked(self.mark):
            with suppress(OSError):
                self.said += f"outlived: {Path(f'/proc/{pid}/cmdline').read_text()[:200]!r}\n"
        self.found["outlived"] += len(end(self.mark))

    def left(self) -> set[Path]:
        """What is half-written or temporary in the folder."""
        found = [path for path in self.folder.rglob(".*") if HALF_WRITTEN.fullmatch(path.name)]
        found += [*self.folder.rglob("*.progress.*"), *(self.folder / "tmp").iterdir()]
        return {path.relative_to(self.folder) for path in found}

    def compare(self, wanted: dict, usual: set[Path]):
        """Whether it ended as the undisturbed run, and what lies about beside what that one leaves."""
        left = self.left() - usual
        self.found["files"] += len(left)
        self.said += "".join(f"left: {path}\n" for path in left)
        if self.found["hung"] or self.found["failed"]:
            return
        made = products(self.run)
        different = [name for name in wanted if made[name] != wanted[name]]
        self.found["different" if different else "equal"] += 1
        self.said += f"different: {', '.join(different)}\n" if different else ""


def undisturbed(config: KillsConfig) -> tuple[dict, set[Path], list[float]]:
    """What the run makes, what it leaves lying about (torch has a folder of temporary files), and each stage's
    seconds."""
    with tempfile.TemporaryDirectory() as name:
        run, seconds = Disturbed(config, Path(name), f"kills-{os.getpid()}"), [0.0] * len(STAGES)
        process = run.command()
        while process.poll() is None:
            time.sleep(LOOK)
            seconds[run.number_of_stage()] += LOOK
        if process.returncode:
            sys.exit((run.folder / "stderr").read_text())
        return products(run.run), run.left(), seconds


def main(config: KillsConfig):
    check_ranges(config)
    if config.executor not in EXECUTORS:
        raise UserError(f"--executor {config.executor}: choose one of {', '.join(EXECUTORS)}")
    wanted, usual, seconds = undisturbed(config)
    print("undisturbed: " + ", ".join(f"{name} {each:.1f} s" for name, each in zip(STAGES, seconds)), flush=True)
    victims = list(VICTIMS) if config.victim == "mix" else [config.victim]
    counts = {victim: Counter() for victim in victims}
    chance = random.Random(config.seed)
    for number in range(config.runs):
        victim = victims[number % len(victims)]
        drawn = sorted(chance.randrange(len(STAGES)) for _ in range(chance.randint(1, MOST_KILLS)))
        moments = [(stage, chance.uniform(0, seconds[stage])) for stage in drawn]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            run = Disturbed(config, Path(name), f"kills-{os.getpid()}-{number}")
            run.go_through(victim, moments, chance, max(LEAST, HUNG * sum(seconds)))
            run.compare(wanted, usual)
        counts[victim] += run.found + Counter(run.stages) + Counter(runs=1, kills=len(run.stages))
        print(f"{number}: {victim} in {', '.join(run.stages) or 'no stage'}: "
              + ", ".join(f"{name} {run.found[name]}" for name in COUNTS if run.found[name])
              + "".join(f"\n    {line[:300]}" for line in run.said.splitlines()), flush=True)
    columns = ["runs", "kills", *STAGES, *COUNTS]
    print(table(["victim", *columns], [[victim, *(found[name] for name in columns)]
                                       for victim, found in counts.items()]))
    sys.exit(any(found[name] for found in counts.values() for name in COUNTS[1:]))


if __name__ == "__main__":
    with errors_in_one_line("begins anew"):
        main(parsed(KillsConfig(), sys.argv[1:], __doc__))
