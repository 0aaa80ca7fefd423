"""Writers that tests hand to a run, also as `--metrics tests.writers:ToFile`."""

import json
from pathlib import Path

from worldmodels.metrics import StopTraining, Writer

NUMBER = 3


class Recorder:
    """Makes writers that append all they are told of to `events`; one stops at the events `stop_at`, (method, step)."""

    def __init__(self, stop_at=()):
        self.events, self.stop_at = [], set(stop_at)

    def __call__(self, run, stage, begun) -> Writer:
        self.events.append(("begin", run, stage, begun))
        writer = Writer(run, stage, begun)
        for method in ("on_step", "on_generation", "write"):
            setattr(writer, method, self._append(method, stage))
        writer.close = lambda: self.events.append(("close", stage))
        return writer

    def _append(self, method: str, stage: str):
        def append(step, values):
            self.events.append((method, stage, step, values))
            if (method, step) in self.stop_at:
                raise StopTraining(f"enough at {step}")
        return append


def steps_of(recorder: Recorder, method: str) -> list[int]:
    """Of the events of a method, in the order in which they came."""
    return [event[2] for event in recorder.events if event[0] == method]


def rows_of(recorder: Recorder, stage: str) -> list[dict]:
    """What was written of a stage, as metrics.jsonl has it."""
    return [{"stage": stage, "step": event[2], **event[3]} for event in recorder.events
            if event[:2] == ("write", stage)]


class ToFile(Writer):
    """Appends rows to told.jsonl in the current folder; stops M's training after step 20 if stop_here is there."""

    def write(self, step, values):
        with open("told.jsonl", "a") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        if self.stage == "memory" and step == 20 and Path("stop_here").exists():
            raise StopTraining("enough of M")
