"""Wrong command lines: does each end in one line that names the mistake?

    python benchmarks/faults/commands.py --count 1000 --seed 0

Commands are drawn from the settings that every stage, `python -m pipeline` and `worldmodels.play` really have, with
mistakes of 28 sorts. Each runs on a copy of a toy run, in a fork of this process, which has imported
everything: so it is as good as a process of its own, without the seconds of its imports. Every fiftieth is one.

    refused     exit code 2; one line on stderr, beginning with "error:", names the option or the cause; and the run's
                settings are as they were
    fine        exit code 0: the value was one that can be used, such as another --workers of a finished run
    under way   the value can be used, and the command was at work for --seconds: it is ended then
    unexpected  anything else: a traceback, several lines, a wrong value that was taken. Each is printed
"""

import importlib
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tqdm import tqdm

from experiment import MARK, SETTINGS, end, start, statements, table
from pipeline.__main__ import JOINTLY, STAGED
from pipeline.command import parse
from pipeline.presets import KINDS
from worldmodels.commandline import Count, Range, Whole, errors_in_one_line, flag, leaves, parsed
from worldmodels.executors import EXECUTORS
from worldmodels.types import UserError

BASE = ["--task", "toy", *SETTINGS, "--workers", "1"]
STAGES = [f"pipeline.{name}" for name in dict.fromkeys(stage.__name__ for stage in (*STAGED, *JOINTLY))]
BESIDE = ["pipeline.compare", "pipeline.sweep_temperature", "pipeline.publish"]
MODULES = ["pipeline", *STAGES, *BESIDE]
MEMORY = 4 * 2**30          # bytes of addresses that a command may have: a wrong size shall not take the machine
SOON = 10                   # a wrong command has to end within so many times --seconds: it should take none
IN_A_PROCESS = 50           # one of so many commands runs in a process of its own
# what makes a stage begin anew, by its module
MADE_BY = {"pipeline.collect": ["episodes", "checkpoints", "latents"], "pipeline.encode": ["latents"],
           "pipeline.train_vision": ["checkpoints"], "pipeline.train_jointly": ["checkpoints"],
           "pipeline.train_memory": ["checkpoints/memory.safetensors", "checkpoints/controller.safetensors"],
           "pipeline.train_controller": ["checkpoints/controller.safetensors"], "pipeline.evaluate": ["report"]}
OWN_TASKS = {"raises": "raise RuntimeError('a game that\\ncannot be loaded')", "syntax": "def make(:", "empty": "",
             "leaves": "import sys; sys.exit(3)", "divides": "1 / 0", "imports": "import no_such_library",
             "number": "TASK = 3"}


@dataclass(frozen=True)
class CommandsConfig:
    count: Count = 1000
    """Command lines."""
    seed: Whole = 0
    """Of what they are."""
    executor: str = "local"
    """Where the commands' jobs run."""
    seconds: Annotated[float, Range(0.5)] = 6.0
    """How long a command may be at work before it is ended."""
    only: str = ""
    """One sort of mistake, by its name in the table; all of them if not given."""


class Case(NamedTuple):
    """A command line and what has to come of it."""

    module: str
    arguments: list[str]
    names: tuple[str, ...] = ()         # of these the line has to hold one
    wrong: bool = True                  # it cannot be right; else the value may be of use
    without: tuple[str, ...] = ()       # of the finished run what is taken away before


class Option(NamedTuple):
    name: str                           # the flag
    type: type                          # int, float, str, bool, tuple
    hint: object
    value: object                       # its default

    @property
    def range(self) -> Range | None:
        return next(iter(getattr(self.hint, "__metadata__", ())), None)

    @property
    def choices(self) -> tuple:
        return get_args(self.hint) if get_origin(self.hint) is Literal else ()

    @property
    def names(self) -> tuple[str, str]:
        """How a line may call it: the flag, or the setting that a checkpoint was made with."""
        return self.name, self.name[2:].replace("-", "_")


def options_of(config, prefix: str = "") -> Iterator[Option]:
    """The options of nested dataclasses."""
    hints = get_type_hints(type(config), include_extras=True)
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from options_of(value, f"{prefix}{f.name}.")
        else:
            yield Option(flag(prefix + f.name), type(value), hints[f.name], value)


OPTIONS = list(options_of(parse(BASE)))
NUMBERS = [option for option in OPTIONS if option.range and option.type in (int, float)]
OF_KINDS = {f"--{section}.kind": list(kinds) for section, kinds in KINDS.items()}
ODD = ["", " ", "  ", "ü", "多", "🙂", "\u202e", "a\nb", "\r", "\t", "a" * 300, "x" * 100_000, "%s", "{}", "\\", "'",
       '"', "None", "null", "[]", "()", "1,2", "1 2", "--", "-", "=", "\udcff", "🙂\nerror: no", "$(id)", ";", "*",
       "\x1b[31m"]
NO_NUMBER = ["many", "1.2.3", "0x10", "1e", "--5", "+-3", "1/2", "½", "١x", "True", "∞", "1,5", *ODD]


def module(chance: random.Random) -> str:
    return chance.choice(MODULES)


def unknown(chance) -> Case:
    section = chance.choice([option.name.split(".")[0] for option in OPTIONS if "." in option.name])
    name = chance.choice(["--nosuch", f"{section}.nosuch", f"{section}.", f"{section}.kind.kind", "--x" * 40,
                          "--a.b.c.d", "--überall", f"{section}", "--no-retrain-vision"])
    return Case(module(chance), [*BASE, *chance.choice([[name], [name, "1"], [f"{name}=1"]])], (name,))


def misspelt(chance) -> Case:
    name = chance.choice(OPTIONS).name
    at = chance.randrange(3, len(name))
    spelt = chance.choice([name[:at] + name[at + 1:], name[:at] + name[at] + name[at:], name[:at] + "q" + name[at:],
                           name.upper(), name[1:], "—" + name[2:]])
    if spelt in {option.name for option in OPTIONS}:
        return misspelt(chance)
    return Case(module(chance), [*BASE, spelt, "1"], (spelt, spelt.replace("_", "-")))


def without_value(chance) -> Case:
    option = chance.choice(OPTIONS)
    after = chance.choice([[], ["--seed", "1"], ["--help-me"]])
    names = option.name, "--help-me" if after == ["--help-me"] else option.name
    return Case(module(chance), [*BASE, option.name, *after], names, option.type is not tuple)


def wrong_type(chance) -> Case:
    option = chance.choice(NUMBERS)
    given = chance.choice(NO_NUMBER + ["1.5", "1e3"] * (option.type is int))
    return Case(module(chance), [*BASE, *valued(chance, option.name, given)], option.names)


def valued(chance, name: str, given: str) -> list[str]:
    """An option with its value, in one argument or two."""
    return chance.choice([[name, given], [f"{name}={given}"]])


def no_bool(chance) -> Case:
    option = chance.choice([option for option in OPTIONS if option.type is bool])
    given = chance.choice(["maybe", "1", "yes", "true", "TRUE", *ODD])
    return Case(module(chance), [*BASE, *valued(chance, option.name, given)], option.names)


def outside(chance) -> Case:
    option = chance.choice(NUMBERS)
    least, most = option.range
    values = [least - 1, -10**30] + ([most + 1, most * 10] if most < float("inf") else [])
    given = chance.choice(values)
    return Case(module(chance), [*BASE, *valued(chance, option.name, str(option.type(given)))], option.names)


def not_finite(chance) -> Case:
    option = chance.choice(NUMBERS)
    given = chance.choice(["nan", "inf", "-inf", "NaN", "Infinity", "1e400", "-1e999", "infinity"])
    return Case(module(chance), [*BASE, *valued(chance, option.name, given)], option.names)


def huge(chance) -> Case:
    """Whole numbers that no machine word holds; where a setting has no upper limit, one might be taken."""
    option = chance.choice([option for option in NUMBERS if option.type is int])
    given = chance.choice([10**30, 10**18, 2**63, 2**63 - 1, 2**31, 10**4000, -10**30])
    wrong = not -2**63 <= given < 2**63
    return Case(module(chance), [*BASE, option.name, str(given)], (*option.names, "jointly"), wrong)


def too_many_digits(chance) -> Case:
    option = chance.choice(NUMBERS)
    return Case(module(chance), [*BASE, option.name, "9" * 5000], option.names)


def wrong_choice(chance) -> Case:
    chosen = [option for option in OPTIONS if option.choices]
    names = [*(option.name for option in chosen), *OF_KINDS, "--executor", "--collect.policy"]
    name, given = chance.choice(names), chance.choice(["nosuch", "SAMPLE", "0", *ODD])
    return Case(module(chance), [*BASE, *valued(chance, name, given)], (name,))


def odd_text(chance) -> Case:
    """Text where a name is expected."""
    name = chance.choice(["--task", "--preset", "--run", "--data", "--learner.kind", "--compare.models",
                          "--compare.controllers"])
    names = (name, "run", "task")
    stage = "pipeline.compare" if name.startswith("--compare") else module(chance)
    return Case(stage, [*BASE, *valued(chance, name, chance.choice(ODD))], names, False)


def path_as_run(chance) -> Case:
    given = chance.choice(["../smoke", "a/b", "/elsewhere", ".", "..", "smoke/", "./smoke", "../../toy/smoke", "//",
                           "smoke/..", "~/smoke", "smoke/checkpoints"])
    return Case(module(chance), [*BASE, "--run", given], ("--run",))


def missing_run(chance) -> Case:
    stage = chance.choice([*STAGES[1:], *BESIDE])
    given = chance.choice(["nosuch", "Smoke", "smoke2", "-x"])
    return Case(stage, [*BASE, f"--run={given}"], ("nosuch", given, "--run", "no run"))


def missing_stage(chance) -> Case:
    stage, gone = chance.choice([(stage, gone) for stage in STAGES[1:] for gone in MADE_BY.values()])
    return Case(stage, BASE, ("run `python -m pipeline.", "--training jointly"), False, tuple(gone))


def data_elsewhere(chance) -> Case:
    given = chance.choice(["a_file", "/dev/null", "/proc/self/runs", "/proc/nosuch/x", "a_file/deeper", "frozen",
                           "/dev/full", "x" * 300, "y/" * 2500, "runs/toy/smoke/config.json"])
    return Case(module(chance), [*BASE, "--data", given], ("--data", given[:80]))


def unknown_task(chance) -> Case:
    given = chance.choice(["chess", "toy:TASK", "nosuch:TASK", ":", "a:", ":b", "os:path", "toy ", "TOY", ".x:TASK",
                           "..:x", "os.path:join", "worldmodels.envs:TASKS", "a b:c", "../toy", "toy/smoke",
                           *(f"{name}:TASK" for name in OWN_TASKS)])
    name = chance.choice(["pipeline", *MODULES, "worldmodels.play"])
    base = [] if name == "worldmodels.play" else BASE
    return Case(name, [*base, "--task", given], ("--task",))


def unknown_preset(chance) -> Case:
    given = chance.choice(["huge", "paper", "laptop", "released", "Smoke", "quick,", *ODD])
    return Case(module(chance), [*BASE, *valued(chance, "--preset", given)], ("--preset",))


def of_another_kind(chance) -> Case:
    section, kinds = chance.choice(list(KINDS.items()))
    own, other = chance.sample(list(kinds), 2)
    ours, theirs = ({flag(f"{section}.{name}") for name, _ in leaves(kinds[kind].Config())} for kind in (own, other))
    if not theirs - ours:
        return of_another_kind(chance)
    name = chance.choice(sorted(theirs - ours))
    return Case(module(chance), [*BASE, f"--{section}.kind", own, name, "1"], (name,))


def repeated(chance) -> Case:
    option = chance.choice(NUMBERS)
    return chance.choice([
        Case("pipeline.collect", [*BASE, option.name, "many", option.name, str(option.value)], option.names, False),
        Case(module(chance), [*BASE, option.name, str(option.value), option.name, "many"], option.names),
        Case(module(chance), [*BASE, "--run", "nosuch", "--run", "a/b"], ("--run",)),
        Case(module(chance), [*BASE, *BASE, *BASE], ("toy", "jointly"), False),
        Case(module(chance), [*BASE, "--task", "chess", "--task=toy"], ("toy", "jointly"), False)])


def doubled_kind(chance) -> Case:
    section, kinds = chance.choice(list(KINDS.items()))
    first, second = chance.choices([*kinds, "nosuch"], k=2)
    name = f"--{section}.kind"
    return Case(module(chance), [*BASE, name, first, f"{name}={second}"], (name, f"{section}.kind", "with"), False)


def words(chance) -> Case:
    """Arguments that are no options."""
    given = chance.choice(["toy", "smoke", "1", "-1", "-x", "-seed", "---seed", "--=1", "=", "help", "-", "–seed",
                           "--", "\udcff", "a\nb", "/", "-hh", "--seed=", "--seed= ", "@args"])
    names = given.split("=")[0], ascii(given)[1:-1], "--seed", *given.split()
    return Case(module(chance), [*BASE, given], names, False)


def lists(chance) -> Case:
    name, given = chance.choice([
        ("--sweep.temperatures", ["warm"]), ("--sweep.temperatures", ["0"]), ("--sweep.temperatures", ["1", "nan"]),
        ("--sweep.temperatures", ["1", "-1"]), ("--evaluate.other-skills", ["0"]), ("--evaluate.other-skills", ["6"]),
        ("--evaluate.other-skills", ["1.5"]), ("--compare.models", ["gpt"]), ("--compare.models", ["gru", "gru2"]),
        ("--compare.models", [""]), ("--compare.controllers", ["human"]), ("--compare.controllers", ["guide"]),
        ("--compare.controllers", ["actor", "nobody"])])
    stage = "pipeline.compare" if "compare" in name else module(chance)
    return Case(stage, [*BASE, name, *given], (name,))


def contradictory(chance) -> Case:
    stage, arguments, names, gone = chance.choice([
        ("train_jointly", [], ("--training",), "train_jointly"),
        ("train_jointly", ["--training", "jointly", "--memory.latent", "mean"], ("--memory.latent",), "train_jointly"),
        ("train_vision", ["--training", "jointly"], ("--training",), "train_vision"),
        ("train_memory", ["--training", "jointly"], ("training", "joint"), "train_memory"),
        ("train_controller", ["--learner.kind", "distill"], ("--learner.teacher",), "train_controller"),
        ("train_controller", ["--learner.kind", "distill", "--learner.teacher", "nosuch"], ("nosuch",),
         "train_controller"),
        ("train_controller", ["--learner.kind", "distill", "--learner.teacher", "../../x"], ("../../x",),
         "train_controller"),
        ("train_controller", ["--controller.kind", "cem"], ("--learner.kind", "cem"), "train_controller"),
        ("train_controller", ["--learner.kind", "actor_critic"], ("--controller.kind", "actor"), "train_controller"),
        ("train_controller", ["--dream.pessimism", "1"], ("ensemble",), "train_controller"),
        ("train_controller", ["--world", "real", "--learner.kind", "least_squares"], ("--world", "--learner"),
         "train_controller"),
        ("train_memory", ["--memory.batch", "100000"], ("--memory.batch",), "train_memory"),
        ("train_memory", ["--collect.min-steps", "100000"], ("min-steps", "min_steps"), "train_memory"),
        ("evaluate", ["--evaluate.first-seed", "2147483647", "--evaluate.episodes", "2"],
         ("--evaluate.first-seed",), "evaluate")])
    return Case(f"pipeline.{stage}", [*BASE, *arguments], names, False, tuple(MADE_BY[f"pipeline.{gone}"]))


def combined_kinds(chance) -> Case:
    """Any V, M, C and learner: what does not fit together has to be refused, all else begins."""
    chosen = [word for section, kinds in KINDS.items() for word in (f"--{section}.kind", chance.choice(list(kinds)))]
    stage = chance.choice(["pipeline", "pipeline.train_controller", "pipeline.train_memory"])
    wanted = chosen[2:] if stage == "pipeline.train_memory" else chosen[4:]
    gone = MADE_BY["pipeline.train_memory" if stage == "pipeline.train_memory" else "pipeline.train_controller"]
    names = ("--", "kind", "with")
    return Case(stage, [*BASE, *wanted], names, False, tuple(gone))


def changed(chance) -> Case:
    """Another value than the run was made with."""
    option = chance.choice(OPTIONS)
    low, most = option.range or (0, 1)
    given = list(option.choices) or [option.value]
    if option.type is bool:
        given = [not option.value]
    elif option in NUMBERS:
        given = [max(low, option.value / 2), min(most, option.value + 1)]
    words = option.value if option.type is tuple else [option.type(chance.choice(given))]
    return Case(module(chance), [*BASE, option.name, *map(str, words)], (*option.names, "with", "rounds"), False)


def extreme(chance) -> Case:
    """A value at the edge of what is allowed, for a stage that is still to be done."""
    stage = chance.choice(list(MADE_BY))
    section = {"collect": ["collect"], "train_vision": ["vision"], "train_memory": ["memory"], "encode": ["memory"],
               "train_jointly": ["joint", "memory"], "train_controller": ["learner", "dream"],
               "evaluate": ["evaluate", "dream"]}[stage.split(".")[1]]
    option = chance.choice([option for option in NUMBERS if option.name[2:].split(".")[0] in section])
    least, most = option.range
    top = most if most < float("inf") else chance.choice([10**30, 2**63, 2**31, 10**9, 10**6])
    given = option.type(chance.choice([least, least, top, top]))
    more = ["--training", "jointly"] if stage == "pipeline.train_jointly" else []
    return Case(stage, [*BASE, *more, option.name, str(given)], (*option.names, "memory", "with", "--"), False,
                tuple(MADE_BY[stage]))


def play(chance) -> Case:
    name, given, names = chance.choice([
        ("--run", "nosuch", ("nosuch",)), ("--run", "", ("--", "toy")), ("--run", "/dev/null", ("/dev/null",)),
        ("--run", "x" * 5000, ("xxx",)), ("--run", "runs/toy", ("runs/toy",)), ("--seed", "-1", ("--seed",)),
        ("--seed", str(10**30), ("--seed",)), ("--seed", str(2**31), ("--seed",)), ("--seed", "one", ("--seed",)),
        ("--temperature", "-1", ("--temperature",)),
        ("--temperature", "nan", ("--temperature",)), ("--temperature", "inf", ("--temperature",)),
        ("--actor", "nobody", ("--actor",)), ("--headless", "-1", ("--headless",)), ("--film", "x.gif", ("--film",)),
        ("--film", "no/such/folder.webp", ("--film",)), ("--film", "frozen", ("--film",)), ("--tau", "1", ("--tau",)),
        ("--film", "runs", ("--film",)), ("--film", "a" * 300 + ".webp", ("File name too long",)),
        ("--headless", "1.5", ("--headless",)), ("--data", "runs", ("--data",)), ("--task", "chess", ("--task",))])
    return Case("worldmodels.play", ["--task", "toy", "--run", "runs/toy/smoke", "--headless", "2", name, given], names)


def help_beside_a_mistake(chance) -> Case:
    option = chance.choice(NUMBERS)
    return Case(module(chance), [*BASE, chance.choice(["--help", "-h", "--help-all"]), option.name, "many"],
                option.names, False)


SORTS: dict[str, Callable[[random.Random], Case]] = {f.__name__.replace("_", " "): f for f in (
    unknown, misspelt, without_value, wrong_type, no_bool, outside, not_finite, huge, too_many_digits, wrong_choice,
    odd_text, path_as_run, missing_run, missing_stage, data_elsewhere, unknown_task, unknown_preset, of_another_kind,
    repeated, doubled_kind, words, lists, contradictory, combined_kinds, changed, extreme, play, help_beside_a_mistake)}


def prepare(case: Case, finished: Path, folder: Path):
    """A folder for a command: a copy of the finished run, less what is to be missing, and what commands stumble on."""
    shutil.copytree(finished / "runs", folder / "runs", ignore=shutil.ignore_patterns("tensorboard"))
    for name in case.without:
        path = folder / "runs" / "toy" / "smoke" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / "a_file").write_text("")
    (folder / "frozen").symlink_to("/proc/self")                        # in which root cannot write either
    for name, text in OWN_TASKS.items():
        (folder / f"{name}.py").write_text(text)


def forked(case: Case, folder: Path, mark: str) -> int:
    """The command as a child of this process, which has imported everything; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ[MARK] = mark
        for number, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", errors="backslashreplace",
                                                                             closefd=False)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.argv = [case.module, *case.arguments]
        sys.path.insert(0, str(folder))
        name = "pipeline.__main__" if case.module == "pipeline" else case.module
        sys.modules.pop(name, None)                           # as it is under python -m
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def await_end(pid: int, seconds: float) -> int | None:
    """A child's exit code; None where it was not done by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def judged(case: Case, code: int | None, stderr: str, kept: bool) -> tuple[str, str]:
    """What came of a command, and why that was not expected."""
    said = statements(stderr)
    errors = [line for line in said if line.startswith("error:")]
    if code is None:
        return ("unexpected", "wrong, and at work") if case.wrong else ("under way", "")
    if code == 0:
        return ("unexpected", "a wrong value was taken") if case.wrong else ("fine", "")
    if code != 2:
        return "unexpected", f"exit code {code}"
    if len(errors) != 1 or said[-1] != errors[0] or any("Traceback" in line or "Warning" in line for line in said):
        return "unexpected", "not one line that begins with error:"
    if not any(name and name[:200] in errors[0] for name in case.names):
        return "unexpected", f"names none of {', '.join(name[:80] for name in case.names)}"
    if len(errors[0]) > 2000:
        return "unexpected", f"a line of {len(errors[0]):,} characters"
    if not kept and "not enough memory" not in errors[0]:       # for which the stage has to begin
        return "unexpected", "refused, and the run's settings are not as they were"
    return "refused", ""


def make_run(folder: Path):
    """The finished toy run."""
    process = start(["-m", "pipeline", *BASE], folder, "commands")
    if process.wait():
        sys.exit((folder / "stderr").read_text())


def outcome(number: int, case: Case, finished: Path, config: CommandsConfig) -> tuple[str, str, str]:
    """What came of a command, why that was not expected, and what it said."""
    with tempfile.TemporaryDirectory() as name:
        folder, mark = Path(name), f"commands-{os.getpid()}-{number}"
        prepare(case, finished, folder)
        settings = folder / "runs" / "toy" / "smoke" / "config.json"
        before = settings.read_bytes()
        if number % IN_A_PROCESS == 0:
            pid = start(["-m", case.module, *case.arguments], folder, mark).pid
        else:
            pid = forked(case, folder, mark)
        code = await_end(pid, config.seconds * (SOON if case.wrong else 1))
        end(mark)
        stderr = (folder / "stderr").read_text(errors="replace")
        return *judged(case, code, stderr, settings.read_bytes() == before), stderr


def cases(config: CommandsConfig) -> Iterator[tuple[str, Case]]:
    """So many commands, of each sort as many."""
    chance = random.Random(config.seed)
    sorts = [name for name in SORTS if config.only in ("", name)]
    for number in range(config.count):
        sort = sorts[number % len(sorts)]
        case = SORTS[sort](chance)
        where = [] if case.module == "worldmodels.play" else ["--executor", config.executor]
        yield sort, case._replace(arguments=[*where, *case.arguments])


def check(config: CommandsConfig):
    """Raises UserError for what cannot be done."""
    for name, given, known in ("--executor", config.executor, EXECUTORS), ("--only", config.only, {"": None} | SORTS):
        if given not in known:
            raise UserError(f"{name} {given}: choose one of {', '.join(filter(None, known))}")


def main(config: CommandsConfig):
    check(config)
    for name in MODULES:
        importlib.import_module(name)                   # once for all forks
    counts, outcomes = Counter(), ("refused", "fine", "under way", "unexpected")
    with tempfile.TemporaryDirectory() as name:
        make_run(Path(name))
        for number, (sort, case) in enumerate(tqdm(cases(config), total=config.count, unit="command")):
            found, why, said = outcome(number, case, Path(name), config)
            counts[sort, found] += 1
            if found == "unexpected":
                shown = [argument[:100] for argument in case.arguments]
                print(f"{sort}, {number}: python -m {case.module} {shown}\n    {why}; less {list(case.without)}\n    "
                      + "\n    ".join(line[:300] for line in statements(said)[-6:]), flush=True)
    rows = [[sort, *(counts[sort, found] for found in outcomes)] for sort in SORTS if config.only in ("", sort)]
    totals = [sum(counts[sort, found] for sort in SORTS) for found in outcomes]
    print(table(["", *outcomes], [*rows, ["all", *totals]]))
    sys.exit(totals[-1] > 0)


if __name__ == "__main__":
    with errors_in_one_line("begins anew"):
        main(parsed(CommandsConfig(), sys.argv[1:], __doc__))
