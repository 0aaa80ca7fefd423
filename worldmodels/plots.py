"""Pictures of a run: returns, dream against real, film strip, training curves, videos. Each is readable on its own."""

import io
from pathlib import Path
from typing import Sequence

import cv2
import matplotlib
import numpy as np
from PIL import Image

from worldmodels.files import write_atomic

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"random": "#9aa0a6", "real": "#1a73e8", "dream": "#e8710a"}


def save(figure, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def colour(score: dict) -> str:
    return COLOURS["random" if score["controller"].startswith("random") else score["world"]]


def label(score: dict) -> str:
    tau = "" if score["temperature"] is None else f", tau {score['temperature']:g}"
    return f"{score['controller']}, {score['world']}{tau}: {score['mean']:.0f} ± {score['std']:.0f} ({score['episodes']} episodes)"


def returns(scores: Sequence[dict], path: Path):
    """A histogram of real returns for each controller, one below the other, with the mean and its 95% interval."""
    real = [s for s in scores if s["world"] == "real"]
    figure, axes = plt.subplots(len(real), 1, figsize=(8, 1.9 * len(real) + 0.6), sharex=True, squeeze=False)
    low, high = (f([f(s["returns"]) for s in real]) for f in (min, max))
    for axis, s in zip(axes[:, 0], real):
        axis.hist(s["returns"], bins=np.linspace(low, high + 1e-9, 41), color=colour(s), alpha=0.85)
        axis.axvspan(*s["ci95"], color="black", alpha=0.15)
        axis.axvline(s["mean"], color="black", lw=1.5)
        axis.set_title(label(s), fontsize=10, loc="left")
        axis.set_ylabel("episodes")
    axes[-1, 0].set_xlabel("return of an episode in the real game (line: mean; band: its 95% interval)")
    figure.suptitle(f"{real[0]['env_id']}: returns in the real game", fontsize=12)
    figure.tight_layout()
    save(figure, path)


def dream_vs_real(scores: Sequence[dict], path: Path):
    """For each policy scored in both worlds: the share of episodes that exceed a return, dream and real."""
    names = [n for n in dict.fromkeys(s["controller"] for s in scores)
             if {s["world"] for s in scores if s["controller"] == n} == {"real", "dream"}]
    figure, axes = plt.subplots(1, len(names), figsize=(5.5 * len(names), 4), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        for s in (s for s in scores if s["controller"] == name):
            x = np.sort(s["returns"])
            axis.step(np.concatenate([[x[0]], x]), 1 - np.arange(len(x) + 1) / len(x), where="post",
                      color=COLOURS[s["world"]], label=f"{s['world']}: mean {s['mean']:.0f}")
            axis.axvline(s["mean"], color=COLOURS[s["world"]], lw=1, ls=":")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("return")
        axis.legend(fontsize=9)
    axes[0, 0].set_ylabel("share of episodes above it")
    figure.suptitle("Does the dream predict the game? The closer the two curves, the better", fontsize=12)
    figure.tight_layout()
    save(figure, path)


PAPER_TAU = {0.1: (2086, 193), 0.5: (2060, 196), 1.0: (1145, 868), 1.15: (918, 1092), 1.3: (732, 753)}    # its table 2: dream, real
PAPER_SCORE = {"car_racing": 906, "take_cover": 1092}           # its tables 1 and 2


def temperature(scores: Sequence[dict], path: Path):
    """Returns in the dream and in the game of controllers evolved at each temperature, and the paper's beside them."""
    panels = 1 + (scores[0]["task"] == "take_cover")
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels + 1, 4.2), sharey=True, squeeze=False)
    taus, axes = sorted({s["evolved_at"] for s in scores}), axes[0]
    for column, world in enumerate(("dream", "real")):
        mine = [s for s in scores if s["world"] == world]
        axes[0].errorbar([taus.index(s["evolved_at"]) for s in mine], [s["mean"] for s in mine],
                         [s["mean"] - s["ci95"][0] for s in mine], fmt="o", ms=5, capsize=3, color=COLOURS[world])
        means = [np.mean([s["mean"] for s in mine if s["evolved_at"] == tau]) for tau in taus]
        axes[0].plot(range(len(taus)), means, color=COLOURS[world], label=f"in the {'game' if world == 'real' else world}")
        for axis in axes[1:]:
            axis.plot(range(len(PAPER_TAU)), [row[column] for row in PAPER_TAU.values()], "o-", ms=5, color=COLOURS[world])
    for axis, title, ticks in zip(axes, ("here (bars: 95% interval of the mean)", "the paper"), (taus, PAPER_TAU)):
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(ticks)), [f"{tau:g}" for tau in ticks])
        axis.set_xlabel("temperature of the dream in which the controller was evolved")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("mean return")
    axes[0].legend(fontsize=9)
    figure.suptitle("A dream that is too certain is exploited: high returns there, low ones in the game", fontsize=12)
    figure.tight_layout()
    save(figure, path)


def curves(metrics: Sequence[dict], path: Path):
    """Training curves of all three stages."""
    panels = [("vision", ("squared_error", "kl"), "V: squared error and KL per image", "step"),
              ("memory", ("nll",), "M: negative log-likelihood per dimension", "step"),
              ("memory", ("done", "reward_error"), "M: done and reward losses", "step"),
              ("controller", ("worst", "mean", "best", "mean_controller"), "C: fitness of a generation", "generation")]
    figure, axes = plt.subplots(2, 2, figsize=(11, 7))
    for axis, (stage, names, title, unit) in zip(axes.flat, panels):
        rows = [row for row in metrics if row["stage"] == stage]
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points), label=name.replace("_", " "), lw=1.4, marker="o" if len(points) < 40 else None, ms=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
        if stage == "memory" and "done" in names or stage == "vision":
            axis.set_yscale("log")
    figure.tight_layout()
    save(figure, path)


def transfer(found, scores: Sequence[dict], repeat: int, path: Path):
    """Where a dream and the game part (transfer.Transfer; scores of one controller, the game's first; game frames a step)."""
    deaths = np.isfinite(found.left).any()
    figure, axes = plt.subplots(2, 2, figsize=(11, 8)) if deaths else plt.subplots(1, 2, figsize=(11, 4))
    drift, *others = axes.flat[::-1]
    steps = np.arange(1, len(found.error) + 1)
    drift.plot(steps, found.error, color="black", label="between game and dream")
    drift.plot(steps, found.spread, color=COLOURS["dream"], label="between two dreams")
    drift.set_title("Drift: the same start and actions. A right M keeps both as far apart", fontsize=10)
    drift.set_xlabel("steps dreamt")
    drift.set_ylabel("distance in z (root mean square)")
    if deaths:
        _death_rates(others[2], scores)
        _foresight(others[1], found)
        _calibration(others[0], found)
    else:
        for row, world in zip(found.reward, ("real", "dream")):
            others[0].plot(steps, row, color=COLOURS[world], label="in the game" if world == "real" else "in the dream")
        others[0].set_title("Mean reward, given the same start and actions", fontsize=10)
        others[0].set_xlabel("steps dreamt")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    figure.suptitle(f"Where dream and game part: {scores[0]['controller']} ({repeat} frames of the game a step)", fontsize=12)
    figure.tight_layout()
    save(figure, path)


def _death_rates(axis, scores: Sequence[dict]):
    edges = np.linspace(0, max(max(s["returns"]) for s in scores), 15)
    for s in scores:
        returns = np.array(s["returns"])
        at_risk = (returns[:, None] > edges[:-1]).sum(0)
        died = ((returns[:, None] > edges[:-1]) & (returns[:, None] <= edges[1:])).sum(0)
        shown = (at_risk >= 10)[:-1]                    # the last piece ends with the clock, not with deaths
        axis.plot(edges[1:-1][shown], (died / np.maximum(at_risk, 1))[:-1][shown], "o-", ms=3, color=COLOURS[s["world"]],
                  label="in the game" if s["world"] == "real" else "in the dream")
    axis.set_title(f"Share of those alive that die within {edges[1]:.0f} of return", fontsize=10)
    axis.set_xlabel("return so far")
    axis.set_ylim(bottom=0)


def _foresight(axis, found):
    steps = np.array(sorted(found.before))
    within = lambda lived: [(lived <= k + 2).mean() for k in steps]
    axis.plot(steps, [found.before[k] for k in steps], "o-", ms=3, color="black", label="dreams begun so long before a death")
    axis.plot(steps, within(found.lived), "o-", ms=3, color=COLOURS["dream"], label="dreams begun at any moment")
    axis.plot(steps, within(found.left), "o-", ms=3, color=COLOURS["real"], label="the game, from any moment")
    axis.set_title("Does M see death coming?", fontsize=10)
    axis.set_xlabel("steps k before the death")
    axis.set_ylabel("share that dies within k + 2 steps")
    axis.set_ylim(bottom=0)


def _calibration(axis, found):
    soon = 8
    foretold, happened = (found.lived <= soon).mean(1), found.left <= soon
    bins = np.digitize(foretold, [0.01, 0.1, 0.2, 0.3, 0.5])
    for b in np.unique(bins):
        mine = bins == b
        n, x, y = mine.sum(), foretold[mine].mean(), happened[mine].mean()
        centre, half = (y + 1.92 / n) / (1 + 3.84 / n), 1.96 * np.sqrt(y * (1 - y) / n + 0.96 / n**2) / (1 + 3.84 / n)    # Wilson 1927
        axis.errorbar(x, y, [[y - centre + half], [centre + half - y]], fmt="o", ms=4, capsize=3, color="black")
        axis.annotate(f" {n}", (x, y), fontsize=8)
    top = max(0.2, *axis.get_xlim(), *axis.get_ylim())
    axis.plot([0, top], [0, top], ls="--", color=COLOURS["random"], label="where it would be right (numbers: moments)")
    axis.set_title(f"Is M right about death within {soon} steps?", fontsize=10)
    axis.set_xlabel("share of dreams that died")
    axis.set_ylabel("share of the game's moments")


def rounds(history: Sequence[tuple[float, Sequence[dict]]], path: Path):
    """What each round of collecting and training added: (minutes since the beginning, scores) of each."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    minutes = [at for at, _ in history]
    for world in ("real", "dream"):
        mine = [next(s for s in scores if s["world"] == world and s["controller"].startswith("controller")) for _, scores in history]
        axis.errorbar(minutes, [s["mean"] for s in mine], [s["mean"] - s["ci95"][0] for s in mine], fmt="o-", ms=5, capsize=3,
                      color=COLOURS[world], label=f"controller, {'game' if world == 'real' else 'dream'}")
    best = max((s for s in history[0][1] if s["world"] == "real" and s["controller"].startswith("random")), key=lambda s: s["mean"])
    axis.axhline(best["mean"], color=COLOURS["random"], ls="--", label=f"{best['controller']}, game")
    if best["task"] in PAPER_SCORE:
        axis.axhline(PAPER_SCORE[best["task"]], color="black", lw=1, ls=":", label="the paper's controller, game")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.set_xlabel("minutes of collecting and training")
    axis.set_ylabel("mean return, with its 95% interval")
    axis.set_title("After each round", fontsize=11)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    figure.tight_layout()
    save(figure, path)


def film_strip(rows: dict[str, np.ndarray], times: Sequence[int], path: Path, title: str):
    """Frames [T, 64, 64, 3] below each other, one row for each kind, one column for each time."""
    figure, axes = plt.subplots(len(rows), len(times), figsize=(1.15 * len(times) + 1, 1.2 * len(rows) + 0.7), squeeze=False)
    for line, (name, frames) in zip(axes, rows.items()):
        for axis, t in zip(line, times):
            axis.imshow(frames[t])
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    for axis, t in zip(axes[0], times):
        axis.set_title(f"step {t}", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.subplots_adjust(wspace=0.05, hspace=0.05, top=0.82)
    save(figure, path)


def video(frames: np.ndarray, path: Path, fps: float, caption: str, stride: int = 1):
    """A looping gif of frames [T, h, w, 3] uint8, every `stride`-th of an episode, enlarged to at least 240 rows and captioned."""
    factor = max(1, -(-240 // frames.shape[1]))
    pictures = []
    for t, frame in enumerate(frames):
        large = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        large = cv2.copyMakeBorder(large, 28, 0, 0, 0, cv2.BORDER_CONSTANT)
        cv2.putText(large, f"{caption}  frame {t * stride}", (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        pictures.append(Image.fromarray(large).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    gif = io.BytesIO()
    pictures[0].save(gif, format="GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)
    write_atomic(path, gif.getvalue())
