"""What the tests of the stage scripts share: stages in processes of their own, a finished smoke run of each task, and
commands that must fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import pipeline
from pipeline.command import main

ROOT = Path(pipeline.__file__).resolve().parents[1]
INLINE = ["--executor", "inline", "--workers", "1"]      # to start a worker takes longer than the jobs of most tests
TOY = ["--task", "toy", "--preset", "smoke", *INLINE]
LONGEST = 540           # seconds that a process of a test may take; only a hang does


def start(*arguments, cwd: Path) -> subprocess.Popen:
    """python with these arguments, single-threaded, in a session of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, env=env, start_new_session=True, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        end(process)
        out, err = process.communicate()
    return process.returncode, out, err


def end(process: subprocess.Popen):
    """Kills it if it still lives; its workers end with it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(err: str) -> list[str]:
    """What stderr says, without the progress bars."""
    return [line for line in re.split(r"[\r\n]+", err) if line.strip() and "%|" not in line]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """finished(task): the folder of a smoke run that `python -m pipeline` took through all stages, which no test
    changes. pytest's processes share it."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent

    def folder(task: str) -> Path:
        cwd = shared / f"finished-{task}"
        with FileLock(f"{cwd}.lock"):
            if not cwd.exists():
                cwd.mkdir()
                arguments = ["--task", task, "--preset", "smoke", "--data", "runs", "--device", "cpu", "--workers",
                             "2" if task == "toy" else "1"]
                code, _, err = finish(start("-m", "pipeline", *arguments, cwd=cwd))
                (cwd / "err").write_text("" if code == 0 else f"exit code {code}: {err}")
        assert not (cwd / "err").read_text(), (cwd / "err").read_text()
        return cwd / "runs" / task / "smoke"

    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished toy run, and the arguments that name it."""
    folder = tmp_path / "toy" / "smoke"
    shutil.copytree(finished("toy"), folder)
    return folder, [*TOY, "--data", str(tmp_path), "--device", "cpu"]


@pytest.fixture
def fails(capsys):
    """fails(stage, *arguments): the one line of a command that must fail."""
    def fails(stage, *arguments) -> str:
        capsys.readouterr()
        code = None
        try:
            main(stage, [str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        said = lines(capsys.readouterr().err)
        assert code == 2
        assert len(said) == 1, said
        assert said[0].startswith("error: ") and "Traceback" not in said[0]
        return said[0]
    return fails
