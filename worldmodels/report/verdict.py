"""What a report says first: how good the controller is, beside random policies and the paper's controller."""

from collections.abc import Sequence
from typing import NamedTuple

from worldmodels.envs import Task
from worldmodels.report.scores import interval, spread
from worldmodels.report.statistics import difference_of_means


class Paper(NamedTuple):
    """What the paper's controller has in the game: 100 episodes."""

    mean: float
    std: float
    how: str

    @property
    def error(self) -> float:
        return self.std / 10


PAPER = {"car_racing": Paper(906, 21, "learned in the game"),               # its tables 1 and 2
         "take_cover": Paper(1092, 556, "learned in the dream")}


# (generation, mean of 1,024 rollouts of the CMA mean) in World Models' repository, */log/*.cma.16.64.hist_best.json:
# CarRacing's game, TakeCover's dream at tau 1.25
AUTHORS_LOG = {
    "car_racing": ((25, 823), (50, 867), (75, 870), (100, 867), (125, 869), (150, 875), (175, 875), (200, 880),
                   (625, 895), (1800, 900)),
    "take_cover": ((25, 701), (50, 701), (75, 742), (100, 791), (125, 754), (150, 815), (175, 779), (200, 790))}


def best_random(scores: Sequence[dict]) -> dict | None:
    """The best of the random policies in the game; None where there is none."""
    found = (s for s in scores if s["world"] == "real" and s["controller"].startswith("random"))
    return max(found, key=lambda s: s["mean"], default=None)


def verdict(task: Task, own: dict, scores: Sequence[dict]) -> str:
    """One or two sentences."""
    what = "survives {} frames" if task.survival else "scores {}"
    said = f"In the game the controller {what.format(format(own['mean'], '.0f'))} on average"
    said += f" (95% interval {interval(own)}, {own['episodes']:,} episodes)" if own["ci95"] else \
        f" ({own['episodes']} episodes: too few for an interval)"
    random = best_random(scores)
    parts = [] if random is None else [f"{against(own, random['mean'], error_of(random))} the best random policy "
                                       f"({random['mean']:.0f})"]
    if paper := PAPER.get(task.name):
        parts.append(f"{against(own, paper.mean, paper.error)} the paper's controller ({paper.mean:.0f}, {paper.how})")
    return f"{said}. That is {', and '.join(parts)}." if parts else f"{said}."


def against(own: dict, mean: float, error: float) -> str:
    """How a score compares with another mean: by the 95% interval of their difference."""
    if not own["ci95"]:
        return "not to be compared yet with"
    difference = difference_of_means(own["mean"], error_of(own), mean, error)
    return "more than" if difference.low > 0 else "less than" if difference.high < 0 else "not to be told apart from"


def error_of(score: dict) -> float:
    """The standard error of a score's mean."""
    return (score["std"] or 0.0) / score["episodes"]**0.5


def standings(task: Task, own: dict, scores: Sequence[dict], faithful: dict | None = None
              ) -> list[tuple[str, str, str, str]]:
    """The verdict as a table's rows: who, mean ± std, interval, episodes. `faithful` is the score of the paper's method
    by this program."""
    compared = [("this controller", own)]
    if random := best_random(scores):
        compared.append((f"the best random policy: {random['controller']}", random))
    if faithful:
        compared.append(("the paper's method, by this program", faithful))
    rows = [(who, spread(score), interval(score), f"{score['episodes']:,}") for who, score in compared]
    if paper := PAPER.get(task.name):
        half = 1.98 * paper.error                           # Student's t of 100 episodes
        rows.append((f"the paper's controller, {paper.how}", f"{paper.mean} ± {paper.std}",
                     f"{paper.mean - half:.0f} to {paper.mean + half:.0f}", "100"))
    return rows
