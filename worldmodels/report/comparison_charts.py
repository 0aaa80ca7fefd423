"""Charts of world models compared, from the entries of comparison.py."""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from worldmodels.report.comparison import COSTS, EPISODES, groups, pool, predicted, returns
from worldmodels.report.plots import COLOURS as WORLDS
from worldmodels.report.plots import Panel, finish
from worldmodels.report.prediction import DONE_EDGES, DRAWS, FRAME_STEPS
from worldmodels.report.statistics import of_share

# the colour-blind can tell these apart (Paul Tol's "muted", and black); the markers help
COLOURS = ("#332288", "#cc6677", "#44aa99", "#882255", "#999933", "#117733", "#aa4499", "#000000", "#5fb0d9", "#cdb84b")
MARKERS = "osD^vP*Xhp"
GREY = WORLDS["random"]
LINE, LETTER = 0.057, 0.0135        # the size of a point's name, as a share of the axes
OPEN_LOOP = {       # titles and units of the errors
    "z_error_of_mean": (f"Error of the mean of {DRAWS} dreams", "root mean square error of z, in std"),
    "z_error": ("Error of single dreams", "root mean square error of z, in std"),
    "frame_error": ("Error of the frames of single dreams", "mean squared error, colours from 0 to 1")}

Styles = dict[str, dict[str, Any]]      # colour and marker of each name


def styles(entries: Sequence[dict]) -> Styles:
    """How each name is drawn. Charts of some of the entries take the styles of all."""
    return {name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            for i, name in enumerate(groups(entries))}


def chart(draw: Callable[..., None]) -> Callable[..., Panel]:
    """draw(axis, entries, ...) -> a function of (entries, ...) that makes a Panel."""
    return wraps(draw)(lambda *given, **named: lambda axis: draw(axis, *given, **named))


def each(entries: Sequence[dict], style: Styles | None) -> Iterator[tuple[str, list[dict], dict[str, Any]]]:
    """Every name with its entries and its style."""
    style = style or styles(entries)
    return ((name, group, style[name]) for name, group in groups(entries).items())


@chart
def one_step(axis: Axes, entries: Sequence[dict], style: Styles | None = None):
    """CRPS of the next z, beside that of an M that knows the next frame."""
    for y, (name, group, mark) in enumerate(each(entries, style)):
        for whose, shift, fill in (("random", -0.15, "white"), ("controller", 0.15, mark["color"])):
            mean, ci = (predicted(group, whose, "one_step", "crps", of) for of in ("mean", "ci95"))
            mean, half = pool(mean, np.ptp(ci.reshape(-1, 2), 1) / 2 if len(ci) == len(mean) else np.nan)
            axis.errorbar(mean, y + shift, xerr=half, ms=5, capsize=2, mfc=fill, **mark)
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
    for name, group, mark in each(entries, style):
        mean, half = pool(*(predicted(group, whose, "open_loop", key) for key in (score, f"{score}_half")))
        if np.ndim(mean):
            steps = FRAME_STEPS if frames else np.arange(1, len(mean) + 1)
            axis.fill_between(steps, mean - half, mean + half, color=mark["color"], alpha=0.12, lw=0)
            if frames:
                v = pool(predicted(group, whose, "one_step", "v_frame_error", "mean"))[0]
                steps, mean = (0.5, *steps), np.array([v, *mean])
            axis.plot(steps, mean, lw=1.5, ms=4, markevery=1 if frames else [k - 1 for k in FRAME_STEPS], label=name,
                      **mark)
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
    for name, group, mark in each(entries, style):
        expected, came, half, explained = (predicted(group, whose, "reward", key)
                                           for key in ("expected", "came", "half", "explained"))
        if len(came):
            excess, half = pool(came - expected, half)
            axis.errorbar(expected.mean(0), excess, half, lw=1, elinewidth=0.6, ms=4, ecolor=(mark["color"], 0.3),
                          label=f"{name}: {pool(explained)[0]:.2f}", **mark)
            shown.append((excess, half))
    axis.set_ylim(room(*zip(*shown)) if shown else None)
    axis.axhline(0, ls="--", lw=1, color=GREY)
    finish(axis, f"Is the expected reward right? {EPISODES[whose].capitalize()}", "reward that M expected of a step",
           "mean reward that came, less that (bars: 95%)")
    outside(axis, "variance explained")


@chart
def done_calibration(axis: Axes, entries: Sequence[dict], whose: str = "controller", style: Styles | None = None):
    """How often episodes ended where M gave that some probability."""
    for name, group, mark in each(entries, style):
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
                          ecolor=(mark["color"], 0.3), label=f"{name}: {loss:.4f}", **mark)
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
    for name, group, mark in each(entries, style):
        spread, error, rank = (predicted(group, whose, "uncertainty", key)
                               for key in ("spread", "error", "correlation"))
        if len(spread):
            axis.plot(spread.mean(0), error.mean(0), lw=1, ms=4, label=f"{name}: {pool(rank)[0]:.2f}", **mark)
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
    for name, group, mark in each(entries, style):
        (x, x_half), (y, y_half, _) = x_of(group), returns(group, "real")
        axis.errorbar(x, y, y_half, x_half, ms=6, lw=0.8, ecolor=(mark["color"], 0.4), **mark)
        if np.isfinite([x, y]).all():
            named.append((name, mark["color"], (x, y)))
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
