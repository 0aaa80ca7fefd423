"""What every executor keeps: results in order, exceptions, deadlines, and that every future ends."""

import io
import threading
import time
from concurrent import futures

import pytest
from tqdm import tqdm

from tests.executors.jobs import (
    LONG,
    Once,
    Square,
    TwoArguments,
    Unreadable,
    Unsendable,
    WithDeadline,
    die,
    fail,
    hang,
    wait_for,
)
from worldmodels.executors import ATTEMPTS, EXECUTORS, Shared, WorkerDied
from worldmodels.executors.executor import AHEAD, message_of
from worldmodels.types import UserError


@pytest.fixture(scope="module", params=EXECUTORS)
def any_kind(request):
    return EXECUTORS[request.param]


@pytest.fixture(scope="module")
def any_executor(any_kind):
    with any_kind(1) as executor:
        yield executor


@pytest.fixture(scope="module", params=[name for name in EXECUTORS if name != "inline"])
def kind(request):
    """Those that have workers."""
    return EXECUTORS[request.param]


@pytest.fixture(scope="module")
def executor(kind):
    with kind(1) as executor:
        yield executor


def test_results_come_in_the_order_of_the_jobs(any_executor):
    assert any_executor.size == 1
    assert any_executor.run([Square(n) for n in range(20)]) == [n**2 for n in range(20)]


def test_results_come_in_the_order_of_the_jobs_from_several_workers(kind):
    with kind(3) as executor:
        assert executor.size == 3
        assert executor.run([Square(n) for n in range(20)]) == [n**2 for n in range(20)]


def test_each_result_is_handed_out_once_with_the_number_of_its_job(any_executor):
    assert sorted(any_executor.each(Square(n) for n in range(20))) == [(n, n**2) for n in range(20)]


def test_no_more_jobs_are_under_way_than_the_caller_keeps_up_with(any_executor):
    """Else the results of thousands of episodes would wait in memory."""
    taken = []
    results = any_executor.each(taken.append(n) or Square(n) for n in range(50))
    for number, _ in enumerate(results, 1):
        assert len(taken) <= number + AHEAD


def test_a_value_that_jobs_share_arrives_whole(any_executor):
    """With each job that needs it, also with others that need another one, and after one that needs none."""
    values = [Shared(bytes([n]) * 1_000_000) for n in range(3)]
    first = lambda *values: lambda: [(len(value.data), value.data[0]) for value in values]
    jobs = [first(values[0]), first(values[0]), Square(3), first(values[0], values[1]), first(values[2])]
    found = any_executor.run(jobs)
    of = lambda *numbers: [(1_000_000, number) for number in numbers]
    assert found == [of(0), of(0), 9, of(0, 1), of(2)]


def test_a_value_that_jobs_share_does_not_travel_with_each(executor):
    value = Shared(b"x" * 1_000_000)
    message = message_of(lambda: value.data)
    assert len(message.job) < 10_000 and message.shared == {value.digest: value}
    assert executor.run([lambda: value.data] * 3) == 3 * [value.data]


def test_a_closure_is_a_job(any_executor):
    offset = 5
    assert any_executor.run([lambda n=n: n + offset for n in range(3)]) == [5, 6, 7]


@pytest.mark.parametrize("count", (0, -1))
def test_there_is_at_least_one_worker(any_kind, count):
    with pytest.raises(UserError, match=f"--workers {count}"):
        any_kind(count)


def test_an_address_where_no_cluster_answers_is_refused(any_kind):
    with pytest.raises(UserError, match="--address 192.0.2.1:1"):
        any_kind(1, "192.0.2.1:1")


# Progress

class Recorder:
    """A progress bar that notes what it is advanced by and in which thread; after each step it dawdles."""

    def __init__(self):
        self.steps, self.threads = [], set()

    def update(self, step):
        time.sleep(0.02)
        self.steps.append(step)
        self.threads.add(threading.current_thread())


def test_progress_is_complete_when_a_run_returns(any_executor):
    recorder = Recorder()
    any_executor.run([Square(n) for n in range(10)], recorder, weight=lambda square: square + 1)
    assert sorted(recorder.steps) == [n**2 + 1 for n in range(10)]


def test_progress_is_advanced_in_the_calling_thread(any_executor):
    recorder = Recorder()
    any_executor.run([Square(n) for n in range(3)], recorder)
    assert recorder.threads == {threading.current_thread()}


def test_progress_is_advanced_as_the_jobs_end(executor, tmp_path):
    """The first job's result opens the gate that the second waits for."""
    gate = tmp_path / "gate"
    with tqdm(total=1, file=io.StringIO()) as progress:
        executor.run([Square(1), lambda: wait_for(gate)], progress, weight=lambda result: gate.touch() or 1)
        assert progress.n == 2


def test_an_exception_in_progress_reaches_the_caller(any_executor):
    with pytest.raises(ZeroDivisionError):
        any_executor.run([Square(0)], Recorder(), weight=lambda square: 1 / square)


# Exceptions

@pytest.mark.parametrize("error", (UserError("no such thing"), ValueError(3), KeyError("x"), OSError(4)), ids=repr)
def test_an_exception_reaches_the_caller_with_its_type(any_executor, error):
    with pytest.raises(type(error)) as caught:
        any_executor.submit(lambda: fail(error)).result(LONG)
    assert caught.value.args == error.args
    assert any_executor.run([Square(3)]) == [9]


def test_an_exception_ends_a_run_and_the_executor_goes_on(any_executor):
    with pytest.raises(ZeroDivisionError):
        any_executor.run([Square(1), lambda: 1 / 0, *[Square(n) for n in range(50)]])
    assert any_executor.run([Square(7)]) == [49]


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


def test_a_closed_executor_takes_no_jobs(any_kind):
    with any_kind(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(Square(3))
    with pytest.raises(RuntimeError, match="closed"):
        executor.run([Square(3)])


def test_an_executor_may_be_closed_twice(any_kind):
    with any_kind(1) as executor:
        executor.close()
