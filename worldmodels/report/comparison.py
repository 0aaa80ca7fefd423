"""World models compared: a table, and charts. An entry is one training of one of them:

    {"name": what is shown, "training": 0, "parameters": int, "seconds": of training, "steps": of training,
     "dream_steps_per_s": float, "scores": [as report/scores.py makes them],
     "prediction": {"random": as report/prediction.py makes it, "controller": the same}}

where `prediction` is of episodes of the random policy and of the controller. Entries of one name are pooled: the mean
of the trainings' means, with a 95% interval by Student's t over trainings. The interval of a single training is that
over its episodes, which does not tell how much another training would differ.
"""

from functools import wraps
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from worldmodels.report.plots import COLOURS as WORLDS
from worldmodels.report.plots import Panel, error_bar, finish, of_share
from worldmodels.report.prediction import DONE_EDGES, DRAWS, FRAME_STEPS

# the colour-blind can tell these apart (Paul Tol's "muted", and black); the markers help
COLOURS = ("#332288", "#cc6677", "#44aa99", "#882255", "#999933", "#117733", "#aa4499", "#000000", "#5fb0d9", "#cdb84b")
MARKERS = "osD^vP*Xhp"
GREY = WORLDS["random"]
EPISODES = {"random": "the random policy's episodes", "controller": "the controller's episodes"}
# Student's t, 97.5%, of the mean of 2 to 10 numbers; the last one serves more than 10 too, and is too wide for them
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
LINE, LETTER = 0.057, 0.0135        # the size of a point's name, as a share of the axes
NOTE = """Pairs: on the random policy's / on the controller's episodes. z is in its standard deviations; its error is
that of the mean of several dreams. Game: the mean of the trainings' means; 95% by Student's t over trainings, or
over the episodes of a single one."""

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
OPEN_LOOP = {       # titles and units of the errors
    "z_error_of_mean": (f"Error of the mean of {DRAWS} dreams", "root mean square error of z, in std"),
    "z_error": ("Error of single dreams", "root mean square error of z, in std"),
    "frame_error": ("Error of the frames of single dreams", "mean squared error, colours from 0 to 1")}

Styles = dict[str, dict[str, str]]      # colour and marker of each name


def rows(entries: Sequence[dict]) -> list[dict[str, Any]]:
    """The numbers of the table, one dictionary a name; those of PREDICTED by whose episodes they are of. nan: none."""
    found = []
    for name, group in groups(entries).items():
        (game, half, each_game), (dream, _, _) = returns(group, "real"), returns(group, "dream")
        means = lambda path: {whose: float(pool(predicted(group, whose, *path))[0]) for whose in EPISODES}
        found.append({
            "name": name, "game": game, "game_ci95": None if np.isnan(half) else [game - half, game + half],
            "game_of_trainings": each_game.tolist(), "dream": dream, "gap": dream - game,
            **{score: means(path) for score, (path, _) in PREDICTED.items()},
            **{cost: float(np.mean([e[cost] for e in group])) for cost in COSTS}})
    return found


def cells(entries: Sequence[dict]) -> list[list[str]]:
    """The headings, and the cells of each name."""
    number, found = lambda value, form: "–" if np.isnan(value) else format(value, form), []
    for row in rows(entries):
        pair = lambda score, form: " / ".join(number(row[score][whose], form) for whose in EPISODES)
        found.append({
            "world model": row["name"], "game": number(row["game"], ".0f"),
            "95%": "{:.0f} to {:.0f}".format(*row["game_ci95"]) if row["game_ci95"] else "–",
            "trainings": ", ".join(f"{mean:.0f}" for mean in row["game_of_trainings"]),
            "dream": number(row["dream"], ".0f"), "dream - game": number(row["gap"], "+.0f"),
            **{score: pair(score, form) for score, (_, form) in PREDICTED.items()},
            **{title: f"{row[cost]:,.0f}" for cost, title in COSTS.items()}})
    return [list(found[0]), *(list(line.values()) for line in found)]


def table(entries: Sequence[dict]) -> str:
    """The comparison as text, one line a name."""
    lines = cells(entries)
    widths = [max(map(len, column)) for column in zip(*lines)]
    said = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([*said, "", NOTE])


def markdown(entries: Sequence[dict]) -> str:
    """The same in Markdown."""
    head, *lines = ("| " + " | ".join(line) + " |" for line in cells(entries))
    return "\n".join([head, "| --- |" + " ---: |" * (head.count("|") - 2), *lines, "", NOTE])


def groups(entries: Sequence[dict]) -> dict[str, list[dict]]:
    """The entries of each name, in the order in which names first appear."""
    return {name: [e for e in entries if e["name"] == name] for name in dict.fromkeys(e["name"] for e in entries)}


def styles(entries: Sequence[dict]) -> Styles:
    """How each name is drawn. Charts of some of the entries take the styles of all."""
    return {name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            for i, name in enumerate(groups(entries))}


def pool(means: np.ndarray, halves: Any = np.nan) -> tuple[Any, Any]:
    """Means of n trainings [n, ...], and half widths of their own 95% intervals -> mean and half width."""
    if len(means) < 2:
        return (means[0], (halves + 0 * means)[0]) if len(means) else (np.nan, np.nan)
    # t_{n-1} s / sqrt(n)
    return means.mean(0), STUDENT[min(len(means), 10) - 2] * means.std(0, ddof=1) / len(means)**0.5


def returns(group: Sequence[dict], world: str) -> tuple[float, float, np.ndarray]:
    """The controllers' mean return, pooled, half of its interval, and the mean of each training that has one."""
    mine = ([s for s in e["scores"] if s["world"] == world and not s["controller"].startswith("random")] for e in group)
    found = [scores[0] for scores in mine if scores]
    means = np.array([s["mean"] for s in found])
    return *pool(means, np.array(error_bar(found))), means


def predicted(group: Sequence[dict], whose: str, *path: str | int) -> np.ndarray:
    """What is at this place of each training's prediction, where there is one, [n, ...]."""
    found = []
    for value in (e["prediction"].get(whose) for e in group):
        for key in path:
            value = None if value is None else value[key]
        found += [] if value is None else [value]
    return np.array(found, float)


def chart(draw: Callable[..., None]) -> Callable[..., Panel]:
    """draw(axis, entries, ...) -> a function of (entries, ...) that makes a Panel."""
    return wraps(draw)(lambda *given, **named: lambda axis: draw(axis, *given, **named))


def each(entries: Sequence[dict], style: Styles | None) -> Iterator[tuple[str, list[dict], dict[str, str]]]:
    """Every name with its entries and its style."""
    style = style or styles(entries)
    return ((name, group, style[name]) for name, group in groups(entries).items())


@chart
def one_step(axis: Axes, entries: Sequence[dict], style: Styles | None = None):
    """CRPS of the next z, beside that of an M that knows the next frame."""
    for y, (name, group, look) in enumerate(each(entries, style)):
        for whose, shift, fill in (("random", -0.15, "white"), ("controller", 0.15, look["color"])):
            mean, ci = (predicted(group, whose, "one_step", "crps", of) for of in ("mean", "ci95"))
            mean, half = pool(mean, np.ptp(ci.reshape(-1, 2), 1) / 2 if len(ci) == len(mean) else np.nan)
            axis.errorbar(mean, y + shift, xerr=half, ms=5, capsize=2, mfc=fill, **look)
            axis.plot(pool(predicted(group, whose, "one_step", "v_crps"))[0], y + shift, "|", color=GREY, ms=8)
    for whose, fill in (("random", "white"), ("controller", "black")):
        axis.plot([], [], "o", color="black", mfc=fill, label=EPISODES[whose])
    axis.plot([], [], "|", color=GREY, ms=8, label="if M knew the next frame")
    names = list(groups(entries))
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    finish(axis, "One step ahead: how far z is from M's distribution",
           "CRPS of the next z, in std; less is better (bars: 95%)")
    outside(axis, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncol=3, columnspacing=1, handletextpad=0.2)


@chart
def open_loop(axis: Axes, entries: Sequence[dict], score: str = "z_error_of_mean", whose: str = "controller",
              style: Styles | None = None):
    """One of the errors in OPEN_LOOP by horizon; that of frames begins with V's own."""
    frames, means = score == "frame_error", []
    for name, group, look in each(entries, style):
        mean, half = pool(*(predicted(group, whose, "open_loop", key) for key in (score, f"{score}_half")))
        if np.ndim(mean):
            steps = FRAME_STEPS if frames else np.arange(1, len(mean) + 1)
            axis.fill_between(steps, mean - half, mean + half, color=look["color"], alpha=0.12, lw=0)
            if frames:
                v = pool(predicted(group, whose, "one_step", "v_frame_error", "mean"))[0]
                steps, mean = (0.5, *steps), np.array([v, *mean])
            axis.plot(steps, mean, lw=1.5, ms=4, markevery=1 if frames else [k - 1 for k in FRAME_STEPS], label=name,
                      **look)
            means.append(mean)
    logarithmic(axis, "x")
    axis.set_xticks(*((0.5, *FRAME_STEPS), ("V alone", *FRAME_STEPS)) if frames else (FRAME_STEPS, FRAME_STEPS))
    if score == "z_error_of_mean":
        axis.axhline(1, ls="--", lw=1, color=GREY, label="always the mean z")
    if frames:
        logarithmic(axis, "y")
    shown = np.concatenate([[], *means])
    shown = shown[shown > 0]
    if len(shown):      # not by the intervals: those of two trainings are wide
        axis.set_ylim(0.8 * shown.min() if frames else 0, 1.1 * shown.max())
    finish(axis, f"{OPEN_LOOP[score][0]}; {EPISODES[whose]}", "steps dreamt, given the recorded actions",
           OPEN_LOOP[score][1])
    outside(axis)


@chart
def reward_calibration(axis: Axes, entries: Sequence[dict], whose: str = "controller", style: Styles | None = None):
    """By how much the reward that came differs from the one that M expected."""
    shown = []
    for name, group, look in each(entries, style):
        expected, came, half, explained = (predicted(group, whose, "reward", key)
                                           for key in ("expected", "came", "half", "explained"))
        if len(came):
            excess, half = pool(came - expected, half)
            axis.errorbar(expected.mean(0), excess, half, lw=1, elinewidth=0.6, ms=4, ecolor=(look["color"], 0.3),
                          label=f"{name}: {pool(explained)[0]:.2f}", **look)
            shown.append((excess, half))
    axis.set_ylim(room(*zip(*shown)) if shown else None)
    axis.axhline(0, ls="--", lw=1, color=GREY)
    finish(axis, f"Is the expected reward right? {EPISODES[whose].capitalize()}", "reward that M expected of a step",
           "mean reward that came, less that (bars: 95%)")
    outside(axis, "variance explained")


@chart
def done_calibration(axis: Axes, entries: Sequence[dict], whose: str = "controller", style: Styles | None = None):
    """How often episodes ended where M gave that some probability."""
    for name, group, look in each(entries, style):
        found = [e["prediction"][whose]["done"] for e in group if e["prediction"].get(whose)]
        expected, came, count = (np.array([value for done in found for value in done[key]])
                                 for key in ("expected", "came", "count"))
        part = np.searchsorted(DONE_EDGES, expected, side="right")
        bins = [part == i for i in np.unique(part) if count[part == i].sum() >= 10]
        if bins:
            x, y = (np.array([np.average(values[b], weights=count[b]) for b in bins]) for values in (expected, came))
            low, high = of_share(y, np.array([count[b].sum() for b in bins]))
            loss = pool(predicted(group, whose, "done", "log_loss"))[0]
            axis.errorbar(x, y, np.maximum([y - low, high - y], 0), lw=1, elinewidth=0.6, ms=4,
                          ecolor=(look["color"], 0.3), label=f"{name}: {loss:.4f}", **look)
    axis.plot([0, 1], [0, 1], ls="--", lw=1, color=GREY)
    for scale, ticks in ((axis.set_xscale, axis.set_xticks), (axis.set_yscale, axis.set_yticks)):
        scale("function", functions=(lambda p: np.sqrt(np.maximum(p, 0)), np.square))
        ticks(shares := (0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1), map("{:g}".format, shares), fontsize=8)
    finish(axis, f"Do episodes end as often as M says? {EPISODES[whose].capitalize()}",
           "probability that M gave to the end", "share of steps that were the last (bars: 95%)")
    outside(axis, "log loss")


@chart
def spread_skill(axis: Axes, entries: Sequence[dict], whose: str = "controller", style: Styles | None = None):
    """Whether M errs where its members disagree."""
    for name, group, look in each(entries, style):
        spread, error, rank = (predicted(group, whose, "uncertainty", key)
                               for key in ("spread", "error", "correlation"))
        if len(spread):
            axis.plot(spread.mean(0), error.mean(0), lw=1, ms=4, label=f"{name}: {pool(rank)[0]:.2f}", **look)
    if not axis.lines:
        axis.annotate("no ensemble here", (0.5, 0.5), xycoords="axes fraction", ha="center")
    logarithmic(axis, "x")
    finish(axis, f"Does M err where its members disagree? {EPISODES[whose].capitalize()}",
           "disagreement, in ten parts of equally many steps", "error of the mean of z, in std")
    outside(axis, "rank correlation")


@chart
def dream_vs_game(axis: Axes, entries: Sequence[dict], style: Styles | None = None):
    """The controllers' returns in their own dreams and in the game."""
    scatter(axis, entries, lambda group: returns(group, "dream")[:2], style, one_scale=True)
    axis.axline((0, 0), slope=1, ls="--", lw=1, color=GREY)
    finish(axis, "What the dream promises and the game pays (below the line: less)",
           "mean return in the dream (bars: 95%)", "mean return in the game (bars: 95%)")


@chart
def cost(axis: Axes, entries: Sequence[dict], by: str = "seconds", style: Styles | None = None):
    """The controllers' returns in the game against one of COSTS."""
    logarithmic(axis, "x")
    of = lambda group: np.mean([e[by] for e in group])
    values = [of(group) for group in groups(entries).values()]
    axis.set_xlim(min(values) / 1.5, 1.5 * max(values))
    scatter(axis, entries, lambda group: (of(group), np.nan), style)
    finish(axis, f"Return in the game and {COSTS[by]}", COSTS[by], "mean return in the game (bars: 95%)")


def scatter(axis: Axes, entries: Sequence[dict], x_of: Callable[[list[dict]], tuple[float, float]],
            style: Styles | None, one_scale: bool = False):
    """A point for each name, with bars: x and its half width against the return in the game."""
    named, halves = [], []
    for name, group, look in each(entries, style):
        (x, x_half), (y, y_half, _) = x_of(group), returns(group, "real")
        axis.errorbar(x, y, y_half, x_half, ms=6, lw=0.8, ecolor=(look["color"], 0.4), **look)
        if np.isfinite([x, y]).all():
            named.append((name, look["color"], (x, y)))
            halves.append((x_half, y_half))
    shown = slice(None) if one_scale else slice(1, None)        # x and y, or y
    limits = room([point[shown] for _, _, point in named], [half[shown] for half in halves])
    axis.set(ylim=limits, xlim=limits if one_scale else axis.get_xlim())
    name_points(axis, named)


def room(means: Any, halves: Any) -> tuple[float | None, float | None]:
    """Limits of an axis that shows means and their intervals; of two trainings these are so wide that they would hide
    the means, and are cut."""
    means, halves = np.ravel(means), np.nan_to_num(np.ravel(halves))
    span = np.ptp(means) if len(means) else 0
    margin = 0.1 * span + min(halves.max(initial=0), 0.5 * span)
    return (means.min() - margin, means.max() + margin) if span else (None, None)


def name_points(axis: Axes, named: Sequence[tuple[str, str, tuple[float, float]]]):
    """Writes names beside their points (name, colour, (x, y)), clear of the points and of each other. The axes' limits
    are final."""
    to_axes = lambda point: tuple(axis.transAxes.inverted().transform(axis.transData.transform(point)))     # 0..1
    spots = sorted(((name, colour, *to_axes(point)) for name, colour, point in named), key=lambda spot: -spot[3])
    taken = [(x - 0.015, x + 0.015, y) for _, _, x, y in spots]         # left, right, middle
    for name, colour, x, y in spots:
        # best a little above the point: the bars are level with it
        width, steps = LETTER * len(name), sorted(range(-15, 17), key=lambda k: abs(k - 1.1))
        places = [(left, left + width, y + k * LINE / 2) for k in steps for left in (x + 0.02, x - 0.02 - width)]
        inside = [p for p in places if 0 < p[0] and p[1] < 1 and 0.02 < p[2] < 0.98]
        clear = (p for p in inside if all(p[1] < t[0] or t[1] < p[0] or abs(p[2] - t[2]) >= 0.9 * LINE for t in taken))
        place = next(clear, places[0])
        taken.append(place)
        far = abs(place[2] - y) > LINE
        axis.annotate(name, (x, y), place[::2], "axes fraction", "axes fraction", fontsize=8, va="center", color=colour,
                      arrowprops={"arrowstyle": "-", "lw": 0.4, "color": GREY} if far else None)


def logarithmic(axis: Axes, along: str):
    """A logarithmic scale along "x" or "y", with plain numbers at 1, 2 and 5."""
    axis.set(**{f"{along}scale": "log"})
    ticks = {"x": axis.xaxis, "y": axis.yaxis}[along]
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter("{x:,g}")
    ticks.set_minor_locator(NullLocator())


def outside(axis: Axes, title: str = "", **place):
    """Moves the legend out of the axes, to the right."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(*axis.get_legend_handles_labels(), fontsize=8, title=title, title_fontsize=8, frameon=False,
                    **{"loc": "center left", "bbox_to_anchor": (1, 0.5)} | place)
