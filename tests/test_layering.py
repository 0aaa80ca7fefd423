"""What may import what, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path.relative_to(ROOT) for package in ("worldmodels", "pipeline") for path in (ROOT / package).rglob("*.py"))

# A module imports from layers below its own, and from its own package; neighbours in a layer do not know each other.
LAYERS = [{"types"}, {"files", "commandline"}, {"runs", "episodes"}, {"training"}, {"envs", "vision", "memory", "controller"},
          {"worlds", "executors"}, {"evaluate", "transfer", "look", "plots"}, {"page", "play"}, {"pipeline"}]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def unit(module: str) -> str:
    """worldmodels.memory.lstm -> memory, pipeline.command -> pipeline."""
    first, *rest = module.split(".")
    return first if first == "pipeline" else rest[0]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_layer():
    units = {unit(".".join(path.with_suffix("").parts)) for path in SOURCES if path != Path("worldmodels/__init__.py")}
    assert units == HEIGHT.keys()


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_down(path):
    if path == Path("worldmodels/__init__.py"):
        return
    own = unit(".".join(path.with_suffix("").parts))
    for module in imports(path):
        if module.split(".")[0] in ("worldmodels", "pipeline"):
            assert unit(module) == own or HEIGHT[unit(module)] < HEIGHT[own], f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_can_run_code_when_read(path):
    """Neither pickle nor what reads it: torch.load, numpy's allow_pickle."""
    assert not {module.split(".")[0] for module in imports(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save"), f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle", f"{path}:{node.value.lineno}"
