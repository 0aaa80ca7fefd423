"""Runs at a glance: what `worldmodels list` and `worldmodels info` say. Listing them imports no torch."""

from collections.abc import Iterator
from pathlib import Path

from worldmodels import runs
from worldmodels.commandline import flag, leaves
from worldmodels.errors import UserError
from worldmodels.files import read_json
from worldmodels.report.scores import interval, own_score, read_scores, spread, table
from worldmodels.runs import Run

NOWHERE = "none (`worldmodels run --task take_cover --preset smoke` makes one in a minute)"


def title(run: Run) -> str:
    """<task>/<run>, as the folders are called."""
    return "/".join(run.root.parts[-2:])


def is_published(run: Run) -> bool:
    return runs.PUBLISHED.resolve() in run.root.resolve().parents


def all_runs(data: Path) -> list[Run]:
    """The runs in this folder, those in data/ of a checkout, and the published ones."""
    places = {place.resolve(): place for place in (runs.PUBLISHED, runs.DATA, data)}       # the last one names it
    return [Run(path.parent) for place in reversed(places.values()) for path in sorted(place.glob("*/*/config.json"))]


def find_run(name: str, data: Path) -> Run:
    """A run by its folder, as <task>/<run>, or by its name alone where one task has it. One's own hides a published
    one. A UserError where there is none, or more than one."""
    if (Path(name) / "config.json").exists():
        return Run(Path(name).resolve())
    there = {title(run): run for run in reversed(all_runs(data))}
    found = [known for known in there if name in (known, there[known].root.name)]
    if len(found) > 1:
        raise UserError(f"there are several runs {name}: {', '.join(sorted(found))}")
    if not found:
        raise UserError(f"no run {name}; there are: {', '.join(sorted(there)) or NOWHERE}")
    return there[found[0]]


def rounds(run: Run) -> int:
    """How many are finished: have a controller."""
    last = run.last("controller")
    return last.round if last.path("controller").exists() else 0


def wanted(config: dict) -> int:
    """How many rounds a stored config asks for."""
    return config["rounds"] + config.get("real_round", False)


def scores(run: Run) -> list[dict]:
    """Of the last finished round; none where it is not scored."""
    path = run.at(rounds(run) or 1).report / "scores.json"
    return read_scores(path) if path.exists() else []


def in_the_game(run: Run) -> str:
    """The score of the run's own controller, wherever it was trained."""
    own = own_score(scores(run))
    return f"{spread(own)} ({interval(own)})" if own else "-"


def listed(data: Path) -> str:
    """Every run in a line."""
    rows = [("run", "preset", "rounds", "mean ± std in the game (95% interval)", "")]
    for run in all_runs(data):
        try:
            config = read_json(run.config)["config"]
            row = (title(run), config["preset"], f"{rounds(run)} of {wanted(config)}",
                   in_the_game(run), "published" if is_published(run) else str(run.root.parents[1]))
        except (KeyError, UserError) as error:
            row = (title(run), "-", "-", f"damaged: {error}", "")
        rows.append(row)
    if len(rows) == 1:
        return f"runs: {NOWHERE}"
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def described(run: Run, task: str | None = None) -> Iterator[str]:
    """What `worldmodels info` says of a run, in lines; `task` is my_module:TASK where the task is a user's own."""
    config = read_json(run.config)["config"]
    size = sum(path.stat().st_size for path in run.root.rglob("*") if path.is_file()) / 1e6
    yield f"{title(run)}{', published' * is_published(run)}: {run.root}, {size:.1f} MB"
    yield f"preset {config['preset']}, seed {config['seed']}, {rounds(run)} of {wanted(config)} rounds finished"
    for round in map(run.at, range(1, wanted(config) + 1)):
        if round.folder.exists():
            minutes = sum(round.seconds.values()) / 60
            yield f"round {round.round}: {', '.join(made(round)) or 'nothing yet'}; {minutes:.1f} minutes"
    if found := scores(run):
        yield f"\n{table(found)}"
    yield f"\nsettings that are not the preset's: {' '.join(changes(run, task)) or 'none'}"


def made(run: Run) -> Iterator[str]:
    """What there is of a round."""
    for what, folder in (("episodes", run.episodes), ("latents", run.latents)):
        if count := len(list(folder.glob("*.safetensors*"))):
            yield f"{count:,} {what}"
    for name in ("vision", "memory", "controller"):
        if run.own_path(name).exists():
            yield name
        elif run.progress_path(name).exists():
            yield f"{name} in progress"
    if (run.report / "scores.json").exists():
        yield "scores"


def changes(run: Run, task: str | None) -> Iterator[str]:
    """The options that make the run's settings of its preset's, of the sections that the run knows."""
    from pipeline.presets import KINDS, Config, presets
    from worldmodels.envs import import_task
    config = run.settings(Config, kinds=KINDS)
    named = presets(import_task(task or config.task))
    if config.preset not in named:
        raise UserError(f"the run was made with --preset {config.preset}; today's are {', '.join(named)}")
    of_preset, known = dict(leaves(named[config.preset]())), read_json(run.config)["config"].keys() - {"run", "data"}
    for name, value in leaves(config):
        if name.split(".")[0] in known and (name not in of_preset or value != of_preset[name]):
            yield f"{flag(name)} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
