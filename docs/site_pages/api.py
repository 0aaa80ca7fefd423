"""API pages: one for each group of modules, made of their docstrings.

Docstrings here are plain text, with equations and tables set by spaces, and a field's meaning and shape stand in the
comment beside it. They become reStructuredText: what is set by spaces is shown as it is, fields are a table.
"""

import ast
import fnmatch
import inspect
import itertools
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOLDER = Path("docs/api")
# page -> title, what stands above its modules, the modules in an order to read them; package.* are those left over
GROUPS = {
    "seams": ("Seams", "The protocols of vision, memory, policies, worlds and executors, and what passes between them.",
              "types errors"),
    "vision": ("V: vision", "A frame to a latent z and back. `vision.VISIONS` names the kinds.",
               "vision.vae vision.convolutional vision.autoencoder vision.*"),
    "memory": ("M: memory", "A state and an action to the next state. `memory.MEMORIES` names the kinds.",
               "memory.mdn_rnn memory.mixture memory.lstm memory.gru memory.rssm memory.ensemble memory.*"),
    "controller": ("C: controllers and learners", "A state to an action. `controller.CONTROLLERS` names the kinds of "
                   "C, `controller.LEARNERS` what finds their parameters.",
                   "controller.policy controller.linear controller.learner controller.cma_es controller.*"),
    "agent": ("Agent", "V, M and C of a run, to act with.", "agent"),
    "worlds": ("Dream and game", "The worlds that a policy lives in, and what is done in them.",
               "worlds.dream worlds.population worlds.real worlds.rollout worlds.*"),
    "gym": ("Gymnasium", "Dreams and games as environments for other libraries.", "worlds.gym worlds.stable_baselines"),
    "envs": ("Games", "Tasks as Gymnasium environments. `envs.TASKS` names them.", "envs envs.*"),
    "executors": ("Executors", "Where jobs run. `executors.EXECUTORS` names the kinds.",
                  "executors.executor executors.local executors.ray executors.*"),
    "files": ("Runs and files", "Data on disk, settings, and what training shares.",
              "runs files episodes latents training metrics commandline"),
    "report": ("Report", "Scores, and what is looked at.", "report.scores report.sim_to_real_gap report.*"),
    "play": ("Play and export", "The dream beside the game, in a window and in a browser; V, M and C as ONNX.",
             "play web.* export"),
}
GAP = re.compile(r"\S {3,}\S")          # spaces that align a column


def write_pages(app: Sphinx):
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    about = ["Made of the docstrings. Dimensions are named as in :doc:`seams`: B batch, T time, Z latent, A action,",
             "H hidden, F features.", "", ".. toctree::", "   :maxdepth: 1", ""]
    write(folder / "index.rst", [*title("API", "="), *about, *(f"   {name}" for name in GROUPS)])
    for (name, (heading, about, _)), modules in zip(GROUPS.items(), grouped(Path(app.srcdir) / "worldmodels")):
        lines = [*title(heading, "="), about, ""]
        for module in modules:
            lines += [*title(module, "-"), f".. automodule:: worldmodels.{module}"]
            lines += ["   :members:", "   :undoc-members:", ""]
        write(folder / f"{name}.rst", lines)


def grouped(package: Path) -> list[list[str]]:
    """The modules of each group; an error where a module is in none."""
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py") if path.stem[:2] != "__"]
    modules = sorted(".".join(file.parts) for file in files)
    wanted = [names.split() for _, _, names in GROUPS.values()]
    rest = [module for module in modules if not any(module in names for names in wanted)]
    found = [[module for name in names for module in fnmatch.filter(rest, name) or [name]] for names in wanted]
    if missing := set(modules) - set(itertools.chain(*found)):
        raise ExtensionError(f"in no group of {__file__}: {', '.join(sorted(missing))}")
    return found


def title(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def write(path: Path, lines: list[str]):
    path.write_text("\n".join(lines) + "\n")


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]):
    """The docstring's lines, in place, as reStructuredText."""
    ours = str(getattr(obj, "__module__", "worldmodels")).startswith("worldmodels")         # not torch's
    made = what == "class" and lines and lines[0].startswith(f"{obj.__name__}(")            # by dataclass
    lines[:] = [*(formatted(lines) if ours and not made else []), *(fields(obj) if what == "class" else [])]


def formatted(lines: list[str]) -> list[str]:
    """Plain text: paragraphs, lists with dashes, and what is set by spaces."""
    found, kind = [], None
    for block in blocks(lines):
        is_list = block[0].startswith("- ")
        begin = len(block) if is_list else next((i for i, line in enumerate(block) if set_by_spaces(line)), len(block))
        if begin:
            found += [*map(escaped, block[:begin]), ""]
        if block[begin:]:
            found += [] if kind == "literal" and not begin else ["::", ""]
            found += [*("   " + line for line in block[begin:]), ""]
        kind = "literal" if block[begin:] else "prose"
    return found


def blocks(lines: list[str]) -> list[list[str]]:
    """Lines between empty ones."""
    return [list(block) for filled, block in itertools.groupby(lines, lambda line: bool(line.strip())) if filled]


def set_by_spaces(line: str) -> bool:
    return line.startswith(" ") or GAP.search(line) is not None


def escaped(line: str) -> str:
    """A line of prose: only `code` has a meaning."""
    parts = re.split(r"`+([^`]+)`+", line)
    indent = len(line) - len(line.lstrip())
    return " " * indent + "".join(f"\\ ``{part.strip()}``\\ " if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", part)
                                  for i, part in enumerate(parts)).lstrip()


def fields(cls: type) -> list[str]:
    """A table of the fields that a dataclass, NamedTuple or Protocol has itself."""
    if cls.__module__.split(".")[0] != "worldmodels":
        return []
    lines = inspect.getsource(inspect.getmodule(cls)).splitlines()
    node = next(node for node in ast.walk(ast.parse("\n".join(lines)))
                if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    found = [field for field in node.body if isinstance(field, ast.AnnAssign)]
    if not found:
        return []
    table = [".. list-table::", "   :widths: auto", ""]
    for field in found:
        default = f" = {ast.unparse(field.value)}" if field.value else ""
        table += [f"   * - ``{field.target.id}``", f"     - ``{ast.unparse(field.annotation)}{default}``",
                  f"     - {escaped(comment(lines, field))}"]
    return [*table, ""]


def comment(lines: list[str], field: ast.AnnAssign) -> str:
    """What stands behind a field, or in the lines above it."""
    behind = re.search(r"(?<=  )# (.*)", lines[field.end_lineno - 1][field.end_col_offset:])
    if behind:
        return behind[1]
    above, row = [], field.lineno - 2
    while lines[row].lstrip().startswith("# "):
        above.insert(0, lines[row].strip(" #"))
        row -= 1
    return " ".join(above)


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str, returns: str):
    """None for a class whose fields are shown, or that is a protocol."""
    if what == "class" and (is_dataclass(obj) or hasattr(obj, "_fields") or getattr(obj, "_is_protocol", False)):
        return "", ""
    return None


def skipped(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Members that are no function, class or property: fields are in a table."""
    return None if callable(obj) or isinstance(obj, (property, classmethod, staticmethod)) else True


def setup(app: Sphinx):
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skipped)
