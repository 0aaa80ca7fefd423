"""World models compared, in a table (comparison_charts.py draws). An entry is one training of one of them:

    {"name": what is shown, "training": 0, "settings": {...}, "parameters": of M, "steps": of training M,
     "seconds": of training M, and V where it is not shared, "dream_steps_per_s": float,
     "scores": [as report/scores.py makes them],
     "prediction": {"random": as report/prediction.py makes it, "controller": the same}}

where `prediction` is of episodes of the random policy and of the controller. Entries of one name are pooled: the mean
of the trainings' means, with a 95% interval by Student's t over trainings. The interval of a single training is that
over its episodes, which does not tell how much another training would differ.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodels.report.plots import error_bar
from worldmodels.report.prediction import FRAME_STEPS
from worldmodels.report.statistics import Estimate, iqm, paired_difference, student

EPISODES = {"random": "the random policy's episodes", "controller": "the controller's episodes"}
NOTE = """Pairs: on the random policy's / on the controller's episodes. z is in its standard deviations; its error is
that of the mean of several dreams. Game: the mean of the trainings' means; 95% by Student's t over trainings, or
over the episodes of a single one. IQM: the mean of the middle half of all episodes, bootstrapped. Against: the mean
difference from the first world model, episode by episode where both played the same ones, by Student's t."""

# of a prediction, the numbers in the table: where they are, and their format
PREDICTED = {
    "CRPS": (("one_step", "crps", "mean"), ".3f"),
    "z error at 10": (("open_loop", "z_error_of_mean", 9), ".2f"),
    "z error at 50": (("open_loop", "z_error_of_mean", 49), ".2f"),
    "frame error at 1": (("open_loop", "frame_error", FRAME_STEPS.index(1)), ".4f"),
    "frame error at 50": (("open_loop", "frame_error", FRAME_STEPS.index(50)), ".4f"),
    "reward explained": (("reward", "explained"), ".2f"),
    "done log loss": (("done", "log_loss"), ".4f")}
COSTS = {"parameters": "parameters", "seconds": "seconds of training", "dream_steps_per_s": "dreamt steps a second"}


def rows(entries: Sequence[dict]) -> list[dict[str, Any]]:
    """The numbers of the table, one dictionary a name; those of PREDICTED by whose episodes they are of. nan: none."""
    found = []
    for name, group in groups(entries).items():
        (game, half, each_game), (dream, _, _) = returns(group, "real"), returns(group, "dream")
        means = lambda path, group=group: {whose: float(pool(predicted(group, whose, *path))[0]) for whose in EPISODES}
        found.append({
            "name": name, "game": game, "game_ci95": None if np.isnan(half) else [game - half, game + half],
            "game_of_trainings": each_game.tolist(), "game_iqm": iqm_of(group), "against": against(group, entries),
            "dream": dream, "gap": dream - game,
            **{score: means(path) for score, (path, _) in PREDICTED.items()},
            **{cost: float(np.mean([e[cost] for e in group])) for cost in COSTS}})
    return found


def cells(entries: Sequence[dict]) -> list[list[str]]:
    """The headings, and the cells of each name."""
    number, found = lambda value, form: "–" if np.isnan(value) else format(value, form), []
    for row in rows(entries):
        pair = lambda score, form, row=row: " / ".join(number(row[score][whose], form) for whose in EPISODES)
        found.append({
            "world model": row["name"], "game": number(row["game"], ".0f"),
            "95%": "{:.0f} to {:.0f}".format(*row["game_ci95"]) if row["game_ci95"] else "–",
            "trainings": ", ".join(f"{mean:.0f}" for mean in row["game_of_trainings"]),
            "IQM": estimated(row["game_iqm"]), f"against {entries[0]['name']}": estimated(row["against"], "+"),
            "dream": number(row["dream"], ".0f"), "dream - game": number(row["gap"], "+.0f"),
            **{score: pair(score, form) for score, (_, form) in PREDICTED.items()},
            **{title: f"{row[cost]:,.0f}" for cost, title in COSTS.items()}})
    return [list(found[0]), *(list(line.values()) for line in found)]


def table(entries: Sequence[dict]) -> str:
    """The comparison as text, one line a name."""
    return as_text(cells(entries), 1, NOTE)


def markdown(entries: Sequence[dict]) -> str:
    """The same in Markdown."""
    return as_markdown(cells(entries), 1, NOTE)


def as_text(lines: Sequence[Sequence[str]], names: int, note: str) -> str:
    """A table, its headings the first line, as text; the first `names` columns are names, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    said = ["  ".join([*map(str.ljust, line[:names], widths), *map(str.rjust, line[names:], widths[names:])])
            for line in lines]
    return "\n".join([*said, "", note])


def as_markdown(lines: Sequence[Sequence[str]], names: int, note: str) -> str:
    """The same in Markdown."""
    head, *rest = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + " --- |" * names + " ---: |" * (len(lines[0]) - names), *rest, "", note])


def groups(entries: Sequence[dict]) -> dict[str, list[dict]]:
    """The entries of each name, in the order in which names first appear."""
    return {name: [e for e in entries if e["name"] == name] for name in dict.fromkeys(e["name"] for e in entries)}


def pool(means: np.ndarray, halves: Any = np.nan) -> tuple[Any, Any]:
    """Means of n trainings [n, ...], and half widths of their own 95% intervals -> mean and half width."""
    if len(means) < 2:
        return (means[0], (halves + 0 * means)[0]) if len(means) else (np.nan, np.nan)
    # t_{n-1} s / sqrt(n)
    return means.mean(0), student(len(means)) * means.std(0, ddof=1) / len(means)**0.5


def returns(group: Sequence[dict], world: str) -> tuple[float, float, np.ndarray]:
    """The controllers' mean return, pooled, half of its interval, and the mean of each training that has one."""
    found = own_scores(group, world)
    means = np.array([s["mean"] for s in found])
    return *pool(means, np.array(error_bar(found))), means


def own_scores(group: Sequence[dict], world: str) -> list[dict]:
    """The score of the controller of each training that has one."""
    mine = ([s for s in e["scores"] if s["world"] == world and not s["controller"].startswith("random")] for e in group)
    return [scores[0] for scores in mine if scores]


def iqm_of(group: Sequence[dict]) -> Estimate | None:
    """The interquartile mean of all trainings' episodes of the game; None where there are none."""
    found = own_scores(group, "real")
    return iqm(np.concatenate([s["returns"] for s in found])) if found else None


def against(group: Sequence[dict], entries: Sequence[dict]) -> Estimate | None:
    """By how much the controllers, each episode's mean over trainings, differ from those of the first name; None where
    they have not played the same episodes, or are the first."""
    mine, first = own_scores(group, "real"), own_scores(groups(entries)[entries[0]["name"]], "real")
    played = {(s.get("first_seed"), s["episodes"]) for s in [*mine, *first]}
    if len(played) != 1 or not mine or group[0]["name"] == entries[0]["name"]:
        return None
    return paired_difference(*(np.mean([s["returns"] for s in scores], 0) for scores in (mine, first)))


def estimated(estimate: Estimate | None, sign: str = "") -> str:
    """"value (low to high)", or a dash."""
    if estimate is None:
        return "–"
    value, low, high = (format(number, f"{sign}.0f") for number in estimate)
    return "–" if np.isnan(estimate.value) else value if np.isnan(estimate.low) else f"{value} ({low} to {high})"


def predicted(group: Sequence[dict], whose: str, *path: str | int) -> np.ndarray:
    """What is at this place of each training's prediction, where there is one, [n, ...]."""
    found = []
    for value in (e["prediction"].get(whose) for e in group):
        for key in path:
            value = None if value is None else value[key]
        found += [] if value is None else [value]
    return np.array(found, float)
