"""What every executor keeps: results in order, exceptions, deadlines, and that every future ends."""

import io
import threading
import time
from concurrent import futures

import pytest
from tqdm import tqdm

from tests.executors.jobs import (LONG, Once, Square, TwoArguments, Unreadable, Unsendable, WithDeadline, die, fail,
                                  hang, wait_for)
from worldmodels.executors import ATTEMPTS, EXECUTORS, WorkerDied
from worldmodels.types import UserError


@pytest.fixture(scope="module", params=EXECUTORS)
def kind(request):
    return EXECUTORS[request.param]


@pytest.fixture(scope="module")
def executor(kind):
    with kind(1) as executor:
        yield executor


@pytest.mark.parametrize("workers", (1, 3))
def test_results_come_in_the_order_of_the_jobs(kind, workers):
    with kind(workers) as executor:
        assert executor.size == workers
        assert executor.run([Square(n) for n in range(20)]) == [n**2 for n in range(20)]


def test_a_closure_is_a_job(executor):
    offset = 5
    assert executor.run([lambda n=n: n + offset for n in range(3)]) == [5, 6, 7]


@pytest.mark.parametrize("count", (0, -1))
def test_there_is_at_least_one_worker(kind, count):
    with pytest.raises(UserError, match=f"--workers {count}"):
        kind(count)


# Progress

class Recorder:
    """A progress bar that notes what it is advanced by and in which thread; after each step it dawdles."""

    def __init__(self):
        self.steps, self.threads = [], set()

    def update(self, step):
        time.sleep(0.02)
        self.steps.append(step)
        self.threads.add(threading.current_thread())


def test_progress_is_complete_when_a_run_returns(executor):
    recorder = Recorder()
    executor.run([Square(n) for n in range(10)], recorder, weight=lambda square: square + 1)
    assert sorted(recorder.steps) == [n**2 + 1 for n in range(10)]


def test_progress_is_advanced_in_the_calling_thread(executor):
    recorder = Recorder()
    executor.run([Square(n) for n in range(3)], recorder)
    assert recorder.threads == {threading.current_thread()}


def test_progress_is_advanced_as_the_jobs_end(executor, tmp_path):
    """The first job's result opens the gate that the second waits for."""
    gate = tmp_path / "gate"
    with tqdm(total=1, file=io.StringIO()) as progress:
        executor.run([Square(1), lambda: wait_for(gate)], progress, weight=lambda result: gate.touch() or 1)
        assert progress.n == 2


def test_an_exception_in_progress_reaches_the_caller(executor):
    with pytest.raises(ZeroDivisionError):
        executor.run([Square(0)], Recorder(), weight=lambda square: 1 / square)


# Exceptions

@pytest.mark.parametrize("error", (UserError("no such thing"), ValueError(3), KeyError("x"), OSError(4)), ids=repr)
def test_an_exception_reaches_the_caller_with_its_type(executor, error):
    with pytest.raises(type(error)) as caught:
        executor.submit(lambda: fail(error)).result(LONG)
    assert caught.value.args == error.args
    assert executor.run([Square(3)]) == [9]


def test_an_exception_ends_a_run_and_the_executor_goes_on(executor):
    with pytest.raises(ZeroDivisionError):
        executor.run([Square(1), lambda: 1 / 0, *[Square(n) for n in range(50)]])
    assert executor.run([Square(7)]) == [49]


def test_a_run_that_fails_cancels_its_own_jobs_and_no_others(executor, tmp_path):
    """On one worker, in this order: a job of the run that fails, jobs of another caller, one more job of the run."""
    submitted, failed, ran = (tmp_path / name for name in ("submitted", "failed", "ran"))
    others = []

    def jobs():
        yield lambda: wait_for(submitted) or 1 / 0
        others.extend(executor.submit(job) for job in (lambda: wait_for(failed), *map(Square, range(20))))
        yield ran.touch
        submitted.touch()

    with pytest.raises(ZeroDivisionError):
        executor.run(jobs())
    failed.touch()
    assert [future.result(LONG) for future in others] == [None, *[n**2 for n in range(20)]]
    assert executor.run([Square(3)]) == [9] and not ran.exists()


# What cannot travel between processes must fail, not hang.

def test_a_job_that_cannot_be_sent_fails(executor):
    with pytest.raises(TypeError):
        executor.submit(Square(n for n in range(3))).result(LONG)
    assert executor.submit(Square(3)).result(LONG) == 9


@pytest.mark.parametrize("error", (ValueError, OSError, EOFError))
def test_a_job_that_cannot_be_received_says_why(executor, error):
    with pytest.raises(error, match="unreadable"):
        executor.submit(Unreadable(error)).result(LONG)
    assert executor.submit(Square(3)).result(LONG) == 9


def test_a_result_that_cannot_be_sent_fails(executor):
    with pytest.raises(TypeError):
        executor.submit(lambda: (n for n in range(3))).result(LONG)
    assert executor.submit(Square(3)).result(LONG) == 9


@pytest.mark.parametrize("error", (ValueError, OSError, EOFError))
def test_a_result_that_cannot_be_received_says_why(executor, error):
    with pytest.raises(error, match="unreadable"):
        executor.submit(lambda: Unreadable(error)).result(LONG)
    assert executor.submit(Square(3)).result(LONG) == 9


@pytest.mark.parametrize("error", (TwoArguments("a", "b"), Unsendable("a")), ids=repr)
def test_an_exception_that_cannot_travel_fails(executor, error):
    with pytest.raises(Exception) as caught:
        executor.submit(lambda: fail(error)).result(LONG)
    assert not isinstance(caught.value, (futures.TimeoutError, WorkerDied))
    assert executor.submit(Square(3)).result(LONG) == 9


# Workers that die, and jobs that take too long

def test_a_job_whose_worker_is_killed_is_run_again(kind, tmp_path):
    with kind(2) as executor:
        jobs = [Square(n) for n in range(6)]
        results = executor.run([*jobs, Once(tmp_path / "marker", die), *jobs])
        assert results[:6] == results[7:] == [n**2 for n in range(6)]


def test_a_job_that_always_kills_its_worker_is_given_up(executor, tmp_path):
    def die_again():
        with open(tmp_path / "tries", "a") as file:
            file.write("x")
        die()

    with pytest.raises(WorkerDied):
        executor.submit(die_again).result(LONG)
    assert (tmp_path / "tries").read_text() == ATTEMPTS * "x"
    assert executor.run([Square(3)]) == [9]


def test_a_job_may_bring_a_deadline_of_its_own(executor):
    with pytest.raises(WorkerDied, match="longer than 0 s"):
        executor.submit(WithDeadline(hang, 0)).result(LONG)
    assert executor.run([Square(3)]) == [9]


# Closing

def test_closing_ends_every_future(kind, tmp_path):
    """Of the job that runs and of those that wait; also for who waits for several at once."""
    executor, running = kind(1), tmp_path / "running"
    future = executor.submit(lambda: running.touch() or hang())
    waiting = [executor.submit(Square(n)) for n in range(3)]
    wait_for(running)
    executor.close()
    assert not futures.wait([future, *waiting], LONG).not_done
    assert isinstance(future.exception(), WorkerDied) and "closed" in str(future.exception())
    assert all(other.cancelled() for other in waiting)


def test_a_closed_executor_takes_no_jobs(kind):
    with kind(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(Square(3))
    with pytest.raises(RuntimeError, match="closed"):
        executor.run([Square(3)])


def test_an_executor_may_be_closed_twice(kind):
    with kind(1) as executor:
        executor.close()
