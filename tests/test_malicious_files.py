"""Nothing that a user downloads runs code, writes outside its folder or takes memory without bounds: each file loads,
or is refused in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.command import main
from pipeline.finished import finished
from pipeline.train_controller import train_controller
from tests import malicious
from worldmodels.agent import load_agent
from worldmodels.files import load_arrays, pack, read_json
from worldmodels.runs import Run
from worldmodels.types import UserError

ROOT = Path(__file__).parents[1]
FEWEST = 200            # files


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder and what is in it; what links lead to is not looked at."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What came of each file: [family, file, reader, outcome], and the folder of the walk."""
    folder = tmp_path_factory.mktemp("walk")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.malicious", "data"], cwd=folder, env=env, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()], folder


def test_every_file_loads_or_is_refused_in_one_line(walked):
    """By every reader, with no more than two gigabytes of memory."""
    rows, _ = walked
    assert not [row for row in rows if row[3] not in ("loads", "refused")]
    assert len({(family, file) for family, file, *_ in rows}) >= FEWEST
    assert {file for _, file, *_ in rows} == malicious.READERS.keys()


def test_no_file_runs_code_or_writes(walked):
    """Neither the marker that the pickles and texts would make is there, nor any other file than those of the run."""
    _, folder = walked
    assert not list(folder.rglob(malicious.MARKER))
    assert {path.parts[0] for path in (path.relative_to(folder) for path in tree(folder))} == {"data"}
    runs = {path.relative_to(folder / "data").parts[:2] for path in tree(folder)}
    assert runs == {("toy", "victim")}


@pytest.mark.parametrize("family", ("bomb", "header", "array", "setting"))
def test_what_cannot_be_right_is_refused(walked, family):
    """By the reader that has to know: the whole episode, V, M and C as they are opened, or all settings."""
    knows = {"bomb": {"episodes.read"}, "header": {"episodes.read", "load_arrays"}, "array": {"agent"},
             "setting": {"Run.settings"}}[family]
    rows = [row for row in walked[0] if row[0].startswith(family) and row[2] in knows]
    refused = [row for row in rows if row[3] == "refused"]
    assert len(refused) >= 10
    if family in ("bomb", "header"):
        assert refused == rows


# what a downloaded run says of names and places

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return malicious.make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def victim(made, tmp_path):
    """A copy of the run that a test may change, with a neighbour that must stay as it is."""
    shutil.copytree(made.root, tmp_path / "data" / "toy" / "victim")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("as it was")
    return Run(tmp_path / "data" / "toy" / "victim")


def nothing(config, run):
    """A stage that does nothing."""


def command(run: Run, stage=nothing) -> int:
    """A stage of a stored run; its exit code."""
    try:
        main(stage, ["--task", "toy", "--run", run.root.name, "--data", str(run.root.parents[1])])
    except SystemExit as stop:
        return stop.code
    return 0


def with_setting(run: Run, name: str, value):
    config = malicious.changed(json.loads(run.config.read_text()), f"config.{name}", value)
    run.config.write_text(json.dumps(config))


@pytest.mark.parametrize("name", ("run", "task", "preset"))
@pytest.mark.parametrize("value", ("../../../outside", "{}/outside", "evil:TASK", "..", "a\x00b"))
def test_a_stored_name_leads_nowhere(victim, tmp_path, name, value):
    """A command works on the run that was named on the command line, or on none."""
    with_setting(victim, name, value.format(tmp_path))
    before = tree(tmp_path).keys()
    assert command(victim) in (0, 2)
    after = tree(tmp_path)
    assert after.keys() - before <= {victim.root / ".lock"}
    assert after[tmp_path / "outside" / "file"] == b"as it was"


def test_no_module_that_a_file_names_is_imported(victim, tmp_path, monkeypatch):
    """Neither as a task nor as a writer."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / malicious.MARKER)!r}, 'w')\nTASK = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with_setting(victim, "task", "evil:TASK")
    with_setting(victim, "metrics", ["evil:TASK"])
    arrays, info = load_arrays(victim.path("memory"))
    victim.path("memory").write_bytes(pack(arrays, info | {"task": "evil:TASK"}))
    with pytest.raises(UserError, match="no task evil:TASK"):
        load_agent(victim)
    assert command(victim) == 0
    assert "evil" not in sys.modules and not (tmp_path / malicious.MARKER).exists()


def test_no_file_says_which_cluster_runs_jobs(victim):
    with_setting(victim, "address", "attacker:6379")
    with_setting(victim, "executor", "ray")
    given = []
    assert command(victim, lambda config, run: given.append(config.address)) == 0
    assert given == [""] == [finished("toy", victim.root).config.address]
    assert "address" not in read_json(victim.config)["config"]


@pytest.mark.parametrize("link", ("report", "episodes", "checkpoints", "config.json", ".lock", "metrics.jsonl"))
def test_a_link_out_of_a_run_is_refused_before_anything_is_written(victim, tmp_path, link):
    place = victim.root / link
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / "outside" / ("" if "." not in link else "file"))
    before = tree(tmp_path)
    assert command(victim) == 2
    assert tree(tmp_path) == before


def test_a_link_within_a_run_is_taken(victim):
    (victim.root / "again").symlink_to(victim.root / "report")
    assert command(victim) == 0


@pytest.mark.parametrize("teacher", ("../../outside", "{}/outside", "x" * 5000, "\x00"))
def test_a_stored_teacher_is_only_read(victim, tmp_path, teacher):
    """One that is no run is refused in one line."""
    config = read_json(victim.config)
    config["config"]["learner"] = {"kind": "distill", "teacher": teacher.format(tmp_path)}
    victim.config.write_text(json.dumps({"format": 2} | config))
    victim.path("controller").unlink()
    (tmp_path / "outside" / "config.json").write_text("{}")
    assert command(victim, train_controller) == 2
    assert {path.name for path in (tmp_path / "outside").iterdir()} == {"file", "config.json"}


@pytest.mark.parametrize("name, value", (("memory.hidden_size", 65_536), ("vision.channels", 65_536)))
def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(victim, name, value):
    """Whether it is to be trained or loaded."""
    section = name.partition(".")[0]
    arrays, info = load_arrays(victim.path(section))
    victim.path(section).write_bytes(pack(arrays, malicious.changed(info, name, value)))
    with pytest.raises(UserError, match="parameters"):
        load_agent(victim)
