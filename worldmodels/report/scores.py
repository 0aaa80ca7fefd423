"""Stage 6: scores of controllers in the real game and in the dream, with intervals, on seeds that nothing was trained
on."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from worldmodels.commandline import Count, Range
from worldmodels.errors import UserError
from worldmodels.files import read_json, write_json
from worldmodels.report.statistics import half_width
from worldmodels.runs import EPISODES_PER_STAGE, EVALUATION

if TYPE_CHECKING:
    from worldmodels.envs import Task  # what lists runs starts without the games

WORLDS = {"real": "game", "dream": "dream"}         # how the worlds are called where people read
Episodes = Annotated[int, Range(1, EPISODES_PER_STAGE)]


@dataclass(frozen=True)
class EvaluateConfig:
    episodes: Episodes = 100        # of the controller, in the real game
    random_episodes: Episodes = 100     # of each random policy, in the real game
    episodes_on_the_way: Episodes = 40  # at most, of each, after a round that is not the last one
    dream_episodes: Episodes = 1024     # of the controllers and of the collecting policy, in the dream
    # TakeCover: Doom's skills, at which the last controller plays as often too
    other_skills: Annotated[tuple[int, ...], Range(1, 5)] = ()
    # of the episodes scored
    first_seed: Annotated[int, Range(EVALUATION.start, EVALUATION.stop - 1)] = EVALUATION.start
    # CarRacing: gymnasium's own frames, or ours; on the way those that are collected
    drawing: Literal["fast", "official"] = "official"
    gap_episodes: Episodes = 100    # of the controller, from which sim_to_real_gap.png is drawn
    video_steps: Count = 300        # length of each video


def score(task: "Task", world: str, controller: str, returns: np.ndarray, **more) -> dict:
    """One entry of scores.json, with what `more` says (the dream's temperature, or None in the game; wall_s, first_seed
    and so on)."""
    returns = np.asarray(returns, np.float64)
    mean, half = float(returns.mean()), float(half_width(returns))
    std = float(returns.std(ddof=1)) if len(returns) > 1 else None
    return {"task": task.name, "env_id": task.env_id, "world": world, "controller": controller,
            "episodes": len(returns), "mean": mean, "std": std,
            "ci95": None if np.isnan(half) else [mean - half, mean + half],
            "returns": returns.round(4).tolist(), "git_commit": git_commit(), **more}


def trained_name(world: str) -> str:
    """The name in the scores of a run's own controller, which was trained in this world, "dream" or "real"."""
    return f"controller from the {world}"


def own_score(scores: Sequence[dict], world: str = "real") -> dict | None:
    """The score of the run's own controller in this world, wherever it was trained; None where it has none."""
    names = list(map(trained_name, WORLDS))
    return next((s for s in scores if s["world"] == world and s["controller"] in names), None)


def interval(score: dict) -> str:
    """The interval of a score's mean in words."""
    return "too few episodes" if score["ci95"] is None else "{:.0f} to {:.0f}".format(*score["ci95"])


def spread(score: dict) -> str:
    """Mean ± standard deviation; the mean alone of one episode."""
    return f"{score['mean']:.0f}" + ("" if score["std"] is None else f" ± {score['std']:.0f}")


def write_scores(path: Path, scores: Sequence[dict]):
    write_json(path, {"scores": list(scores)})


def read_scores(path: Path) -> list[dict]:
    """The entries of a scores.json; a UserError where they are none."""
    scores = read_json(path).get("scores")
    if not isinstance(scores, list) or not all(map(is_score, scores)):
        raise UserError(f"{path} is damaged: delete it and run `python -m pipeline.evaluate` again")
    return scores


def is_score(entry) -> bool:
    """Whether it is what `score` returns, as far as it is read again."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("world", "controller")):
        return False
    number = lambda value: type(value) in (int, float)
    numbers = lambda value: isinstance(value, list) and all(map(number, value))
    optional = entry.get("std"), entry.get("temperature")
    return type(entry.get("episodes")) is int and number(entry.get("mean")) and numbers(entry.get("returns")) \
        and all(value is None or number(value) for value in optional) \
        and (entry.get("ci95") is None or numbers(entry["ci95"]) and len(entry["ci95"]) == 2) \
        and {"std", "temperature", "ci95", "git_commit"} <= entry.keys()


def table(scores: Sequence[dict]) -> str:
    """The scores as text, a line each."""
    names = [s["controller"] + ("" if s["temperature"] is None else f" (tau {s['temperature']:g})") for s in scores]
    width = max(map(len, names))
    lines = [f"{'world':6} {'controller':{width}} {'mean ± std':>14}   {'95% interval of the mean':>24}   episodes"]
    for name, s in zip(names, scores):
        lines.append(f"{WORLDS[s['world']]:6} {name:{width}} {spread(s):>14}   {interval(s):>24}   {s['episodes']:8d}")
    return "\n".join(lines)


def git_commit() -> str | None:
    """The commit of this code, with '+' where the tree differs from it; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        git = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True)
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
        return git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
