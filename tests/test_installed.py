"""What is installed from a wheel: the code, the published runs, and the command. The wheel is built of an sdist, as a
package index would have it."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import worldmodels

ROOT = Path(__file__).parents[1]
SOURCES = ("worldmodels", "pipeline", "data/published", "docs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE",
           "MANIFEST.in", "constraints.txt")
NO_BYTECODE = shutil.ignore_patterns("__pycache__")


def python(*arguments, **options) -> subprocess.CompletedProcess:
    """What another python says."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=540, **options)


def build(what: str, source: Path, target: Path) -> Path:
    """The one file that setuptools makes of the source, without a network."""
    made = python("-c", f"from setuptools.build_meta import build_{what}; build_{what}(r'{target}')", cwd=source)
    assert made.returncode == 0, made.stderr
    return next(target.iterdir())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built of what the sdist has."""
    folders = "source", "unpacked", "sdist", "wheel"
    source, unpacked, sdist, target = map(tmp_path_factory.mktemp, folders)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=NO_BYTECODE)
        else:
            shutil.copyfile(ROOT / name, source / name)
    with tarfile.open(build("sdist", source, sdist)) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", next(unpacked.iterdir()), target)


@pytest.fixture(scope="session")
def names(wheel):
    """Of the files in it."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """installed(*arguments): what python says in an empty folder, where the unpacked wheel is all there is of us."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*arguments) -> subprocess.CompletedProcess:
        return python(*arguments, cwd=empty, env=env)

    return run


def files(folder: Path, pattern: str = "*") -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)
            if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("package", ("worldmodels", "pipeline"))
def test_it_has_every_module(names, package):
    assert {f"{package}/{name}" for name in files(ROOT / package, "*.py")} <= names


def test_it_has_every_file_of_the_published_runs_and_nothing_else_of_data(names):
    published = {f"worldmodels/published/{name}" for name in files(ROOT / "data" / "published")}
    assert {name for name in names if "published/" in name} == published
    assert {f"worldmodels/published/{task}/laptop/config.json" for task in ("car_racing", "take_cover")} < published


def test_it_is_typed_and_of_this_version(names, wheel):
    assert "worldmodels/py.typed" in names
    assert wheel.name == f"worldmodels-{worldmodels.__version__}-py3-none-any.whl"


def test_it_has_the_command(wheel, installed):
    points = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        points.read_string(archive.read(f"worldmodels-{worldmodels.__version__}.dist-info/entry_points.txt").decode())
    module, function = points["console_scripts"]["worldmodels"].split(":")
    call = f"import sys; sys.argv = ['worldmodels', 'list']; from {module} import {function} as main; main()"
    said = installed("-c", call)
    rows = {line.split()[0]: line for line in said.stdout.splitlines()}
    assert said.returncode == 0 and rows.keys() > {"car_racing/laptop", "take_cover/laptop"}, said.stderr
    assert rows["take_cover/laptop"].endswith("published") and "1180 ± 612" in rows["take_cover/laptop"]


def test_its_published_runs_are_opened_in_an_empty_folder_where_new_ones_are_made(installed):
    said = installed("-c", "import numpy as np, worldmodels; from worldmodels.runs import DATA, find\n"
                     "agent = worldmodels.Agent.load('take_cover/laptop'); agent.reset(seed=0)\n"
                     "assert agent.act(np.zeros((64, 64, 3), np.uint8)).shape == (1,)\n"
                     "from pipeline.finished import compared\n"
                     "assert compared('take_cover').entries\n"
                     "print(DATA, find('car_racing').root, worldmodels.__file__, sep='\\n')")
    assert said.returncode == 0, said.stderr
    data, run, code = said.stdout.splitlines()
    assert data == "data" and Path(run) == Path(code).parent / "published" / "car_racing" / "laptop"
    assert ROOT not in Path(run).parents
