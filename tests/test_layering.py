"""What may import what, and what no source may have, read from the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path.relative_to(ROOT) for room in ("worldmodels", "pipeline") for path in (ROOT / room).rglob("*.py"))

# DESIGN.md's layout. A module imports from layers below its own, and from its own room; neighbours in a layer do not
# know each other.
LAYERS = [{"errors"}, {"types"}, {"files", "commandline"}, {"metrics"}, {"runs", "episodes"}, {"latents", "training"},
          {"envs"}, {"executors"}, {"vision"}, {"memory"}, {"controller"}, {"agent"}, {"worlds"}, {"report"},
          {"play", "web", "export"}, {"pipeline"}]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}

# reads what another process of the same program has sent
BETWEEN_PROCESSES = Path("worldmodels/executors/executor.py")

REGISTRIES = {"vision": "VISIONS", "memory": "MEMORIES", "controller": "CONTROLLERS LEARNERS"}      # by their room
ELSEWHERE = {                           # what is named where it is not defined
    "files.py": {"vae", "linear", "cma_es", "least_squares"},           # where format 1 is upgraded, which had no kinds
    "controller/cma_es.py": {"least_squares"}}                          # one of its starts


def unit(module: str) -> str:
    """worldmodels.memory.lstm -> memory, pipeline.command -> pipeline."""
    first, *rest = module.split(".")
    return first if first == "pipeline" else rest[0]


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree(path)):
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
        if module == "worldmodels" or module.split(".")[0] not in ("worldmodels", "pipeline"):
            continue
        assert unit(module) == own or HEIGHT[unit(module)] < HEIGHT[own], f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_can_run_code_when_read(path):
    """Neither pickle nor what reads it: torch.load, numpy's allow_pickle."""
    packages = {module.split(".")[0] for module in imports(path)}
    runs_code = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    assert not packages & runs_code or path == BETWEEN_PROCESSES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.load", "torch.save"), f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle", f"{path}:{node.value.lineno}"


# what turns text or bytes into code, and where it is meant
RUNS_CODE = {"eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "yaml.load",
             "ForkingPickler.loads", "np.load", "torch.jit.load", "os.system", "os.popen"}
MEANT = {(str(BETWEEN_PROCESSES), "ForkingPickler.loads"), ("worldmodels/envs/__init__.py", "importlib.import_module"),
         ("worldmodels/metrics.py", "importlib.import_module"),     # a writer that was typed
         ("pipeline/command.py", "importlib.import_module")}        # the stage that python -m has been given


def test_nothing_else_turns_what_is_read_into_code():
    called = {(str(path), ast.unparse(node.func)) for path in SOURCES for node in ast.walk(tree(path))
              if isinstance(node, ast.Call)}
    assert {call for call in called if call[1] in RUNS_CODE} == MEANT


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_line_is_longer_than_120_columns(path):
    lines = (ROOT / path).read_text().splitlines()
    assert not [f"{path}:{number}" for number, line in enumerate(lines, 1) if len(line) > 120]


def about_a_kind(node: ast.expr) -> bool:
    """`kind`, `x.kind`, `x["kind"]` or `x.get("kind")`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        node = ast.Subscript(node.func.value, node.args[0])
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "kind"
    return getattr(node, "id", getattr(node, "attr", None)) == "kind"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_is_decided_by_comparing_a_kind_with_a_name(path):
    """Kinds are told apart by their registries. Whether two kinds are the same may be asked."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            kinds = [about_a_kind(side) or ast.unparse(side) == "getattr(b, 'kind', None)" for side in sides]
            known = [isinstance(side, (ast.Constant, ast.Tuple, ast.List, ast.Set)) and ast.unparse(side) != "None"
                     for side in sides]
            assert not (any(kinds) and any(known)), f"{path}:{node.lineno} {ast.unparse(node)}"
        if isinstance(node, ast.Match):
            assert not about_a_kind(node.subject), f"{path}:{node.lineno}"


def own_files() -> dict[str, Path]:
    """Where each kind of V, M and C and each learner is defined: the file of its class."""
    found = {}
    for room, registries in REGISTRIES.items():
        module = __import__(f"worldmodels.{room}", fromlist=[room])
        for kind, cls in {k: c for name in registries.split() for k, c in getattr(module, name).items()}.items():
            found[kind] = Path(*cls.__module__.split(".")).with_suffix(".py")
    return found


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[0] == "worldmodels"], ids=str)
def test_a_kind_is_named_in_its_own_file_only(path):
    """As a string."""
    names = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
    allowed = ELSEWHERE.get(path.relative_to("worldmodels").as_posix(), set())
    for kind, own in own_files().items():
        assert kind not in names or path == own or kind in allowed, f"{path} names {kind}"


@pytest.mark.parametrize("path", sorted(own_files().values()), ids=str)
def test_a_kind_has_its_config_beside_it(path):
    configs = [node for node in tree(path).body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")]
    assert any(re.search(r"kind: str = '\w+'", ast.unparse(config)) for config in configs)
