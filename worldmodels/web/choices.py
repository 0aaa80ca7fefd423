"""What a visitor may play in: every run with a V and an M, and the world models that were compared with it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from worldmodels.agent import Agent, load_agent, load_controller
from worldmodels.controller import PolicySpec
from worldmodels.runs import DEFAULT, Run
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.dream import DreamConfig


@dataclass(frozen=True)
class Choice:
    """A world model to play in."""

    id: str                     # <task>/<run>, and /<world model> where it is not the run's own
    run: Run                    # at the last round with an M
    recorded: Run               # has the encoded episodes: the run itself, or that which the model was compared in

    @cached_property
    def agent(self) -> Agent:
        return load_agent(self.run)

    @cached_property
    def controller(self) -> PolicySpec | None:
        return load_controller(self.run, self.agent) if self.run.path("controller").exists() else None

    @cached_property
    def collect(self) -> CollectConfig:
        return self.run.settings(CollectConfig, "collect")

    @cached_property
    def temperature(self) -> float:
        """tau of the run's own dreams."""
        return self.run.settings(DreamConfig, "dream").temperature

    def described(self) -> dict:
        """What the page has to know of it, see docs/play/README.md."""
        task, space = self.agent.task, self.agent.task.action_space
        return {"id": self.id, "task": task.name, "fps": task.fps, "repeat": self.collect.repeat,
                "memory": self.agent.memory.config.kind, "temperature": self.temperature,
                "keys": {name: list(change) for name, change in task.keys.items()},
                "low": space.low.tolist(), "high": space.high.tolist(), "z_size": self.agent.memory.z_size,
                "max_steps": task.steps(self.collect.repeat), "survival": task.survival,
                "controller": self.controller is not None}


def choices(places: list[Path]) -> dict[str, Choice]:
    """Those of the runs in these folders, by id, a task's DEFAULT before its others; of two of a name the one in the
    earlier folder. What cannot be opened is left out."""
    found: dict[str, Choice] = {}
    for place in places:
        order = lambda config: (config.parts[-3], config.parts[-2] != DEFAULT, config)
        for config in sorted(place.glob("*/*/config.json"), key=order):
            run = Run(config.parent)
            name = "/".join(run.root.parts[-2:])
            if name not in found and run.last("memory").path("memory").exists():
                run = run.last("memory")
                found[name] = Choice(name, run, run)
                for other, model in run.compared.items():
                    found[f"{name}/{other}"] = Choice(f"{name}/{other}", model, run)
    return found


def openable(found: dict[str, Choice]) -> tuple[list[dict], dict[str, str]]:
    """What the page has to know of each choice, and why others cannot be played."""
    known, errors = [], {}
    for name, choice in found.items():
        try:
            known.append(choice.described())
        except UserError as error:
            errors[name] = str(error)
    return known, errors
