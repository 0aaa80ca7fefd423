"""What the scripts of this folder share: a toy run, what it made, processes that are found again, and a table."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pipeline
from worldmodels.files import digest, load_arrays
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run

ROOT = Path(pipeline.__file__).resolve().parents[1]
MARK = "WORLDMODELS_FAULTS"             # an environment variable: whatever a command starts inherits it
SETTINGS = ["--preset", "smoke", "--device", "cpu", "--data", "runs"]
CHECKPOINTS = ("vision", "memory", "controller")


def start(command: Sequence, folder: Path, mark: str, **environment: str) -> subprocess.Popen:
    """python with these arguments in a folder, in a session of its own, under a mark; stderr goes to FOLDER/stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark} | environment
    with open(folder / "stderr", "wb") as said:
        return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, stderr=said,
                                stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True)


def marked(mark: str) -> list[int]:
    """The living processes that a command under this mark started, and itself: also those whose parent is gone."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):                         # it ended meanwhile
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end(mark: str) -> list[int]:
    """Kills what lives under a mark; returns what did."""
    found = marked(mark)
    for pid in found:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return found


def statements(stderr: str) -> list[str]:
    """What a command said, without its progress bars and the headlines of its stages."""
    lines = (line.strip() for line in re.split(r"[\r\n]", stderr))
    return [line for line in lines if line and "%|" not in line and not re.match(r"\[\d+/\d+\] ", line)]


def products(run: Run) -> dict:
    """What a finished run has to show: a digest of each checkpoint, and the returns of each score."""
    scores = read_scores(run.report / "scores.json")
    returns = {(score["world"], score["controller"]): score["returns"] for score in scores}
    return {name: digest(load_arrays(run.path(name))[0]) for name in CHECKPOINTS} | {"returns": returns}


def table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Rows under their columns, the first one flush left."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) if i else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) for row in cells)
