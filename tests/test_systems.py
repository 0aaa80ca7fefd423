"""Where the system lacks what Windows lacks: process groups, signal masks, cores to bind to, limits of resources.

It is played by a sitecustomize, which every Python of the test imports first. What it cannot play: how Windows starts
processes, its pipes, its paths, its wheels of torch and of the games.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LACKS = """
import os, signal, sys
import psutil                           # which itself needs some of them here, and others on Windows
for module, names in ((os, "setpgid getpgid killpg sched_getaffinity sched_setaffinity"),
                      (signal, "pthread_sigmask SIG_BLOCK SIG_SETMASK")):
    for name in names.split():
        delattr(module, name)
sys.modules["resource"] = None          # cannot be imported
"""
WORK = """
import sys
from pathlib import Path

import psutil

from tests.executors import jobs
from worldmodels.executors import LocalExecutor


class Engine:
    # a job that starts a process, as a game does, and returns its number
    def __call__(self):
        import subprocess
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid


if __name__ == "__main__":
    with LocalExecutor(2) as workers:
        print(workers.run([jobs.Square(number) for number in range(4)]))
        print(len(workers.run([jobs.Once(Path("died"), jobs.die)])), workers.restarts)
        engine = psutil.Process(workers.run([Engine()])[0])
        print(engine.is_running())
    print(engine.wait(60))
"""
COLLECT = """
from worldmodels.envs import TASKS
from worldmodels.executors import check_workers, default_workers
from worldmodels.worlds.collect import CollectConfig, CollectJob
task = TASKS["toy"]
steps, *_ = CollectJob(task, CollectConfig(policy=next(iter(task.policies)), max_steps=10), (0,))()
check_workers(default_workers())
print(default_workers(), int(steps[0]))
"""


@pytest.fixture
def python(tmp_path):
    """python(*arguments): its exit code, stdout and stderr on such a system."""
    (tmp_path / "sitecustomize.py").write_text(LACKS)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT))), "OMP_NUM_THREADS": "1"}

    def run(*arguments) -> tuple[int, str, str]:
        said = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True,
                              timeout=540)
        return said.returncode, said.stdout, said.stderr

    return run


def test_the_system_lacks_them(python):
    code, _, err = python("-c", "import signal; signal.pthread_sigmask")
    assert code == 1 and "AttributeError" in err
    code, _, err = python("-c", "import resource")
    assert code == 1 and "ModuleNotFoundError" in err


def test_runs_are_listed(python):
    code, said, err = python("-c", "import sys; from pipeline.cli import main; sys.argv[1:] = ['list']; main()")
    assert code == 0 and "take_cover/laptop" in said, err


def test_a_random_policy_plays_and_workers_are_counted(python):
    code, said, err = python("-c", COLLECT)
    assert code == 0, err
    workers, steps = map(int, said.split())
    assert 1 <= workers <= os.cpu_count() and steps >= 1


def test_workers_do_jobs_are_replaced_and_end_with_what_they_started(python, tmp_path):
    (tmp_path / "program.py").write_text(WORK)
    code, said, err = python("program.py")
    assert code == 0, err
    assert said.splitlines() == ["[0, 1, 4, 9]", "1 1", "True", "None"]
