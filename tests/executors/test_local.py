"""Worker processes: order, determinism, and what happens when one of them dies, hangs or raises."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures

import multiprocess
import numpy as np
import pytest
from tqdm import tqdm

from worldmodels.executors import LocalExecutor, local
from worldmodels.executors.local import ATTEMPTS, WorkerDied
from worldmodels.types import UserError
from worldmodels.worlds.agent import RealFitness, load_agent


# Ctrl-C at the moments when a worker has been started and not yet been told what it is, taken by an idle thread.
INTERRUPTED_WHILE_STARTING = """
import os, signal, threading, time
from multiprocess import util
from worldmodels.executors import LocalExecutor

start = util.spawnv_passfds
def and_interrupt(*arguments):
    started = start(*arguments)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    print("started", flush=True)
    return started

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    try:
        from multiprocess import resource_tracker
        resource_tracker.ensure_running()
        util.spawnv_passfds = and_interrupt
        with LocalExecutor(2):
            print("went on")
    except KeyboardInterrupt:
        print("interrupted")
"""


class Square:
    """A job: its number squared, drawn in a way that a wrong order would show."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return self.number**2


class Once:
    """A job that misbehaves until its marker file exists, and returns the number of its worker process after that."""

    def __init__(self, marker, misbehave):
        self.marker, self.misbehave = marker, misbehave

    def __call__(self):
        if not self.marker.exists():
            self.marker.touch()
            self.misbehave()
        return os.getpid()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(1000)


class Unreadable:
    """A job that can be sent and not received."""

    def __reduce__(self):
        return int, ("no number",)


class TwoArguments(Exception):
    """An exception that cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, name, reason):
        super().__init__(f"{name}: {reason}")


def fail(error):
    raise error


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as executor:
        yield executor


@pytest.mark.parametrize("workers", (1, 2, 3))
def test_results_come_in_order_and_real_fitness_is_bit_equal(workers, toy_run):
    """Whatever the number of workers; the reference is played in this process."""
    parameters = np.random.default_rng(0).normal(size=(5, 13)) * 3
    _, digest = load_agent(toy_run)

    class Here:
        def run(self, jobs, progress, weight):
            return [job() for job in jobs]

    seeds = list(range(1, 11))
    expected = RealFitness(Here(), toy_run, digest, 40, ())(parameters, seeds)
    with LocalExecutor(workers) as executor, tqdm(total=50, file=io.StringIO()) as progress:
        assert executor.run([Square(n) for n in range(20)]) == [n**2 for n in range(20)]
        returns = RealFitness(executor, toy_run, digest, 40, ())(parameters, seeds, progress)
        assert progress.n == 50
    assert np.array_equal(returns, expected) and returns.shape == (5, 10)
    assert len(np.unique(returns)) > 5


def test_real_fitness_is_members_by_episodes(executor, toy_run):
    parameters = np.random.default_rng(0).normal(size=(3, 13)) * 3
    fitness = RealFitness(executor, toy_run, load_agent(toy_run)[1], 40, ())
    returns = fitness(parameters, [1, 2, 3, 4])
    for member, p in zip(returns, parameters):
        for got, seed in zip(member, (1, 2, 3, 4)):
            assert fitness(p[None], [seed]).item() == pytest.approx(got, rel=1e-5)


def test_ctrl_c_waits_until_a_worker_has_been_told_what_it_is():
    process = subprocess.run([sys.executable, "-c", INTERRUPTED_WHILE_STARTING], capture_output=True, text=True, timeout=120)
    assert (process.stdout.split(), process.stderr, process.returncode) == (["started", "started", "interrupted"], "", 0)


NEVER_CLOSED = """
from worldmodels.executors import LocalExecutor
if __name__ == "__main__":
    executor = LocalExecutor(2)
    print(executor.run([lambda: 1]))
"""


def test_workers_end_quietly_with_a_program_that_does_not_close_them():
    process = subprocess.run([sys.executable, "-c", NEVER_CLOSED], capture_output=True, text=True, timeout=120)
    assert (process.stdout, process.stderr, process.returncode) == ("[1]\n", "", 0)


def test_nobody_waits_for_ever_where_a_worker_cannot_be_replaced(tmp_path, monkeypatch):
    submitted = threading.Event()

    def no_memory(*_):
        submitted.wait(60)
        raise BlockingIOError("no memory for another process")

    with LocalExecutor(1) as executor:
        monkeypatch.setattr(local, "Worker", no_memory)
        futures = [executor.submit(job) for job in (Once(tmp_path / "died", die), Square(3))]
        submitted.set()
        for future in futures:
            with pytest.raises(BlockingIOError):
                future.result(timeout=60)
        with pytest.raises(RuntimeError, match="could not be kept running"):
            executor.submit(Square(3))


def test_what_was_started_ends_where_not_all_can_be(monkeypatch):
    made, Worker = [], local.Worker

    def one(*arguments):
        if made:
            raise BlockingIOError
        made.append(Worker(*arguments))
        return made[0]

    monkeypatch.setattr(local, "Worker", one)
    with pytest.raises(BlockingIOError):
        LocalExecutor(2)
    assert not made[0].process.is_alive()


def test_a_job_that_cannot_be_received_says_why(executor):
    before = executor.restarts
    with pytest.raises(ValueError, match="no number"):
        executor.submit(Unreadable()).result(timeout=60)
    assert executor.restarts == before


def test_a_closure_is_a_job(executor):
    offset = 5
    assert executor.run([lambda n=n: n + offset for n in range(3)]) == [5, 6, 7]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are not bound to cores here")
def test_each_worker_keeps_to_a_core_of_its_own(tmp_path):
    """Also the one that replaces a dead worker; with more workers than cores they share."""
    def core():
        time.sleep(0.3)                 # so that both workers take part
        return tuple(os.sched_getaffinity(0))

    allowed = os.sched_getaffinity(0)
    with LocalExecutor(2) as executor:
        used = set(executor.run([core] * 6))
        executor.submit(Once(tmp_path / "died", die)).result()
        assert set(executor.run([core] * 6)) == used
    assert all(len(cores) == 1 and set(cores) <= allowed for cores in used)
    assert len(used) == min(2, len(allowed))
    assert os.sched_getaffinity(0) == allowed


def test_workers_are_single_threaded(executor):
    def threads():
        import torch
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.getpid()

    torch_threads, variable, pid = executor.submit(threads).result()
    assert (torch_threads, variable) == (1, "1") and pid != os.getpid()


@pytest.mark.parametrize("error", (UserError("no such thing"), ValueError(3), KeyError("x")), ids=repr)
def test_an_exception_reaches_the_caller_with_its_type(executor, error):
    with pytest.raises(type(error)) as caught:
        executor.submit(lambda: fail(error)).result()
    assert caught.value.args == error.args
    assert executor.run([Square(3)]) == [9] and executor.restarts == 0


def test_an_exception_ends_a_run_and_the_executor_goes_on(executor):
    with pytest.raises(ZeroDivisionError):
        executor.run([Square(1), lambda: 1 / 0, *[Square(n) for n in range(50)]])
    assert executor.run([Square(7)]) == [49]


def test_a_job_whose_worker_is_killed_is_run_again(tmp_path):
    with LocalExecutor(2) as executor:
        jobs = [Square(n) for n in range(6)]
        results = executor.run([*jobs, Once(tmp_path / "marker", die), *jobs])
        assert results[:6] == results[7:] == [n**2 for n in range(6)]
        assert executor.restarts == 1
        assert results[6] in {worker.process.pid for worker in executor._workers}


def test_a_job_past_its_deadline_is_killed_and_run_again(tmp_path):
    """The deadline is set behind it once it hangs, so that the test need not wait."""
    with LocalExecutor(1, deadline=600) as executor:
        future = executor.submit(Once(tmp_path / "marker", hang))
        while not (tmp_path / "marker").exists():
            time.sleep(0.01)
        executor.deadline = 0
        while not executor.restarts:
            time.sleep(0.01)
        executor.deadline = 600
        assert future.result() == executor.submit(os.getpid).result()


def test_a_worker_killed_between_jobs_is_replaced():
    with LocalExecutor(1) as executor:
        pid = executor.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        assert executor.run([Square(n) for n in range(4)]) == [0, 1, 4, 9]
        assert executor.submit(os.getpid).result() != pid


def test_a_job_that_always_kills_its_worker_is_given_up():
    with LocalExecutor(1) as executor:
        with pytest.raises(WorkerDied):
            executor.submit(die).result()
        assert executor.restarts == ATTEMPTS
        assert executor.run([Square(3)]) == [9]


# What cannot travel between processes must fail, not hang.

LONG = 100      # seconds, after which a job is taken to hang


def test_a_job_that_cannot_be_sent_fails():
    with LocalExecutor(1) as executor:
        with pytest.raises(TypeError):
            executor.submit(Square(n for n in range(3))).result(LONG)
        assert executor.submit(Square(3)).result(LONG) == 9


def test_a_result_that_cannot_be_sent_fails():
    with LocalExecutor(1) as executor:
        with pytest.raises(TypeError):
            executor.submit(lambda: (n for n in range(3))).result(LONG)
        assert executor.submit(Square(3)).result(LONG) == 9


def test_an_exception_that_cannot_be_received_fails():
    with LocalExecutor(1) as executor:
        with pytest.raises(Exception) as caught:
            executor.submit(lambda: fail(TwoArguments("a", "b"))).result(LONG)
        assert not isinstance(caught.value, futures.TimeoutError)
        assert executor.submit(Square(3)).result(LONG) == 9


def test_closing_leaves_no_process_behind(tmp_path):
    """Neither a worker nor what a worker started: the pipe that its child holds open for writing reaches its end."""
    os.mkfifo(tmp_path / "pipe")

    def start_a_child():
        with open(tmp_path / "pipe", "w") as pipe:
            subprocess.Popen(["sleep", "1000"], stdout=pipe)
        return os.getpid()

    before = {child.pid for child in multiprocess.active_children()}
    with LocalExecutor(2) as executor:
        future = executor.submit(start_a_child)
        with open(tmp_path / "pipe") as pipe:
            future.result()
            executor.close()
            assert pipe.read() == ""
    assert {child.pid for child in multiprocess.active_children()} <= before
    with pytest.raises(ProcessLookupError):
        os.kill(future.result(), 0)
