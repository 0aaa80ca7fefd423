"""A stage that is killed or interrupted, and called again, ends where an uninterrupted one does, bit for bit."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import main
from tests.pipeline.conftest import INLINE, end, finish, lines, start
from worldmodels import episodes, training
from worldmodels.files import load_arrays
from worldmodels.metrics import read_metrics

# Stages, given by name, one after the other in one process, with a checkpoint at every line of the log, not by time.
# With "hold" it stands still when it has stored something to go on from for the second time.
RUNNER = """
import os, signal, sys, time
from pathlib import Path
from pipeline import __main__ as stages
from pipeline.command import main
from worldmodels import training

def several(config, run):
    "Some stages: in a test."
    for name in names.split(","):
        getattr(stages, name)(config, run)

def hold(source, target, replace=os.replace, stored=[]):
    replace(source, target)
    if ".progress." in Path(target).name or Path(target).parent.name == "latents":
        stored.append(target)
        if len(stored) == 2:
            print("holding", flush=True)
            time.sleep(600)

if __name__ == "__main__":
    names, how, *arguments = sys.argv[1:]
    training.CHECKPOINT_EVERY = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell's background jobs ignore it
    if how == "hold":
        os.replace = hold
    main(several, arguments)
"""
SETTINGS = ["--task", "toy", "--preset", "smoke", "--device", "cpu", "--workers", "1", "--data", "runs",
            "--collect.episodes", "20", "--vision.steps", "60", "--vision.batch", "32",
            "--memory.steps", "70", "--memory.batch", "4", "--memory.sequence", "10", "--learner.generations", "6"]
COLLECT = [*SETTINGS, "--workers", "2", "--collect.episodes", "400", "--collect.max-steps", "300"]
REAL = [*SETTINGS, "--workers", "2", "--world", "real", "--learner.population", "8", "--learner.episodes", "16",
        "--learner.generations", "6"]

CHECKPOINTS = {"train_vision": "vision", "train_memory": "memory", "train_controller": "controller"}
STAGES = ["collect", "train_vision", "encode", "train_memory", "train_controller"]


def stage(name: str, cwd: Path, settings=SETTINGS, how: str = "run"):
    return start("-c", RUNNER, name, how, *settings, cwd=cwd)


@pytest.fixture
def resume(monkeypatch, capsys):
    """resume(stage, cwd): the same stage in this process, to its end; what it says on stderr."""
    def resume(name: str, cwd: Path, settings=SETTINGS) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0)
        capsys.readouterr()
        main(getattr(stages, name), [*settings, *INLINE])
        return capsys.readouterr().err
    return resume


def folder(cwd: Path) -> Path:
    return cwd / "runs" / "toy" / "smoke"


def wait_for(condition, process=None, tries: int = 20_000):
    """Until it holds; fails when the process ends before."""
    for _ in range(tries):
        if condition():
            return
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()[1]}")
        time.sleep(0.02)
    pytest.fail("waited too long")


def products(name: str, cwd: Path) -> dict[str, Path]:
    """A stage's files by name."""
    places = {"collect": ("episodes", f"[!.]*{episodes.SUFFIX}"), "encode": ("latents", "[!.]*.safetensors")}
    kind, pattern = places.get(name, ("checkpoints", f"{CHECKPOINTS.get(name)}.*"))
    return {path.name: path for path in (folder(cwd) / kind).glob(pattern)}


def progress(name: str, cwd: Path) -> Path:
    return folder(cwd) / "checkpoints" / f"{CHECKPOINTS[name]}.progress.safetensors"


def assert_same(name: str, cwd: Path, reference: Path):
    """The same files with the same bits in each array, and the same training curves."""
    found, wanted = products(name, cwd), products(name, reference)
    assert found.keys() == wanted.keys()
    for path, like in ((found[key], wanted[key]) for key in wanted):
        if path.suffix == ".json":
            assert path.read_text() == like.read_text()
        else:                               # the order of a safetensors file's metadata is free, and so are its bytes
            (arrays, info), (expected, expected_info) = load_arrays(path), load_arrays(like)
            assert info == expected_info and arrays.keys() == expected.keys()
            assert [name for name in expected if arrays[name].tobytes() != expected[name].tobytes()] == []
    if name in CHECKPOINTS:
        rows = read_metrics(folder(cwd), CHECKPOINTS[name])
        assert rows and rows == read_metrics(folder(reference), CHECKPOINTS[name])


def resumed_at(name: str, err: str) -> int:
    """Where a stage's progress bar began."""
    bar = {"encode": "encoding", "collect": "collecting"}.get(name) or CHECKPOINTS[name]
    return int(re.search(rf"{bar}:.*?\| (\d+)/", err).group(1))


def children(pid: int) -> list[int]:
    """Processes that this one started and that live, on Linux."""
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if fields(stat)[1:2] == [str(pid)]]


def lives(pid: int) -> bool:
    return fields(Path(f"/proc/{pid}/stat"))[:1] not in ([], ["Z"], ["X"])


def fields(stat: Path) -> list[str]:
    """A process's state, parent, ... from its stat file; none if it is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def workers(pid: int) -> list[int]:
    """The worker processes among its children: each leads a process group of its own."""
    return [child for child in children(pid) if fields(Path(f"/proc/{child}/stat"))[2:3] == [str(child)]]


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run in which stages 1 to 5 were never disturbed."""
    cwd = tmp_path_factory.mktemp("reference")
    code, _, err = finish(stage(",".join(STAGES), cwd))
    assert code == 0, err
    return cwd


@pytest.fixture
def begun(reference, tmp_path):
    """begun(stage): a copy of that run as it was before the stage."""
    def copy(name: str) -> Path:
        shutil.copytree(reference / "runs", tmp_path / "runs")
        for later in STAGES[STAGES.index(name):]:
            for path in products(later, tmp_path).values():
                path.unlink()
        (folder(tmp_path) / "metrics.jsonl").unlink()
        return tmp_path
    return copy


@pytest.mark.parametrize("name, at", [*zip(STAGES[1:], [40, 2, 40, 1])])
def test_a_killed_stage_ends_the_same(name, at, begun, reference, resume):
    cwd = begun(name)
    process = stage(name, cwd, how="hold")
    try:
        assert process.stdout.readline() == "holding\n"
        process.kill()
        process.wait()
    finally:
        end(process)
    assert products(name, cwd).keys() != products(name, reference).keys()
    assert resumed_at(name, resume(name, cwd)) == at
    assert_same(name, cwd, reference)


def test_half_written_files_are_swept(begun, resume):
    """What a kill leaves of the file that was just being written."""
    cwd = begun("encode")
    left = [folder(cwd) / "latents" / ".000000003.safetensors.12345",
            folder(cwd) / "checkpoints" / ".vision.safetensors.12345"]
    for path in left:
        path.write_bytes(b"half")
    resume("encode", cwd)
    assert [path for path in left if path.exists()] == []


@needs_proc
def test_killed_collecting_leaves_no_worker_and_ends_the_same(tmp_path, resume):
    process = stage("collect", tmp_path, COLLECT)
    try:
        wait_for(lambda: len(products("collect", tmp_path)) >= 3, process)
        started = children(process.pid)
        assert len(started) >= 3                # two workers, and multiprocess's tracker
        process.kill()
        process.wait()
        assert len(products("collect", tmp_path)) < 400, "killed too late to tell anything"
        wait_for(lambda: not any(map(lives, started)))
    finally:
        end(process)
    kept = {name: path.stat().st_mtime_ns for name, path in products("collect", tmp_path).items()}
    assert all(len(episodes.read(path).frames) > 1 for path in products("collect", tmp_path).values())   # whole ones
    assert resumed_at("collect", resume("collect", tmp_path, COLLECT)) == len(kept)
    found = products("collect", tmp_path)
    assert kept.items() <= {name: path.stat().st_mtime_ns for name, path in found.items()}.items()   # not played again
    assert not list((folder(tmp_path) / "episodes").glob(".*"))                                 # no half-written ones

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    resume("collect", undisturbed, COLLECT)
    wanted = products("collect", undisturbed)
    assert found.keys() == wanted.keys() and len(found) == 400
    for name in wanted:
        for a, b in zip(episodes.read(found[name]), episodes.read(wanted[name]), strict=True):
            assert np.array_equal(a, b)


def test_ctrl_c_in_training_is_one_line_and_resumes(begun, reference, resume):
    cwd = begun("train_vision")
    process = stage("train_vision", cwd, how="hold")
    try:
        assert process.stdout.readline() == "holding\n"
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = finish(process)
    finally:
        end(process)
    assert code == 130
    said = lines(err)
    assert len(said) == 1 and "interrupted" in said[0], said
    assert resumed_at("train_vision", resume("train_vision", cwd)) == 40
    assert_same("train_vision", cwd, reference)


@needs_proc
@pytest.mark.parametrize("moment", ["while its workers start", "while they play"])
def test_ctrl_c_in_collecting_is_one_line_and_ends_its_workers(moment, tmp_path):
    """As a terminal does it: every process of the foreground group gets the signal."""
    process = stage("collect", tmp_path, COLLECT)
    moments = {"while its workers start": lambda: len(children(process.pid)) >= 3,
               "while they play": lambda: len(products("collect", tmp_path)) >= 3}
    try:
        wait_for(moments[moment], process)
        started = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = finish(process)
        wait_for(lambda: not any(map(lives, started)))
    finally:
        end(process)
    assert code == 130
    said = lines(err)
    assert len(said) == 1 and "interrupted" in said[0], said


@needs_proc
def test_a_killed_worker_changes_nothing(begun, tmp_path_factory, resume):
    """One of the worker processes that play the real game dies in mid-generation."""
    cwd, undisturbed = begun("train_controller"), tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(cwd / "runs", undisturbed / "runs")
    process = stage("train_controller", cwd, REAL)
    try:
        wait_for(progress("train_controller", cwd).exists, process)        # it evolves
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        assert progress("train_controller", cwd).exists(), "killed too late to tell anything"
        code, _, err = finish(process)
    finally:
        end(process)
    assert code == 0, err
    resume("train_controller", undisturbed, REAL)
    assert_same("train_controller", cwd, undisturbed)
