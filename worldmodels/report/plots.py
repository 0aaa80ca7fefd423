"""Pictures of a run: returns, dream against real, film strip, training curves, videos. Each is readable on its own.

A chart is a Panel, a function that draws it into matplotlib's axes: several make a sheet (the PNGs of a report, a
notebook's pictures), and each alone is a picture of the report's page, where a phone's screen has room for one.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from worldmodels.files import write_atomic
from worldmodels.report.scores import own_score, spread
from worldmodels.report.statistics import half_width, of_share
from worldmodels.report.verdict import PAPER, best_random

COLOURS = {"random": "#9aa0a6", "real": "#1a73e8", "dream": "#e8710a"}
WORLDS = {"real": "in the game", "dream": "in the dream"}

HEIGHT = 256            # pixels of a film's pictures
LETTERS = 10.5          # of a title, in an inch
EDGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)    # of the parts in which probabilities are compared with what came
GAP = 2                 # white pixels between the frames of a film strip
SOON = 8                # steps within which M is asked whether death comes

Panel = Callable[[Axes], None]


def sheet(panels: Sequence[Panel], title: str = "", columns: int = 2, size: tuple[float, float] = (5.5, 3.8)) -> Figure:
    """Panels beside and below each other, each of `size` inches."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((size[0] * columns, size[1] * rows + 0.4 * bool(title)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axis in zip(panels, axes):
        panel(axis)
    for axis in list(axes)[len(panels):]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=12)
    return figure


def save(figure: Figure, path: Path):
    """Writes a figure as a PNG, or whatever the path's ending says."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=110)
    write_atomic(path, picture.getvalue())


def finish(axis: Axes, title: str, x: str, y: str = "", legend: str = "best"):
    """What every chart has: a title, what its axes are, a grid, a legend."""
    width = axis.figure.get_figwidth() / axis.get_gridspec().ncols
    axis.set_title(textwrap.fill(title, int(LETTERS * width)), fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, loc=legend)


def colour(score: dict) -> str:
    return COLOURS["random" if score["controller"].startswith("random") else score["world"]]


def label(score: dict) -> str:
    tau = "" if score["temperature"] is None else f", tau {score['temperature']:g}"
    return f"{score['controller']}, {score['world']}{tau}: {spread(score)} ({score['episodes']} episodes)"


def error_bar(scores: Sequence[dict]) -> list[float]:
    """Half of each mean's interval; nan where there is none."""
    return [s["mean"] - s["ci95"][0] if s["ci95"] else np.nan for s in scores]


def intervals(scores: Sequence[dict]) -> Panel:
    """Every score's mean with its 95% interval."""
    def panel(axis: Axes):
        for y, s in enumerate(reversed(scores)):
            axis.errorbar(s["mean"], y, xerr=error_bar([s]), fmt="o", ms=5, capsize=3, color=colour(s))
            axis.annotate(f"{s['controller']}, {WORLDS[s['world']]}", (0.02, y + 0.28),
                          xycoords=("axes fraction", "data"), fontsize=8)
        axis.set_ylim(-0.6, len(scores) - 0.2)
        axis.set_yticks([])
        finish(axis, "Mean returns", "mean return, with its 95% interval")

    return panel


def returns(scores: Sequence[dict]) -> list[Panel]:
    """A histogram of real returns for each controller, with the mean and its 95% interval."""
    real = [s for s in scores if s["world"] == "real"]
    low, high = (f([f(s["returns"]) for s in real]) for f in (min, max))

    def histogram(s: dict, axis: Axes):
        axis.hist(s["returns"], bins=np.linspace(low, high + 1e-9, 41), color=colour(s), alpha=0.85)
        axis.axvspan(*s["ci95"] or (s["mean"],) * 2, color="black", alpha=0.15)
        axis.axvline(s["mean"], color="black", lw=1.5)
        finish(axis, label(s), "return in the game (line: mean; band: its 95% interval)", "episodes")

    return [partial(histogram, s) for s in real]


def dream_vs_real(scores: Sequence[dict]) -> list[Panel]:
    """For each policy scored in both worlds: the share of episodes that exceed a return, dream and real."""
    names = [n for n in dict.fromkeys(s["controller"] for s in scores)
             if {s["world"] for s in scores if s["controller"] == n} == {"real", "dream"}]

    def survival(name: str, axis: Axes):
        for s in (s for s in scores if s["controller"] == name):
            x = np.sort(s["returns"])
            axis.step(np.concatenate([[x[0]], x]), 1 - np.arange(len(x) + 1) / len(x), where="post",
                      color=COLOURS[s["world"]], label=f"{WORLDS[s['world']]}: mean {s['mean']:.0f}")
            axis.axvline(s["mean"], color=COLOURS[s["world"]], lw=1, ls=":")
        finish(axis, name, "return", "share of episodes above it")

    return [partial(survival, name) for name in names]


# its table 2: dream, real
PAPER_TAU = {0.1: (2086, 193), 0.5: (2060, 196), 1.0: (1145, 868), 1.15: (918, 1092), 1.3: (732, 753)}


def temperature(scores: Sequence[dict]) -> list[Panel]:
    """Returns in the dream and in the game of controllers evolved at each temperature, and the paper's beside them."""
    taus = sorted({s["evolved_at"] for s in scores})
    top = 1.05 * max(s["mean"] for s in scores)

    def here(axis: Axes):
        for world in ("dream", "real"):
            mine = [s for s in scores if s["world"] == world]
            axis.errorbar([taus.index(s["evolved_at"]) for s in mine], [s["mean"] for s in mine],
                          error_bar(mine), fmt="o", ms=5, capsize=3, color=COLOURS[world])
            means = [np.mean([s["mean"] for s in mine if s["evolved_at"] == tau]) for tau in taus]
            axis.plot(range(len(taus)), means, color=COLOURS[world], label=WORLDS[world])
        ticked(axis, taus, "here (bars: 95% interval of the mean)")

    def paper(axis: Axes):
        for column, world in enumerate(("dream", "real")):
            axis.plot(range(len(PAPER_TAU)), [row[column] for row in PAPER_TAU.values()], "o-", ms=5,
                      color=COLOURS[world], label=WORLDS[world])
        ticked(axis, PAPER_TAU, "the paper")

    def ticked(axis: Axes, ticks, title: str):
        axis.set_xticks(range(len(ticks)), [f"{tau:g}" for tau in ticks])
        axis.set_ylim(min(0, axis.get_ylim()[0]), max(top, axis.get_ylim()[1]))
        finish(axis, title, "temperature of the dream that the controller was evolved in", "mean return")

    return [here, paper] if scores[0]["task"] == "take_cover" else [here]


# means of 100 tracks of CarRacing: Ha & Schmidhuber's table 1; ctallec/world-models
PUBLISHED = {"z": {"the paper": 632}, "z, hidden layer": {"the paper": 788},
             "z and h": {"the paper": 906, "ctallec": 860}, "untrained M": {"ctallec": 870}}


def ablation(scores: Sequence[dict]) -> Panel:
    """Means in the game of controllers that see less, or have an untrained V or M, and those of others beside them."""
    published = PUBLISHED if scores[0]["task"] == "car_racing" else {}

    def draw(axis: Axes):
        rows = range(len(scores))
        axis.errorbar([s["mean"] for s in scores], rows, xerr=error_bar(scores), fmt="o", ms=6, capsize=3,
                      color=COLOURS["real"], label="here (bars: 95% interval of the mean)")
        for who, marker in (("the paper", "D"), ("ctallec", "s")):
            found = [(published[s["controller"]][who], row) for row, s in enumerate(scores)
                     if who in published.get(s["controller"], {})]
            if found:
                axis.plot(*zip(*found), marker, ms=6, mfc="none", color="#5f6368", label=who)
        axis.set_yticks(rows, [s["controller"] for s in scores])
        axis.invert_yaxis()
        finish(axis, "What the controller sees, and what is untrained", "mean return in the game")

    return draw


def curves(metrics: Sequence[dict]) -> list[Panel]:
    """Training curves of all three stages; those of V and M where they were trained jointly too."""
    charts = [("vision", ("squared_error", "kl"), "V: squared error and KL per image", "step"),
              ("memory", ("nll", "squared_error"), "M: likelihood or squared error, per dimension", "step"),
              ("memory", ("done", "reward_error"), "M: done and reward losses", "step"),
              ("controller", ("worst", "mean", "best", "mean_controller"), "C: fitness of a generation", "generation")]
    if any(row["stage"] == "behaviour" for row in metrics):
        charts[-1] = "behaviour", ("return", "spread"), "C: imagined returns, and their spread", "step"

    def curve(stage: str, names: Sequence[str], title: str, unit: str, axis: Axes):
        for name in names:
            keys = {stage: name, "joint": f"memory {name}" if stage == "memory" else name}
            points = [(row["step"], row[keys[row["stage"]]]) for row in metrics if keys.get(row["stage"]) in row]
            if points:
                axis.plot(*zip(*points), label=name.replace("_", " "), lw=1.4, marker="o" if len(points) < 40 else None,
                          ms=3)
        if stage == "memory" and "done" in names or stage == "vision":
            axis.set_yscale("log")
        finish(axis, title, unit)

    return [partial(curve, *chart) for chart in charts]


def sim_to_real_gap(found, scores: Sequence[dict], repeat: int) -> list[Panel]:
    """Where a dream and the game part (sim_to_real_gap.SimToRealGap; scores of one controller; game frames a step)."""
    deaths = np.isfinite(found.left).any()
    steps = np.arange(1, len(found.error) + 1)
    dreamt = f"steps dreamt ({repeat} frames of the game each)"

    def reward(axis: Axes):
        for row, world in zip(found.reward, ("real", "dream")):
            axis.plot(steps, row, color=COLOURS[world], label=WORLDS[world])
        finish(axis, "Mean reward, given the same start and actions", dreamt)

    def drift(axis: Axes):
        axis.plot(steps, found.error, color="black", label="between game and dream")
        axis.plot(steps, found.spread, color=COLOURS["dream"], label="between two dreams")
        title = "Distance of dream and game, from one start, given the same actions: a right M keeps both alike"
        finish(axis, title, dreamt,
               "distance in z (root mean square)")

    if not deaths:
        return [reward, drift]
    soon = calibration((found.lived <= SOON).mean(1), found.left <= SOON,
                       f"Is M right about death within {SOON} steps?", "share of dreams that died")
    return [partial(_death_rates, scores), partial(_foresight, found), soon, drift]


def _death_rates(scores: Sequence[dict], axis: Axes):
    edges = np.linspace(0, max(max(s["returns"]) for s in scores), 15)
    for s in scores:
        returns = np.array(s["returns"])[:, None]
        at_risk = (returns > edges[:-1]).sum(0)
        died = ((returns > edges[:-1]) & (returns <= edges[1:])).sum(0)
        shown = np.flatnonzero(at_risk[:-1] >= 10)      # the last piece ends with the clock, not with deaths
        share = died[shown] / at_risk[shown]
        axis.plot(edges[shown], share, "o-", ms=3, color=COLOURS[s["world"]], label=WORLDS[s["world"]])
        axis.fill_between(edges[shown], *of_share(share, at_risk[shown]), color=COLOURS[s["world"]], alpha=0.15, lw=0)
    axis.set_ylim(bottom=0)
    finish(axis, f"Share of those alive that die within the next {edges[1]:.0f} frames (bands: 95%)",
           "frames survived so far")


def _foresight(found, axis: Axes):
    steps = np.array(sorted(found.before))
    within = lambda lived: [(lived <= k + 2).mean() for k in steps]
    axis.plot(steps, [found.before[k] for k in steps], "o-", ms=3, color="black",
              label="dreams begun so long before a death")
    axis.plot(steps, within(found.lived), "o-", ms=3, color=COLOURS["dream"], label="dreams begun at any moment")
    axis.plot(steps, within(found.left), "o-", ms=3, color=COLOURS["real"], label="the game, from any moment")
    axis.set_ylim(bottom=0)
    finish(axis, "Does M see death coming?", "steps k before the death", "share that dies within two steps of then")


def calibration(foretold: np.ndarray, happened: np.ndarray, title: str, x: str) -> Panel:
    """Probabilities [N] against what happened [N], in parts that EDGES cut, those of fewer than 10 added to the part
    before."""
    def panel(axis: Axes):
        order, parts = foretold.argsort(), []
        for part in np.split(order, np.searchsorted(foretold[order], EDGES)):
            if parts and len(part) < 10:
                parts[-1] = np.concatenate([parts[-1], part])
            elif len(part):
                parts.append(part)
        for part in parts:
            at, share = foretold[part].mean(), happened[part].mean()
            low, high = of_share(share, len(part))
            axis.errorbar(at, share, [[share - low], [high - share]], fmt="o", ms=4, capsize=3, color="black")
            axis.annotate(f"{len(part):,}", (at, high), (0, 3), textcoords="offset points", ha="center", va="bottom",
                          rotation=90, fontsize=7)
        top = max(0.2, *axis.get_xlim(), *axis.get_ylim())
        axis.plot([0, top], [0, top], ls="--", color=COLOURS["random"],
                  label="where it would be right (numbers: moments)")
        axis.set_ylim(top=1.2 * top)
        finish(axis, title, x, "how often it happened, with its 95% interval", "upper left")

    return panel


def calibrated_reward(foretold: np.ndarray, got: np.ndarray) -> Panel:
    """Rewards [N] that M expected against those that came [N], in twenty parts of equally many."""
    def panel(axis: Axes):
        parts = np.array_split(foretold.argsort(), min(20, len(foretold)))
        x, y = (np.array([values[part].mean() for part in parts]) for values in (foretold, got))
        axis.errorbar(x, y, [half_width(got[part]) if np.ptp(got[part]) else np.nan for part in parts], fmt="o", ms=4,
                      capsize=3, color="black")
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axis.plot(ends, ends, ls="--", color=COLOURS["random"], label="where it would be right")
        finish(axis, "Reward of a step", "expected by M", "mean that came, with its 95% interval", "upper left")

    return panel


def controllers(returns: dict[str, np.ndarray], groups: dict[str, tuple[slice, str]]) -> Panel:
    """Whether the dream tells good controllers from bad: returns [P, E] of P controllers in the "dream" and in the
    "real" game; groups of these by name, with a colour."""
    def panel(axis: Axes):
        x, y = (returns[world].mean(1) for world in ("dream", "real"))
        for name, (group, colour) in groups.items():
            axis.errorbar(x[group], y[group], half_width(returns["real"][group]), half_width(returns["dream"][group]),
                          fmt="o", ms=4, lw=0.8, color=colour, label=name)
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axis.plot(ends, ends, ls="--", color="black", lw=0.8, label="where the dream would be right")
        correlation, episodes = np.corrcoef(x, y)[0, 1], returns["real"].shape[1]
        finish(axis, f"{len(x)} controllers, {episodes} episodes each: correlation {correlation:.2f}",
               "mean return in the dream", "mean return in the game (bars: 95%)", "lower right")

    return panel


def evolution(generations: np.ndarray, returns: dict[str, np.ndarray], world: str) -> Panel:
    """Returns [P, E] in the "dream" and in the "real" game of the means that an evolution in `world` had at these
    generations [P]."""
    def panel(axis: Axes):
        for where, name in WORLDS.items():
            axis.errorbar(generations, returns[where].mean(1), half_width(returns[where]), fmt="o-", ms=4, capsize=3,
                          color=COLOURS[where], label=name)
        finish(axis, f"The mean of the evolution, which went on {WORLDS[world]}", "generation",
               "mean return, with its 95% interval")

    return panel


def generations(fitness: Sequence[np.ndarray]) -> Panel:
    """How an evolution goes on: the fitness of each generation's members."""
    def panel(axis: Axes):
        x = range(1, len(fitness) + 1)
        axis.plot(x, [members.mean() for members in fitness], color=COLOURS["dream"], label="mean of a generation")
        axis.fill_between(x, [members.min() for members in fitness], [members.max() for members in fitness],
                          color=COLOURS["dream"], alpha=0.2, label="worst to best")
        finish(axis, f"{len(fitness)} generations of {len(fitness[0])} controllers", "generation",
               "return in the dream", "upper left")

    return panel


def warmer(dreams: dict[float, np.ndarray], game: dict, own: float) -> Panel:
    """One controller's returns [E] in dreams of each temperature, beside its score in the game; `own`: that which it
    evolved in."""
    def panel(axis: Axes):
        axis.errorbar(dreams.keys(), [returns.mean() for returns in dreams.values()],
                      [half_width(returns) for returns in dreams.values()], fmt="o-", ms=4, capsize=3,
                      color=COLOURS["dream"], label=WORLDS["dream"])
        axis.axhspan(*game["ci95"] or (game["mean"],) * 2, color=COLOURS["real"], alpha=0.3,
                     label="in the game, 95% interval")
        axis.axvline(own, color="black", ls=":", label="the run's own tau")
        finish(axis, "The same controller in colder and warmer dreams", "temperature (tau) of the dream",
               "mean return, with its 95% interval")

    return panel


def rounds(history: Sequence[tuple[float, Sequence[dict]]]) -> list[Panel]:
    """What each round of collecting and training added: (minutes since the beginning, scores) of each."""
    def panel(axis: Axes):
        minutes = [at for at, _ in history]
        for world in ("real", "dream"):
            mine = [own_score(scores, world) for _, scores in history]
            axis.errorbar(minutes, [s["mean"] for s in mine], error_bar(mine), fmt="o-", ms=5, capsize=3,
                          color=COLOURS[world], label=f"controller, {WORLDS[world]}")
        best = best_random(history[0][1])
        axis.axhline(best["mean"], color=COLOURS["random"], ls="--", label=f"{best['controller']}, in the game")
        if best["task"] in PAPER:
            axis.axhline(PAPER[best["task"]].mean, color="black", lw=1, ls=":",
                         label="the paper's controller, in the game")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        finish(axis, "After each round", "minutes of collecting and training", "mean return, with its 95% interval")

    return [panel]


def side_by_side(frames: np.ndarray, times: Sequence[int]) -> np.ndarray:
    """Of frames [T, h, w, 3] uint8 those at `times`, in one picture, GAP white pixels to the right of each."""
    return np.concatenate([np.pad(frames[t], ((0, 0), (0, GAP), (0, 0)), constant_values=255) for t in times], 1)


def film_strip(rows: dict[str, np.ndarray], times: Sequence[int], title: str, labels: Sequence[str] = ()) -> Figure:
    """Frames [T, h, 64, 3] uint8 below each other, one row for each kind, one column for each time, named by `labels`
    or as a step."""
    lines = [np.pad(side_by_side(frames, times), ((0, GAP), (0, 0), (0, 0)), constant_values=255)
             for frames in rows.values()]
    heights, width = [len(line) for line in lines], lines[0].shape[1] / len(times)
    size = 1.2 * len(times) + 0.1 * max(map(len, rows)), 1.2 * sum(heights) / width + 0.6
    figure = Figure(size, layout="compressed")
    axis = figure.subplots()
    axis.imshow(np.concatenate(lines))
    axis.set_xticks((np.arange(len(times)) + 0.5) * width, labels or [f"step {t}" for t in times], fontsize=8)
    axis.set_yticks(np.cumsum(heights) - np.divide(heights, 2), rows, fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def video(frames: np.ndarray, path: Path, fps: float, caption: str, ended: str, length: int, stride: int = 1):
    """A looping WebP of frames [T, h, w, 3] uint8, every `stride`-th of an episode, HEIGHT pixels high and captioned.
    The last one stands, with how the episode `ended`, until there are `length` of them: films of a length are in
    step."""
    pictures = []
    for t in range(length):
        frame = frames[min(t, len(frames) - 1)]
        nearest = cv2.INTER_NEAREST if len(frame) < HEIGHT else cv2.INTER_AREA
        large = cv2.resize(frame, (round(HEIGHT / len(frame) * frame.shape[1]), HEIGHT), interpolation=nearest)
        large = cv2.copyMakeBorder(large, 28, 0, 0, 0, cv2.BORDER_CONSTANT)
        text = f"{caption}: {ended}" if t >= len(frames) - 1 else f"{caption}, frame {t * stride}"
        cv2.putText(large, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        pictures.append(large)
    film(pictures, path, fps)


def film(pictures: Sequence[np.ndarray], path: Path, fps: float):
    """A looping WebP of pictures [h, w, 3] uint8."""
    first, *others = map(Image.fromarray, pictures)
    data = io.BytesIO()
    first.save(data, format="WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=60,
               method=2)
    write_atomic(path, data.getvalue())
