"""Jobs in supervised worker processes on this machine.

Workers are spawned and single-threaded inside. Each has a thread in this process that sends it a job and waits for the
answer, so a stuck worker holds up no other. A watcher kills the workers whose job is past its deadline; the time that a
worker takes to start counts. A worker that died or was killed is replaced, and its job is run again. A worker leads a
process group of its own, so that what it started (game engines) ends with it, also when this process is killed.
"""

import atexit
import math
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

import multiprocess
import psutil
from multiprocess import resource_tracker

from worldmodels.errors import WorkerDied
from worldmodels.executors.executor import ATTEMPTS, Job, Message, WorkersExecutor, answer, answered, single_threaded
from worldmodels.executors.machine import check_workers, default_workers, idle_cores
from worldmodels.types import UserError

TICK = 0.2                      # seconds between two looks of the watcher
SINGLE_THREADED = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
GROUPS = hasattr(os, "setpgid")  # process groups, signal masks, pipes that are sockets: all but Windows has them
STARTING = threading.Lock()     # the environment is the whole process's: one worker starts at a time


@contextmanager
def ctrl_c_waits():
    """Ctrl-C waits until the block is left. What is started inside never gets it: a process inherits the signal mask.

    The mask alone would not make this process wait. Another thread takes the signal, and Python raises
    KeyboardInterrupt in the main one, say between the start of a process and the message that tells it what to do.
    """
    main, came = threading.current_thread() is threading.main_thread(), []      # elsewhere Python never raises it
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if GROUPS else None
    try:
        yield
    finally:
        if GROUPS:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def work(connection, core: int | None):
    """The worker: receives jobs and answers them until the pipe closes.

    With a core of its own, a game engine answers from the same core: twice as soon as from one that has to be woken up.
    """
    if GROUPS:
        os.setpgid(0, 0)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)        # no mask was inherited
    if core is not None:
        os.sched_setaffinity(0, {core})
    threading.Thread(target=end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        single_threaded()
        shared = {}                                 # what the last job needed
        while True:
            job, digests, new = connection.recv()
            shared = {digest: new.get(digest) or shared[digest] for digest in digests}
            connection.send_bytes(answer(job, shared))
    kill_all(os.getpid())


def end_with_parent():
    multiprocess.parent_process().join()
    kill_all(os.getpid())


def kill_all(pid: int):
    """Kills a worker and what it started: its process group, or where there are none the processes that are its
    children now. An OSError where it does not lead a group."""
    if GROUPS:
        return os.killpg(pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        for process in (*worker.children(recursive=True), worker):
            with suppress(psutil.NoSuchProcess):
                process.kill()


class Worker:
    """A process and this end of its pipe. The thread that serves it reads, writes and closes; any may kill it."""

    def __init__(self, context, core: int | None):
        self.core = core
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, core), daemon=True)
        with STARTING:
            before = {name: os.environ.get(name) for name in SINGLE_THREADED}
            os.environ.update(SINGLE_THREADED)      # inherited, and so set before the worker imports torch
            try:
                self.process.start()
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        self.due = math.inf                         # time.monotonic() by which it has to answer
        self.killed = False
        self.shared = set()                         # digests of what it has

    def send(self, message: Message):
        """A job, and what it needs that the worker has not."""
        new = {digest: shared for digest, shared in message.shared.items() if digest not in self.shared}
        self.connection.send((message.job, list(message.shared), new))
        self.shared = set(message.shared)

    def kill(self):
        """Ends the process group, and whoever here waits to read or write. The caller holds the executor's lock."""
        if self.killed:                             # the number may be another process's by now
            return
        self.killed = True
        try:
            kill_all(self.process.pid)
        except OSError:                             # gone, or not yet the leader of its group
            self.process.kill()
        if not GROUPS:
            return
        with suppress(OSError), socket.fromfd(self.connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)         # a process that left the group may hold the other end open

    def release(self):
        """Waits for the killed process, and closes the pipe."""
        self.process.join()
        self.connection.close()


class LocalExecutor(WorkersExecutor):
    """`submit(job) -> Future` over `workers` processes, one for each core if not given, and no more than `most`."""

    def __init__(self, workers: int | None = None, address: str | None = None, most: int | None = None,
                 deadline: float = 1800.0):
        if address:
            raise UserError(f"--address {address}: worker processes of this machine join no cluster; choose another "
                            "--executor")
        workers = default_workers() if workers is None else workers
        check_workers(workers)
        workers = min(workers, most or workers)
        self.size, self.deadline = workers, deadline        # seconds that a job without its own deadline may take
        self.restarts = 0
        self._context = multiprocess.get_context("spawn")
        self._queue: SimpleQueue = SimpleQueue()    # (job, its message, its future), or None: a thread ends
        self._lock = threading.Lock()
        self._ended: BaseException | None = None    # why no more jobs are run
        if GROUPS:
            resource_tracker.ensure_running()       # its start would lift the signal mask that workers start under
        cores = idle_cores() or [None]
        self._workers: list[Worker] = []
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(workers)]
        atexit.register(self.close)                 # before multiprocess ends the workers, which would look like deaths
        try:
            with ctrl_c_waits():                    # the threads inherit the mask, and so do the workers they start
                for i in range(workers):
                    self._workers.append(Worker(self._context, cores[i % len(cores)]))
                for thread in (*self._threads, threading.Thread(target=self._watch, daemon=True)):
                    thread.start()
        except BaseException:
            self.close()
            raise

    def _accept(self, job: Job, message: Message, future: Future):
        with self._lock:
            if self._ended is not None:
                raise RuntimeError(f"no more jobs can be run: {self._ended}") from self._ended
            self._queue.put((job, message, future))

    def close(self):
        self._end(WorkerDied("the executor is closed"))
        for thread in self._threads:
            if thread.ident is not None:            # else it was not started
                thread.join()
        for worker in self._workers:
            worker.release()
        atexit.unregister(self.close)

    def _end(self, reason: BaseException):
        """Kills the workers. Their threads then end each future that is left, and themselves."""
        with self._lock:
            self._ended = reason if self._ended is None else self._ended
            for worker in self._workers:
                worker.kill()
            for _ in self._workers:
                self._queue.put(None)

    def _watch(self):
        """The watcher. It also kills what is left of a dead worker's group: an engine may hold the pipe open."""
        while self._ended is None:
            with self._lock:
                for worker in self._workers:
                    if time.monotonic() > worker.due or not worker.process.is_alive():
                        worker.kill()
            time.sleep(TICK)

    def _serve(self, i: int):
        """The thread of worker i."""
        for task in iter(self._queue.get, None):
            self._perform(i, *task)
            del task                                # its future holds the result

    def _perform(self, i: int, job: Job, message: Message, future: Future):
        if isinstance(self._ended, WorkerDied):     # closed
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        try:
            good, value = self._ask(i, job, message)
        except BaseException as error:
            good, value = False, error
        future.set_result(value) if good else future.set_exception(value)

    def _ask(self, i: int, job: Job, message: Message) -> tuple[bool, Any]:
        """What worker i, or one in its place, answers to `message`."""
        deadline = getattr(job, "deadline", self.deadline)
        for _ in range(ATTEMPTS):
            worker, reply = self._living(i), None
            worker.due = time.monotonic() + deadline
            try:
                worker.send(message)
                reply = worker.connection.recv_bytes()
            except Exception:
                overdue = time.monotonic() > worker.due
            with self._lock:
                worker.due = math.inf
                if reply is None:                   # it is dead, or of no more use with half a message in the pipe
                    worker.kill()
            if reply is not None:
                return answered(reply)
        reason = f"took longer than {deadline:g} s" if overdue else "ended its worker process"
        raise WorkerDied(f"a job {reason}, {ATTEMPTS} times: {job}")

    def _living(self, i: int) -> Worker:
        """Worker i, replaced where it was killed."""
        worker = self._workers[i]
        if not worker.killed:
            return worker
        worker.release()
        if self._ended is not None:
            raise self._ended
        try:
            worker = Worker(self._context, worker.core)
        except BaseException as error:              # such as no memory for another process: nobody shall wait for ever
            self._end(error)
            raise
        with self._lock:
            self._workers[i] = worker
            self.restarts += 1
            if self._ended is not None:             # meanwhile
                worker.kill()
        return worker
