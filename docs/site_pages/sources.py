"""Links to the repository's files: each text that is linked has a page here, each folder a list of what it has."""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

from site_pages.contents import PLAY, playable

ROOT = Path(__file__).parents[2]
FOLDER = "source"
FORMAT = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
LARGEST = 100_000       # bytes of a text that is shown
HIDDEN = {"__pycache__"}

linked: set[Path] = set()


def link_files(app: Sphinx, doctree: nodes.document):
    """Links to files that are no pages lead to the file's page; to one that is no text, to a copy (Sphinx's own)."""
    base = ROOT / Path(app.env.docname).parent
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = (base / node.get("reftarget", "")).resolve()
        if node.get("reftype") != "myst" or not path.is_relative_to(ROOT) or not shown(path):
            continue
        if path == ROOT / PLAY / "index.html" and playable(ROOT):
            target = (PLAY / "index.html").as_posix()
        else:
            linked.add(path)
            target = address(path)
        link = nodes.reference("", "", *node.children, internal=True, refuri=relative_uri(page_of(app), target))
        node.replace_self(link)


def page_of(app: Sphinx) -> str:
    return f"{app.env.docname}.html"


def address(path: Path) -> str:
    return f"{FOLDER}/{path.relative_to(ROOT).as_posix()}.html"


def shown(path: Path) -> bool:
    """Whether a path can have a page: a folder, or a text that is not too long."""
    if path.is_dir():
        return path != ROOT
    if not path.is_file() or path.stat().st_size > LARGEST:
        return False
    return b"\0" not in path.read_bytes()[:8192] and path.suffix != ".svg"


def pages(app: Sphinx) -> Iterator[tuple[str, dict, str]]:
    """Of all that is linked, of what linked folders have, and of the package, which the API pages link to."""
    todo, done = [*linked, *(ROOT / "worldmodels").rglob("*.py")], set()
    while todo:
        path = todo.pop()
        if path not in done:
            done.add(path)
            todo += [p for p in entries(path) if shown(p) and not document(app, p)] if path.is_dir() else []
            body = listing(app, path) if path.is_dir() else text(path)
            title = path.relative_to(ROOT).as_posix()
            yield address(path).removesuffix(".html"), {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def entries(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name not in HIDDEN]


def document(app: Sphinx, path: Path) -> str | None:
    """The page of a document of the site's own, such as a notebook."""
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    return f"{name}.html" if path.suffix in app.config.source_suffix and name in app.env.found_docs else None


def listing(app: Sphinx, folder: Path) -> str:
    items = []
    for path in entries(folder):
        name = escape(path.name) + "/" * path.is_dir()
        page = document(app, path) or (address(path) if shown(path) else None)
        size = "" if path.is_dir() else f" ({path.stat().st_size:,} bytes)"
        items.append(f'<a href="{relative_uri(address(folder), page)}">{name}</a>' if page else name + size)
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def text(path: Path) -> str:
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = get_lexer_for_filename("a.txt")
    return highlight(path.read_text(), lexer, FORMAT)


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The [source] of an object in the API pages, which lie two folders deep."""
    path = (ROOT / info["module"].replace(".", "/")).with_suffix(".py")
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    line = line_of(ast.parse(path.read_text()), info["fullname"].split("."))
    return f"../../{address(path)}#L-{line}" if line else None


def line_of(node: ast.AST, names: list[str]) -> int | None:
    """Where a function, class or method is defined, or a constant."""
    if not names:
        return node.lineno
    for child in getattr(node, "body", []):
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        if names[0] in [getattr(child, "name", None), *(getattr(target, "id", None) for target in targets)]:
            return line_of(child, names[1:])
    return None


def setup(app: Sphinx):
    app.connect("doctree-read", link_files, priority=100)       # before Sphinx collects what is downloaded
    app.connect("html-collect-pages", pages)
