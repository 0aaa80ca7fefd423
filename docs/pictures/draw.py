"""Draws architecture.svg and layers.svg, the pictures of docs/architecture.md: python docs/pictures/draw.py

Both stand on a light panel of their own, and so are readable on a page of either colour scheme.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.test_layering import LAYERS  # noqa: E402

INK, GREY, LINE = "#1f2933", "#5b6770", "#7b8794"
COLOURS = {"game": "#e4e7eb", "V": "#d3e8fb", "M": "#dcefdc", "C": "#fdebc8", "search": "#f3dcec"}
ABOUT = {
    "errors": "mistakes that end in one line",
    "types": "the seams: State, Memory, Policy, World, Executor",
    "files": "arrays and JSON on disk", "commandline": "settings as options",
    "metrics": "training curves and their writers",
    "runs": "a run's folder, seeds", "episodes": "recorded episodes",
    "latents": "encoded episodes", "training": "one training loop, with resume",
    "envs": "games as tasks: TASKS",
    "executors": "where jobs run: EXECUTORS",
    "vision": "V: VISIONS",
    "memory": "M: MEMORIES; unroll, the loop over imagination",
    "controller": "C: CONTROLLERS and LEARNERS",
    "agent": "V, M and C of a run",
    "worlds": "dream, game; rollout, the loop over worlds; gym",
    "report": "scores, plots, the page",
    "play": "in a window", "web": "in the browser", "export": "as ONNX",
    "pipeline": "the stages as commands, presets",
}


def text(x: float, y: float, words: str, size: int = 16, anchor: str = "middle", colour: str = INK,
         weight: str = "normal") -> str:
    """A line of text; what stands in _{} is set lower."""
    plain, *rest = re.split(r"_\{(.+?)\}", words)
    for low, behind in zip(rest[::2], rest[1::2]):
        plain += f'<tspan dy="4" font-size="{size * 0.72:.0f}">{low}</tspan>'
        plain += f'<tspan dy="-4">{behind}</tspan>' if behind else ""
    return (f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" '
            f'xml:space="preserve">{plain}</text>')


def box(x: float, y: float, width: float, height: float, colour: str, title: str, *lines: str) -> str:
    """A rectangle with a title and smaller lines, in its middle."""
    rows = [(title, 17, "bold", INK), *((line, 14, "normal", GREY) for line in lines)]
    first = y + height / 2 - 10 * (len(rows) - 1) + 6
    words = (text(x + width / 2, first + 20 * i, row, size, colour=ink, weight=weight)
             for i, (row, size, weight, ink) in enumerate(rows))
    return (f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" stroke="{LINE}"/>'
            + "".join(words))


def arrow(*points: tuple[float, float]) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.6" marker-end="url(#head)"/>'


def panel(x: float, y: float, width: float, height: float, title: str) -> str:
    return (f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="#f8fafc" stroke="#cbd2d9"/>'
            + text(x + 16, y + 27, title, 17, "start", GREY, "bold"))


def picture(width: int, height: int, title: str, about: str, *parts: str) -> str:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img" aria-labelledby="title about" font-family="system-ui, 'DejaVu Sans', Arial, sans-serif">
<title id="title">{title}</title>
<desc id="about">{about}</desc>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0 10 5 0 10z" fill="{INK}"/></marker></defs>
<rect width="{width}" height="{height}" rx="14" fill="#ffffff"/>
{chr(10).join(parts)}
</svg>
"""


def architecture() -> str:
    game = [
        panel(20, 20, 820, 290, "In the game"),
        box(45, 130, 110, 74, COLOURS["game"], "Game"),
        box(290, 130, 120, 74, COLOURS["V"], "V", "encoder"),
        box(500, 130, 110, 74, COLOURS["M"], "M", "LSTM"),
        box(720, 130, 100, 74, COLOURS["C"], "C", "linear"),
        arrow((155, 167), (288, 167)), text(220, 158, "frame x_{t}"), text(220, 190, "64 × 64 × 3", 14, colour=GREY),
        arrow((410, 167), (498, 167)), text(453, 158, "z_{t}"), text(453, 190, "32 or 64", 14, colour=GREY),
        arrow((610, 167), (718, 167)), text(663, 158, "h_{t}"), text(663, 190, "256 or 512", 14, colour=GREY),
        arrow((350, 130), (350, 92), (770, 92), (770, 128)), text(560, 84, "z_{t}"),
        arrow((770, 204), (770, 262), (100, 262), (100, 206)),
        arrow((555, 262), (555, 206)), text(335, 253, "action a_{t}"),
        text(335, 284, "1 number (TakeCover) or 3 (CarRacing)", 14, colour=GREY),
        text(567, 240, "for h_{t+1}", 14, "start", GREY)]
    dream = [
        panel(20, 330, 820, 320, "In the dream: M alone, no frame, no game"),
        box(60, 460, 120, 74, COLOURS["M"], "M", "LSTM"),
        box(280, 432, 320, 130, COLOURS["M"], "What may come next", "z_{t+1} drawn from 5 Gaussians a dimension,",
            "wider at a higher temperature", "reward r_{t}", "P(done_{t}): whether the dream ends"),
        box(720, 460, 100, 74, COLOURS["C"], "C", "linear"),
        arrow((180, 497), (278, 497)), text(228, 488, "h_{t+1}"),
        arrow((600, 497), (718, 497)), text(658, 488, "z_{t+1}, h_{t+1}"),
        arrow((440, 432), (440, 396), (120, 396), (120, 458)), text(280, 388, "z_{t+1} is M's next input"),
        arrow((770, 534), (770, 606), (120, 606), (120, 536)), text(440, 597, "action a_{t+1}")]
    search = [
        box(880, 130, 110, 404, COLOURS["search"], "CMA-ES", "64 members", "a generation", "(the paper)"),
        arrow((880, 150), (822, 150)), text(860, 124, "W, b", 14),
        arrow((880, 514), (822, 514)), text(860, 548, "W, b", 14),
        arrow((840, 240), (878, 240)), arrow((840, 420), (878, 420)),
        text(935, 412, "return of an", 13, colour=GREY), text(935, 428, "episode", 13, colour=GREY),
        text(935, 232, "return of an", 13, colour=GREY), text(935, 248, "episode", 13, colour=GREY)]
    about = ("In the game: a frame of 64 by 64 by 3 goes through V's encoder to z, z goes to M and to C, M's h to C, "
             "C's action to the game and to M. In the dream: M's h gives the next z, the reward and the probability of "
             "the end; z and h go to C, the action and z back to M. CMA-ES gives C its weights, and gets the returns.")
    return picture(1010, 670, "How a frame becomes an action", about, *game, *dream, *search)


def layers() -> str:
    parts, y = [], 44
    colours = {"vision": "V", "memory": "M", "controller": "C", "envs": "game"}
    for layer in reversed(LAYERS):
        names = sorted(layer)
        width = 860 / len(names)
        for i, name in enumerate(names):
            x, fill = 70 + i * width, COLOURS.get(colours.get(name), "#f1f5f9")
            parts += [f'<rect x="{x}" y="{y}" width="{width - 6}" height="32" rx="6" fill="{fill}" stroke="#cbd2d9"/>',
                      text(x + 12, y + 21, name, 15, "start", weight="bold"),
                      text(x + 136, y + 21, ABOUT[name], 14, "start", GREY)]
        y += 38
    imports = text(28, y / 2, "imports", 14)
    arrows = [arrow((42, 52), (42, y - 14)), f'<g transform="rotate(-90 28 {y / 2})">{imports}</g>']
    title = text(70, 30, "A module imports from the layers below its own", 15, "start", GREY)
    about = "From the top: " + "; ".join(" and ".join(sorted(layer)) for layer in reversed(LAYERS))
    return picture(950, y + 12, "The layers of the code", about, title, *parts, *arrows)


if __name__ == "__main__":
    (HERE / "architecture.svg").write_text(architecture())
    (HERE / "layers.svg").write_text(layers())
