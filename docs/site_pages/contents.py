"""The order of the pages, the address of the front page, and the page to play in."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PAGES = {
    "Learn": ["docs/training", "docs/architecture", "docs/family", "notebooks/*"],
    "Results": ["docs/results", "docs/performance", "docs/fidelity", "docs/gallery", "docs/experiments"],
    "Use": ["docs/extending", "docs/cluster", "docs/faults", "data/README", "docs/play/README"],
    "Reference": ["docs/api/index", "CHANGELOG", "CONTRIBUTING"],
}
PLAY = Path("docs/play")
FROM_ELSEWHERE = re.compile(r"<(?:script|img|link\b[^>]*stylesheet)[^>]*https?://")
REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>World Models</title>
<meta http-equiv="refresh" content="0; url={page}">
<a href="{page}">World Models</a>
"""


def add_contents(app: Sphinx, docname: str, source: list[str]):
    """Behind the README a tree of the pages that there are; on the page about playing a way to play."""
    if docname == app.config.root_doc:
        source[0] += "".join(toctree(Path(app.srcdir), title, pages) for title, pages in PAGES.items())
    if docname == (PLAY / "README").as_posix() and playable(Path(app.srcdir)):
        source[0] = source[0].replace("\n\n", "\n\n**[Play in your browser](index.html)**\n\n", 1)


def toctree(root: Path, title: str, pages: list[str]) -> str:
    found = [page for page in pages if "*" in page or any(root.glob(f"{page}.*"))]
    lines = ["\n\n```{toctree}", ":hidden:", ":glob:", f":caption: {title}", "", *found, "```\n"]
    return "\n".join(lines)


def playable(root: Path) -> bool:
    """Whether `make play` has built the page that needs no server."""
    return (root / PLAY / "runs.json").exists()


def finish(app: Sphinx, error: Exception | None):
    if error is None:
        index = REDIRECT.format(page=app.builder.get_target_uri(app.config.root_doc))
        (Path(app.outdir) / "index.html").write_text(index)
        if fetching := [page for page in Path(app.outdir).rglob("*.html") if FROM_ELSEWHERE.search(page.read_text())]:
            raise ExtensionError(f"these need a network: {', '.join(map(str, fetching))}")
        if playable(Path(app.srcdir)):
            shutil.copytree(Path(app.srcdir) / PLAY, Path(app.outdir) / PLAY, dirs_exist_ok=True)


def setup(app: Sphinx):
    app.connect("source-read", add_contents)
    app.connect("build-finished", finish)
