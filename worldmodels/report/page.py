"""One HTML page that needs nothing beside itself: pictures and films are inside it, no script, readable on a phone."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from PIL import Image

from worldmodels.files import write_atomic
from worldmodels.report.plots import Panel, sheet, side_by_side

SIZE = (4.6, 3.4)           # inches of a chart: its letters can still be read where it is as wide as a phone

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 0 16px 48px; font: 16px/1.5 system-ui, sans-serif;
       color: #202124; background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 24px 0 4px; }
h2 { font-size: 1.2rem; margin: 36px 0 8px; border-bottom: 1px solid #dadce0; padding-bottom: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 16px 0; font-size: .9rem; }
nav a { color: #1a73e8; }
p { margin: 6px 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 12px; }
.grid img { max-width: 560px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; max-width: 720px; align-items: start; }
img { display: block; width: 100%; height: auto; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; color: #5f6368; margin: 6px 0 2px; }
.pixels img { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: 4px 6px; border-bottom: 1px solid #e8eaed; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
details td { overflow-wrap: anywhere; }
th { font-weight: 600; color: #5f6368; }
details { margin: 4px 0; }
summary { cursor: pointer; padding: 4px 0; font-weight: 600; }
@media (max-width: 500px) { th, td { padding: 4px 3px; } table { font-size: .8rem; } }
"""


def write(path: Path, title: str, about: Iterable[str], sections: Iterable[tuple[str, str]]):
    """A page of sections (heading, HTML) below a title and some paragraphs of text."""
    sections = list(sections)
    body = "".join(f'<section id="{anchor(heading)}"><h2>{html.escape(heading)}</h2>{inner}</section>\n'
                   for heading, inner in sections)
    links = "".join(f'<a href="#{anchor(heading)}">{html.escape(heading)}</a>' for heading, _ in sections)
    head = "".join(f"<p>{html.escape(text)}</p>" for text in about)
    write_atomic(path, f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head>
<body><h1>{html.escape(title)}</h1>{head}
<nav aria-label="Contents">{links}</nav>
{body}</body></html>
""".encode())


def anchor(heading: str) -> str:
    """A heading as the name of its place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows of cells, the first of each on the left."""
    line = lambda tag, cells: "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
    return f"<table>{line('th', head) if head else ''}{''.join(line('td', row) for row in rows)}</table>"


def charts(panels: Iterable[Panel]) -> str:
    """Panels beside each other where there is room, else below each other."""
    return f'<div class="grid">{"".join(map(chart, panels))}</div>'


def chart(panel: Panel) -> str:
    picture, figure = io.BytesIO(), sheet([panel], size=SIZE)
    with rc_context({"svg.hashsalt": "the same chart is the same file"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return image(picture.getvalue(), "svg+xml", described(figure.axes[0]))


def described(axis: Axes) -> str:
    """A chart in words, for who cannot see it: its title, its axes, and what is drawn."""
    title, across, up = (" ".join(text.split()) for text in (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()))
    parts = [f"Chart: {title}", f"across: {across}" * bool(across), f"up: {up}" * bool(up)]
    drawn = ", ".join(axis.get_legend_handles_labels()[1])
    return "; ".join(filter(None, [*parts, f"shown: {drawn}" * bool(drawn)]))


def films(paths: dict[str, Path]) -> str:
    """Animated WebPs beside each other; what they are called says what they show."""
    figures = (figure(image(path.read_bytes(), "webp", name), name) for name, path in paths.items())
    return f'<div class="pair">{"".join(figures)}</div>'


def strip(rows: dict[str, np.ndarray], times: Sequence[int]) -> str:
    """Rows of frames [T, h, w, 3] uint8, of which those at `times` are shown side by side."""
    lines = []
    for name, frames in rows.items():
        picture = io.BytesIO()
        Image.fromarray(side_by_side(frames, times)).save(picture, "PNG")
        lines.append(figure(image(picture.getvalue(), "png", name), name))
    return f'<div class="pixels">{"".join(lines)}</div>'


def fold(summary: str, inner: str) -> str:
    """What is seen once it is asked for."""
    return f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"


def figure(inner: str, caption: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{inner}</figure>"


def image(data: bytes, kind: str, alternative: str) -> str:
    encoded, alt = base64.b64encode(data).decode(), html.escape(alternative, quote=True)
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{alt}">'
