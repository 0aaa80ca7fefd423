"""What every stage script shares: the command line, the run's folder, and errors in one line."""

import contextlib
import functools
import importlib
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from pipeline.presets import KINDS, Config, presets
from worldmodels.commandline import check_ranges, errors_in_one_line, flag, parsed
from worldmodels.envs import TASKS, Task, import_task
from worldmodels.executors import CHECKS, EXECUTORS
from worldmodels.files import write_atomic, write_json
from worldmodels.metrics import MakeWriter, import_writer
from worldmodels.report.scores import git_commit
from worldmodels.runs import EVALUATION, ROUNDS, Run, from_dict, kinds_within, no_run
from worldmodels.training import TrainConfig
from worldmodels.types import Executor, UserError
from worldmodels.worlds.collect import CollectConfig

Stage = Callable[[Config, Run], None]
# what config.json never has, and no downloaded one gives: a run works where it is, imports no module by itself, and
# sends its jobs, which are pickled, to no stranger
TYPED = ("data", "metrics", "address")
SECTIONS = tuple(f.name for f in fields(Config) if is_dataclass(getattr(Config(), f.name)))


def stage(*sections: str, begins: bool = False, of_finished: bool = False,
          of_models: bool = False) -> Callable[[Stage], Stage]:
    """Makes a function a stage: its --help shows these sections of the settings, and its seconds are added to what
    wall.json says of it, from which the curve against wall time is drawn. It may begin a run, and works on the round in
    progress, or on the last finished one. Those `of_models` lead to a V and an M, which the round in the real game has
    from the round before.
    """
    def decorate(work: Stage) -> Stage:
        @functools.wraps(work)
        def timed(config: Config, run: Run):
            if of_models and in_the_real_round(config, run.round):
                raise UserError(f"round {run.round} of {run.root} is in the real game, and trains the controller "
                                "alone: run `python -m pipeline.train_controller`")
            start = time.monotonic()
            try:
                work(of_round(config, run.round), run)
            finally:
                if run.folder.exists():                 # not where a round before is missing
                    seconds = run.seconds
                    spent = seconds.get(work.__name__, 0) + time.monotonic() - start
                    write_json(run.wall, seconds | {work.__name__: round(spent, 1)})
        timed.sections, timed.begins, timed.of_finished = sections, begins, of_finished
        return timed
    return decorate


def main(stage: Stage, arguments: list[str] | None = None, writers: Sequence[MakeWriter] = ()):
    """Parses the command line and runs a stage, which these writers are told of beside those of --metrics."""
    stage = importable(stage)
    with errors_in_one_line("goes on from here"):
        config = parse(sys.argv[1:] if arguments is None else arguments, stage.__doc__,
                       getattr(stage, "sections", SECTIONS))
        writers = (*map(import_writer, config.metrics), *writers)
        with open_run(config, getattr(stage, "begins", True), writers) as run, kept_settings(config, run):
            round = current_round(stage, config, run)
            stage(config, run.at(round))


def importable(stage: Stage) -> Stage:
    """The stage of `python -m pipeline.stage` as others import it: a job can name no function of __main__, which is
    another module in a worker."""
    spec = sys.modules["__main__"].__spec__
    if stage.__module__ != "__main__" or spec is None:
        return stage
    return getattr(importlib.import_module(spec.name), stage.__name__)


def current_round(stage: Stage, config: Config, run: Run) -> int:
    """The round that a stage by itself works on: the last one that has a controller, or the one after it."""
    last = run.last("controller")
    finished = last.round if last.path("controller").exists() else 0
    if getattr(stage, "of_finished", False):
        return max(1, min(finished, all_rounds(config)))
    return min(finished + 1, all_rounds(config))


def all_rounds(config: Config) -> int:
    """With the one in the real game, if there is one."""
    return config.rounds + config.real_round


def in_the_real_round(config: Config, round: int) -> bool:
    """Whether C alone is trained on, with the V and M of the round before."""
    return round > config.rounds


def of_round(config: Config, round: int) -> Config:
    """The settings that a round is worked on with."""
    real = in_the_real_round(config, round)
    return replace(config, world="real", learner=config.real_learner) if real else config


def parse(arguments: list[str], description: str | None = None, shown: Sequence[str] = SECTIONS) -> Config:
    """The settings: a preset, or those of an existing run named without a preset, then what the command line
    changes."""
    base = Config()
    chosen = {name: option(arguments, name) or getattr(base, name) for name in ("task", "preset", "run", "data")}
    task = import_task(chosen["task"])
    named = presets(task)
    run = Run(Path(chosen["data"]) / task.name / (chosen["run"] or chosen["preset"]))
    if option(arguments, "preset") is None and chosen["run"] and run.config.exists():
        default = stored_settings(run)
    elif chosen["preset"] in named:
        default = named[chosen["preset"]]()
    else:
        raise UserError(f"--task {task.name} has no --preset {chosen['preset']}: choose one of {', '.join(named)}")
    choices = {"preset": named, "executor": EXECUTORS, "collect.policy": task.policies}
    shared = []                 # of what is within a kind: settings that it has itself
    for section, kinds in KINDS.items():
        outer = of_kind(getattr(default, section), arguments, section, kinds)
        default = replace(default, **{section: outer})
        choices[f"{section}.kind"] = kinds
        for name in kinds_within(outer):
            choices[f"{section}.{name}.kind"] = kinds
            own = {f.name for f in fields(outer)} - {"kind"}
            shared += [f"{section}.{name}.{f.name}" for f in fields(getattr(outer, name)) if f.name in own]
    hidden = [section for section in SECTIONS if section not in shown]
    config = parsed(default, arguments, description, choices, hidden, shared)
    config = replace(config, task=task.name, run=config.run or config.preset)
    check(config)
    return config


def stored_settings(run: Run) -> Config:
    """The settings that a run was last worked on with, and the defaults of those in TYPED."""
    default = Config()
    return replace(run.settings(Config, kinds=KINDS), **{name: getattr(default, name) for name in TYPED})


def of_kind(config, arguments: list[str], section: str, kinds: dict):
    """The settings of the kind that --section.kind names, and of those within it: what the old kind and the new one
    both have, of one type, stays as it is."""
    kind = option(arguments, f"{section}.kind") or config.kind
    if kind not in kinds:
        raise UserError(f"{flag(f'{section}.kind')} {kind}: choose one of {', '.join(kinds)}")
    if kind != config.kind:
        config = converted(config, kinds[kind].Config)
    return replace(config, **{name: of_kind(getattr(config, name), arguments, f"{section}.{name}", kinds)
                              for name in kinds_within(config)})


def converted(config, wanted: type):
    """The settings of another kind, `wanted`, and of the kinds within it: what both have, of one type, stays as it
    is."""
    known = {f.name: f.type for f in fields(config) if f.name != "kind"}
    found = from_dict(wanted, {f.name: getattr(config, f.name) for f in fields(wanted) if known.get(f.name) == f.type})
    return replace(found, **{name: converted(config, type(getattr(found, name))) for name in kinds_within(found)})


def option(arguments: list[str], name: str) -> str | None:
    """The value of --name in the arguments; the last one, as the parser has it."""
    found, name = None, name.replace("_", "-")
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            found = arguments[i + 1]
        if argument.startswith(f"--{name}="):
            found = argument.split("=", 1)[1]
    return found


def check(config: Config):
    """Raises UserError for a value that no stage could use."""
    check_ranges(config)
    if Path(config.run).name != config.run or config.run in (".", ".."):
        raise UserError(f"--run {config.run}: a run is a name, not a path; --data says where runs are kept")
    e = config.evaluate
    counts = {name: getattr(e, name) for name in ("episodes", "random_episodes", "dream_episodes", "gap_episodes")}
    most = max(counts, key=counts.get)
    if e.first_seed + counts[most] > EVALUATION.stop:
        raise UserError(f"{flag(f'evaluate.{most}')} {counts[most]} from --evaluate.first-seed {e.first_seed} on: "
                        f"games take seeds below {EVALUATION.stop}, and the last episodes' are not")
    if all_rounds(config) > ROUNDS:
        raise UserError(f"--rounds {config.rounds} --real-round True: {ROUNDS} rounds are the most, with the real one")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA GPU that torch can use; try --device cpu")
    if config.workers and config.executor in CHECKS:
        CHECKS[config.executor](config.workers)


@contextlib.contextmanager
def open_run(config: Config, begins: bool, writers: Sequence[MakeWriter]) -> Iterator[Run]:
    """The run's folder, locked for this process; made where the stage may begin a run."""
    run = Run(Path(config.data) / config.task / config.run, writers=writers)
    if not begins and not run.config.exists():
        raise no_run(config.task, config.run, Path(config.data))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.locked())
        except OSError as error:
            raise UserError(f"cannot write to {run.root} ({error.strerror}): choose another --data") from None
        yield run


@contextlib.contextmanager
def kept_settings(config: Config, run: Run):
    """Writes config.json, and puts the one before back when the command turns out not to fit the run."""
    path = run.config
    before = path.read_bytes() if path.exists() else None
    try:
        write_settings(config, run)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another --data") from None
    try:
        yield
    except UserError:
        path.unlink() if before is None else write_atomic(path, before)
        raise


def write_settings(config: Config, run: Run):
    """config.json: every setting, and what the run is made with."""
    packages = {name: version(name) for name in ("torch", "numpy", "gymnasium", "vizdoom", "cma")}
    settings = {name: value for name, value in asdict(config).items() if name not in TYPED}
    about = {"python": platform.python_version(), "packages": packages, "git_commit": git_commit()}
    write_json(run.config, {"config": settings} | about)


def task_of(config: Config) -> Task:
    return TASKS[config.task]


def device(config: Config) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def open_executor(config: Config, most: int | None = None) -> Executor:
    """Where jobs run, `most` of them at the same time; to be closed."""
    if config.executor not in EXECUTORS:
        raise UserError(f"--executor {config.executor}: choose one of {', '.join(EXECUTORS)}")
    return EXECUTORS[config.executor](config.workers or None, config.address or None, most)


LATER = ("weight_noise", "disagreement_bonus")      # of collecting in later rounds: recorded where they are not 0


# What each checkpoint records of its making; a stage is finished when the stored one equals this.

def vision_info(config: Config) -> dict:
    default = CollectConfig()
    later = ("episodes_per_round", "explore_share", *LATER)                 # of later rounds
    collect = replace(config.collect, **{name: getattr(default, name) for name in later})
    info = {"task": config.task, "seed": config.seed, "collect": collect, "vision": config.vision}
    of_later_rounds = {f.name: f.default for f in fields(TrainConfig)}      # how M is trained alone
    jointly = {"joint": config.joint, "memory": replace(config.memory, **of_later_rounds)}
    return info | (jointly if config.training == "jointly" else {})


def memory_info(config: Config, run: Run) -> dict:
    _, vision = run.load("vision", "train_vision")
    info = vision_info(config) | {"memory": config.memory, "vision_digest": vision["digest"]}
    return info | (later_info(config, run) if run.round > 1 else {})


def later_info(config: Config, run: Run) -> dict:
    """What a checkpoint of a later round records beside that."""
    _, before = run.at(run.round - 1).load("controller", "train_controller")
    collect = config.collect
    more = {name: getattr(collect, name) for name in LATER if getattr(collect, name)}
    return {"episodes_per_round": collect.episodes_per_round, "explore_share": collect.explore_share,
            "controller_before": before["digest"]} | more


def retrains_vision(config: Config, run: Run) -> bool:
    """Whether V is trained on in this round."""
    return run.round in config.retrain_vision


def own_vision_info(config: Config, run: Run) -> dict:
    """What the V that the round is to use records."""
    return vision_info(config) | (later_info(config, run) if retrains_vision(config, run) else {})


def vision_is_trained(config: Config, run: Run) -> bool:
    """Whether the V that the round is to use is there; a UserError if it was made with other settings."""
    last = run.at(max([1, *(round for round in config.retrain_vision if round <= run.round)]))
    return last.own_path("vision").exists() and run.finished("vision", own_vision_info(config, last))


def controller_info(config: Config, agent_digest: str) -> dict:
    dreams = config.world == "dream" or getattr(config.learner, "start", "") != "previous_or_zero"
    return {"task": config.task, "seed": config.seed, "world": config.world, "controller": config.controller,
            "learner": config.learner, "agent_digest": agent_digest} | ({"dream": config.dream} if dreams else {})


def say(text: str):
    print(text, file=sys.stderr, flush=True)
