"""The command `worldmodels`. What it calls is imported when it is called: torch and the games take seconds."""

import argparse
import difflib
import sys
from importlib import import_module
from pathlib import Path

import worldmodels
from worldmodels.commandline import errors_in_one_line, stop_with
from worldmodels.errors import UserError

# by their modules' names
STAGES = {
    "collect": "1  rollouts of the game",
    "train-vision": "2  V, which compresses frames",
    "encode": "3  frames to latents",
    "train-memory": "4  M, which learns how the world moves",
    "train-controller": "5  C, trained in the dream or in the game",
    "evaluate": "6  scores and pictures",
    "train-jointly": "2 and 4 at once: V and M by one objective",
}
BESIDE = {
    "sweep-temperature": "controllers evolved at each temperature of the dream",
    "compare": "kinds of world models on the same episodes",
    "publish": "a finished run to give away",
    "export": "V, M and C as ONNX",
}
COMMANDS = {
    "run": "all stages in order; finished ones are skipped",
    "resume": "go on with RUN, with the settings that it has",
    "list": "the runs here, and the published ones",
    "info": "rounds, scores, settings and size of RUN",
    "web": "play inside the dream in your browser, the real game beside it",
    "play": "the same in a window, or without a display",
}


def main():
    """The entry point (setup.cfg)."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        return print(help_text())
    if name == "--version":
        return print(f"worldmodels {worldmodels.__version__}")
    known = {**COMMANDS, **STAGES, **BESIDE}
    name = name.replace("_", "-")
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        meant = f": did you mean {close[0]}?" if close else ""
        stop_with(f"no command {name}{meant} (worldmodels --help lists them)")
    sys.argv = [f"worldmodels {name}", *arguments]
    with errors_in_one_line("begins anew"):
        OWN[name](arguments) if name in OWN else run_stage(name)


def help_text() -> str:
    """One screen."""
    of = lambda commands: "\n".join(f"  {name:18} {about}" for name, about in commands.items())
    return f"""World Models (Ha & Schmidhuber, 2018): an agent that learns inside its own dream.
Version {worldmodels.__version__}

usage: worldmodels COMMAND ...        worldmodels COMMAND --help shows its options

{of(COMMANDS)}

the stages of `run`, each by itself
{of(STAGES)}

beside the stages
{of(BESIDE)}

A run is kept in ./data/<task>/<run>. To begin with:
  worldmodels web                                       the published runs, in your browser
  worldmodels run --task take_cover --preset smoke      a minute; --preset quick takes ten to fifteen"""


def run_stage(name: str):
    """A stage, with the options in sys.argv."""
    from pipeline.command import main
    module, function = ("__main__", "pipeline") if name == "run" else (name.replace("-", "_"),) * 2
    main(getattr(import_module(f"pipeline.{module}"), function))


class Parser(argparse.ArgumentParser):
    """Its errors are UserErrors."""

    def __init__(self, about: str, of_run: bool):
        super().__init__(prog=sys.argv[0], description=about)
        if of_run:
            self.add_argument("run", metavar="RUN", help="its folder, <task>/<run>, or its name alone")
            self.add_argument("--task", help="my_module:TASK, where the run is of a task of your own")
        self.add_argument("--data", type=Path, default=Path("data"), help="where runs are kept (default: data)")

    def error(self, message: str):
        raise UserError(f"{message} ({self.prog} --help)")


def list_runs(arguments: list[str]):
    from pipeline.overview import listed
    print(listed(Parser("The runs here, and the published ones.", of_run=False).parse_args(arguments).data))


def info(arguments: list[str]):
    from pipeline.overview import described, find_run
    given = Parser("Rounds, scores, settings and size of a run.", of_run=True).parse_args(arguments)
    for line in described(find_run(given.run, given.data), given.task):
        print(line)


def resume(arguments: list[str]):
    """The whole pipeline on a run that is there."""
    from pipeline.overview import find_run, is_published, title
    about = "Goes on with a run, with the settings that it has; other options change them, as those of `run`."
    given, options = Parser(about, of_run=True).parse_known_args(arguments)
    run = find_run(given.run, given.data)
    if is_published(run):
        raise UserError(f"{title(run)} is published: copy {run.root} to data/{title(run)}, and resume that")
    from pipeline.__main__ import pipeline
    from pipeline.command import main
    main(pipeline, ["--task", given.task or run.root.parent.name, "--run", run.root.name,
                    "--data", str(run.root.parents[1]), *options])


def play(arguments: list[str]):
    from worldmodels.play import main
    main()


def web(arguments: list[str]):
    from worldmodels.web.__main__ import main
    main()


def export(arguments: list[str]):
    from pipeline.export import main
    main()


OWN = {"web": web, "export": export, "resume": resume, "list": list_runs, "info": info, "play": play}


if __name__ == "__main__":
    main()
