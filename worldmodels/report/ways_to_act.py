"""Ways to act compared: which world model, and what acts in it. An entry is one training of one controller:

    {"model": "rssm", "controller": "actor", "training": 0, "seconds": of training the controller,
     "decide_ms": milliseconds of a decision for 16 rollouts, "scores": [of game and dream, as report/scores.py]}
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from worldmodels.report.comparison import as_markdown, as_text, returns
from worldmodels.report.comparison_charts import chart

NOTE = """Game and dream: mean returns, those of the game of each training. Seconds: to train the controller, and the
actor that it is made of. ms: a decision for 16 rollouts."""


def groups(entries: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """The trainings of each controller in each world model, in the order in which they first appear."""
    keys = dict.fromkeys((e["model"], e["controller"]) for e in entries)
    return {key: [e for e in entries if (e["model"], e["controller"]) == key] for key in keys}


def cells(entries: Sequence[dict]) -> list[list[str]]:
    """The headings, and a line for each controller in each world model."""
    lines = [["world model", "controller", "game", "trainings", "dream", "seconds", "ms"]]
    for (model, controller), group in groups(entries).items():
        game, _, each = returns(group, "real")
        lines.append([model, controller, f"{game:.0f}", ", ".join(f"{mean:.0f}" for mean in each),
                      f"{returns(group, 'dream')[0]:.0f}", f"{np.mean([e['seconds'] for e in group]):,.0f}",
                      f"{np.mean([e['decide_ms'] for e in group]):.1f}"])
    return lines


def table(entries: Sequence[dict]) -> str:
    """The comparison as text."""
    return as_text(cells(entries), 2, NOTE)


def markdown(entries: Sequence[dict]) -> str:
    """The same in Markdown."""
    return as_markdown(cells(entries), 2, NOTE)


@chart
def matrix(axis: Axes, entries: Sequence[dict]):
    """Returns in the game, world models by controllers; below, what the dream promised, and the ms of a decision."""
    found = groups(entries)
    models, controllers = (list(dict.fromkeys(names)) for names in zip(*found))
    means = np.full((len(models), len(controllers)), np.nan)
    for (model, controller), group in found.items():
        at = models.index(model), controllers.index(controller)
        means[at] = returns(group, "real")[0]
        text = (f"{means[at]:.0f}", f"dream {returns(group, 'dream')[0]:.0f}",
                f"{np.mean([e['decide_ms'] for e in group]):.1f} ms")
        axis.text(at[1], at[0] - 0.12, text[0], ha="center", va="center", fontsize=12, weight="bold")
        axis.text(at[1], at[0] + 0.22, "\n".join(text[1:]), ha="center", va="center", fontsize=7)
    axis.imshow(means, cmap="YlGn", aspect="auto", alpha=0.6)
    axis.set_xticks(range(len(controllers)), controllers)
    axis.set_yticks(range(len(models)), models)
    axis.set_title("Mean return in the game")
