"""What a stage tells while it works: rows of numbers in metrics.jsonl, and writers, which are told more (TensorBoard,
Weights & Biases, a user's own).

A writer is a logger and a callback in one. Each stage of a round makes one of each kind with which the run was opened,
in the main process. A resumed stage is the uninterrupted one, bit for bit: what it tells again of steps after its last
checkpoint is what it told of them before.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from worldmodels.errors import StopTraining, UserError
from worldmodels.files import JSON_BYTES, from_json, opened, read_json, write_atomic

if TYPE_CHECKING:
    from torch import Tensor  # what lists runs starts without it


class Writer:
    """Is told how a stage of a run (runs.Run) goes. Every method may be overridden, and none does anything here.

    What a stage told of steps after `begun` before it was interrupted does not count: it is told again. StopTraining,
    raised in a method, ends the command after the next row, once that is stored; the same command goes on from there.
    With any other error a writer is told nothing more of this stage, and one line says why. A UserError as it is made
    ends the command.
    """

    package: str | None = None          # that it needs, beside what is installed with this one

    def __init__(self, run: Any, stage: str, begun: int):
        self.run, self.stage, self.begun = run, stage, begun

    def on_step(self, step: int, values: "dict[str, Tensor]"):
        """After each optimiser step: the loss and its parts, without dimensions, where the model is. To read one waits
        for a GPU."""

    def on_generation(self, generation: int, returns: np.ndarray):
        """After each generation of a search: returns [P, E] of its members in its episodes."""

    def write(self, step: int, values: dict[str, float]):
        """A row of metrics.jsonl: a generation, or the means of some optimiser steps or episodes until `step`."""

    def close(self):
        """The stage is finished or interrupted."""


class TensorBoard(Writer):
    """tensorboard/<stage> in the round's folder."""

    def __init__(self, run: Any, stage: str, begun: int):
        super().__init__(run, stage, begun)
        from torch.utils.tensorboard import SummaryWriter
        self.board = SummaryWriter(str(run.folder / "tensorboard" / stage), purge_step=begun + 1)

    def write(self, step: int, values: dict[str, float]):
        for name, value in values.items():
            self.board.add_scalar(f"{self.stage}/{name}", value, step)

    def close(self):
        self.board.close()


class WandB(Writer):
    """A W&B run for each stage of a round, kept in wandb/ of the round's folder and grouped by the run's name, in the
    project "worldmodels" or $WANDB_PROJECT.

    A resumed stage goes on with its W&B run, which ignores the steps that it has.
    """

    package = "wandb"

    def __init__(self, run: Any, stage: str, begun: int):
        super().__init__(run, stage, begun)
        import wandb
        known, name = run.folder / "wandb" / f"{stage}.id", "/".join(run.root.parts[-2:])
        try:
            self.board = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "worldmodels"), dir=run.folder, group=name, job_type=stage,
                name=f"{name} {run.round} {stage}", config=read_json(run.config) if run.config.exists() else None,
                id=known.read_text() if begun and known.exists() else None, resume="allow")
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise UserError(f"--metrics {self.package}: {error} ($WANDB_MODE=offline needs no account)") from None
        write_atomic(known, self.board.id.encode())

    def write(self, step: int, values: dict[str, float]):
        self.board.log({f"{self.stage}/{name}": value for name, value in values.items()}, step=step)

    def close(self):
        self.board.finish()


MakeWriter = Callable[[Any, str, int], Writer]      # (run, stage, begun)

WRITERS: dict[str, type[Writer]] = {"tensorboard": TensorBoard, "wandb": WandB, "none": Writer}


def import_writer(name: str) -> MakeWriter:
    """What makes a writer, by its name or as my_module:MyWriter, for who has typed it."""
    module, _, attribute = name.partition(":")
    if name in WRITERS:
        found = WRITERS[name]
        if found.package and find_spec(found.package) is None:
            raise UserError(f"--metrics {name}: pip install {found.package}")
        return found
    if not (module and attribute):
        raise UserError(f"--metrics {name}: choose among {', '.join(WRITERS)}, or my_module:MyWriter of your own")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"--metrics {name}: {error}") from None
    if not callable(found):
        raise UserError(f"--metrics {name}: it is a {type(found).__name__}, nothing that makes a writer")
    return found


class Metrics:
    """The rows of a stage of a run: appended to metrics.jsonl, one JSON object a line, and told to writers. Rows after
    `step` are forgotten first."""

    def __init__(self, run: Any, stage: str, step: int):
        self.path, self.stage = run.folder / "metrics.jsonl", stage
        kept = [row for row in read_metrics(run.folder) if row["stage"] != stage or row["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.step, self.gathered = step, []
        self.stop: StopTraining | None = None           # that a writer asks for
        self.writers: list[Writer] = []
        for make in run.writers:
            with self._one_line():
                self.writers.append(make(run, stage, step))

    def on_step(self, step: int, values: "dict[str, Tensor]"):
        self._tell("on_step", step, values)

    def on_generation(self, generation: int, returns: np.ndarray):
        self._tell("on_generation", generation, returns)

    def write(self, step: int, values: dict[str, float]):
        with open(self.path, "a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        self._tell("write", step, dict(values))

    def gather(self, values: list[dict[str, float]], every: int):
        """Takes the values of further steps, whose results are stored, and writes their means, those of `every` steps
        or more in one row; what is left at the end is a row too. Raises StopTraining."""
        self.gathered += values
        if self.gathered and len(self.gathered) >= every:
            self.step += len(self.gathered)
            means = {name: float(np.mean([row[name] for row in self.gathered])) for name in self.gathered[0]}
            self.gathered = []
            self.write(self.step, means)
            self.check_stop()

    def check_stop(self):
        """Raises StopTraining where a writer has asked for it; to be called when all until now is stored."""
        if self.stop:
            raise self.stop

    def _tell(self, method: str, *arguments):
        for writer in list(self.writers):
            with self._one_line(writer):
                getattr(writer, method)(*arguments)

    @contextlib.contextmanager
    def _one_line(self, writer: Writer | None = None) -> Iterator[None]:
        """An error in a writer is one line on stderr, and the end of that writer."""
        try:
            yield
        except StopTraining as stop:
            self.stop = stop
        except UserError:
            raise
        except Exception as error:
            self.writers = [other for other in self.writers if other is not writer]
            at = traceback.extract_tb(error.__traceback__)[-1]
            tqdm.write(f"metrics: {type(error).__name__} at {at.filename}:{at.lineno}: {error}; this writer is told "
                       f"nothing more of the stage {self.stage}", file=sys.stderr)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception):
        try:
            self.gather([], 1)
        finally:
            self._tell("close")


def read_metrics(folder: Path, stage: str | None = None) -> list[dict]:
    """The rows of metrics.jsonl, of one stage or all; a line cut short by a kill, or otherwise no row, is left out."""
    path, rows = folder / "metrics.jsonl", []
    if not path.exists():
        return rows
    try:
        with opened(path, JSON_BYTES) as (file, size):
            lines = file.read(size).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore or delete it") from None
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(from_json(line))
    return [row for row in rows if is_row(row) and stage in (None, row["stage"])]


def is_row(row: Any) -> bool:
    """Whether it is a row of metrics: the stage, the step, and numbers by name."""
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str) or type(row.get("step")) is not int:
        return False
    return all(type(value) in (int, float) for name, value in row.items() if name != "stage")
