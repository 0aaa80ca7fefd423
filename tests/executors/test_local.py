"""Worker processes on this machine: signals, process groups, cores, restarts, and how many there may be."""

import math
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time

import multiprocess
import pytest

from tests.executors.jobs import LONG, Once, Square, Unreadable, WithDeadline, die, hang, wait_for
from worldmodels.executors import ATTEMPTS, LocalExecutor, WorkerDied, check_workers, local, machine
from worldmodels.types import UserError

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

# One worker is idle at the end, the other at a job.
NEVER_CLOSED = """
import time
from worldmodels.executors import LocalExecutor
if __name__ == "__main__":
    executor = LocalExecutor(2)
    print(executor.run([lambda: 1]))
    executor.submit(lambda: time.sleep(1000))
"""

# The worker has started a child that holds the pipe open for writing; then the program ends in one way or another.
ENDS = """
import os, signal, sys
from worldmodels.executors import LocalExecutor

if __name__ == "__main__":
    def start_a_child(path=sys.argv[1]):
        import subprocess
        with open(path, "w") as pipe:
            subprocess.Popen(["sleep", "1000"], stdout=pipe)

    LocalExecutor(1).run([start_a_child])
    {end}
"""


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as executor:
        yield executor


def run_program(source):
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=LONG)


def test_ctrl_c_waits_until_a_worker_has_been_told_what_it_is():
    program = run_program(INTERRUPTED_WHILE_STARTING)
    assert (program.stdout.split(), program.returncode) == (["started", "started", "interrupted"], 0)
    assert program.stderr == ""


def test_workers_end_quietly_with_a_program_that_does_not_close_them():
    program = run_program(NEVER_CLOSED)
    assert (program.stdout, program.stderr, program.returncode) == ("[1]\n", "", 0)


# How many workers

@pytest.fixture
def plenty(monkeypatch):
    """A machine that sets no limits to workers."""
    monkeypatch.setattr(machine, "available_memory", lambda: 1e15)
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    check_workers(1_000_000)
    return monkeypatch


def limit_memory(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 20.5 * machine.MEMORY)


def limit_processes(monkeypatch):
    limits = {resource.RLIMIT_NPROC: 20 * machine.TASKS}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (limits.get(limit, resource.RLIM_INFINITY), 0))


def limit_files(monkeypatch):
    limits = {resource.RLIMIT_NOFILE: 20 * machine.FILES}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (limits.get(limit, resource.RLIM_INFINITY), 0))


@pytest.mark.parametrize("limit", (limit_memory, limit_processes, limit_files))
def test_workers_are_bounded_by_memory_processes_and_files(plenty, limit):
    limit(plenty)
    check_workers(20)
    with pytest.raises(UserError, match="^--workers 21: .* about 20$"):
        check_workers(21)


def test_more_workers_than_the_machine_can_serve_are_refused_before_any_starts(monkeypatch):
    monkeypatch.setattr(local, "Worker", None)
    with pytest.raises(UserError, match="^--workers 999999999: [^\n]*$"):
        LocalExecutor(999_999_999)


def test_this_machine_has_memory_for_a_worker():
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.MEMORY < machine.available_memory() <= physical


# What workers are

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


# Workers that die, and jobs that take too long

def expire(executor):
    """Sets the deadline behind the jobs that run; there is one at least."""
    while not (busy := [worker for worker in executor._workers if worker.due < math.inf]):
        time.sleep(0.01)
    for worker in busy:
        worker.due = 0


def test_a_dead_worker_is_replaced_once(executor, tmp_path):
    before = executor.restarts
    pid = executor.submit(Once(tmp_path / "marker", die)).result(LONG)
    assert executor.restarts == before + 1
    assert [worker.process.pid for worker in executor._workers] == [pid]


def test_a_worker_killed_between_jobs_is_replaced(executor):
    pid = executor.submit(os.getpid).result(LONG)
    os.kill(pid, signal.SIGKILL)
    assert executor.run([Square(n) for n in range(4)]) == [0, 1, 4, 9]
    assert executor.submit(os.getpid).result(LONG) != pid


def test_a_job_that_fails_costs_no_worker(executor):
    before = executor.restarts
    for job in (lambda: 1 / 0, Unreadable(ValueError), lambda: Unreadable(OSError), Square(n for n in range(3))):
        assert executor.submit(job).exception(LONG) is not None
    assert executor.restarts == before


def test_a_job_past_its_deadline_is_killed_and_run_again(executor, tmp_path):
    """The deadline is set behind it once it hangs, so that the test need not wait."""
    before = executor.restarts
    future = executor.submit(Once(tmp_path / "marker", hang))
    wait_for(tmp_path / "marker")
    expire(executor)
    assert future.result(LONG) == executor.submit(os.getpid).result(LONG)
    assert executor.restarts == before + 1


def test_a_job_has_the_executors_deadline_unless_it_brings_one():
    with LocalExecutor(1, deadline=0) as executor:
        with pytest.raises(WorkerDied, match="longer than 0 s"):
            executor.submit(hang).result(LONG)
        assert executor.submit(WithDeadline(lambda: time.sleep(1.5), 600)).result(LONG) is None
        assert executor.restarts == ATTEMPTS


def test_nobody_waits_for_ever_where_a_worker_cannot_be_replaced(tmp_path, monkeypatch):
    submitted = threading.Event()

    def no_memory(*_):
        submitted.wait(60)
        raise BlockingIOError("no memory for another process")

    with LocalExecutor(2) as executor:
        running = tmp_path / "running"
        futures = [executor.submit(lambda: running.touch() or hang())]
        wait_for(running)
        monkeypatch.setattr(local, "Worker", no_memory)
        futures += [executor.submit(job) for job in (Once(tmp_path / "died", die), Square(3))]
        submitted.set()
        for future in futures:
            with pytest.raises(BlockingIOError):
                future.result(timeout=60)
        with pytest.raises(RuntimeError, match="no memory"):
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


# Workers that are stuck: they hold up no other, and their jobs have a deadline like any.

def stop_in_mid_message():
    """Announces an answer of 100 bytes, sends four of them and stops."""
    frame = sys._getframe()
    while "connection" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["connection"].fileno(), struct.pack("!i", 100) + b"four")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_worker_that_stops_in_mid_message_holds_up_no_other(tmp_path):
    with LocalExecutor(2) as executor:
        stopped = executor.submit(Once(tmp_path / "marker", stop_in_mid_message))
        wait_for(tmp_path / "marker")
        others = [executor.submit(Square(n)) for n in range(10)]
        assert [other.result(LONG) for other in others] == [n**2 for n in range(10)]
        expire(executor)
        assert stopped.result(LONG) in {worker.process.pid for worker in executor._workers}
        assert executor.restarts == 1


def test_a_stopped_worker_that_is_sent_a_large_job_holds_up_no_other(tmp_path):
    """While one worker waits at the gate, the large job goes to the other, which does not read it."""
    gate, waits = tmp_path / "gate", tmp_path / "waits"
    with LocalExecutor(2) as executor:
        first = executor.submit(lambda: waits.write_text(str(os.getpid())) and wait_for(gate))
        while not (waits.exists() and waits.read_text()):
            time.sleep(0.01)
        other, = {worker.process.pid for worker in executor._workers} - {int(waits.read_text())}
        os.kill(other, signal.SIGSTOP)
        large = executor.submit(lambda content=bytes(10_000_000): len(content))
        gate.touch()
        assert first.result(LONG) is None
        assert [executor.submit(Square(n)).result(LONG) for n in range(10)] == [n**2 for n in range(10)]
        expire(executor)
        assert large.result(LONG) == 10_000_000
        assert executor.restarts == 1


def test_a_process_that_left_its_group_keeps_no_job_from_its_end(executor, tmp_path):
    """It has inherited the pipe of its worker, which dies."""
    left = tmp_path / "left"

    def leave():
        process = subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
        left.write_text(str(process.pid))
        die()

    future = executor.submit(Once(tmp_path / "marker", leave))
    try:
        assert future.result(LONG) == executor.submit(os.getpid).result(LONG)
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


# Process groups

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


@pytest.mark.parametrize("end, code", (("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)),
                         ids=("exits", "killed"))
def test_what_a_worker_started_ends_with_the_program(end, code, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen([sys.executable, "-c", ENDS.format(end=end), tmp_path / "pipe"])
    with open(tmp_path / "pipe") as pipe:
        assert pipe.read() == ""
    assert process.wait(LONG) == code
