"""Jobs in supervised worker processes.

Workers are spawned and single-threaded inside. One that dies is replaced and its job run again; one that is still at the
same job after `deadline` seconds is killed and replaced likewise. A worker leads a process group of its own, so that what it
started (game engines) ends with it, also when this process is killed.
"""

import os
import signal
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Callable, Iterable

import multiprocess
from multiprocess import resource_tracker
from multiprocess.connection import wait
from multiprocess.reduction import ForkingPickler
from tqdm import tqdm

ATTEMPTS = 3                    # a job that takes its worker with it this often is given up
SINGLE_THREADED = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class WorkerDied(RuntimeError):
    """A job killed or outlasted its worker on every attempt."""


def idle_cores() -> list[int]:
    """The cores this process may use, those that are least busy first; none where processes cannot be bound to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return []

    def idle() -> dict[str, int]:
        with open("/proc/stat") as file:
            return {name: int(counts[3]) for name, *counts in map(str.split, file) if name.startswith("cpu")}

    before = idle()
    time.sleep(0.1)
    after = idle()
    return sorted(os.sched_getaffinity(0), key=lambda core: before.get(f"cpu{core}", 0) - after.get(f"cpu{core}", 0))


@contextmanager
def ctrl_c_waits():
    """Ctrl-C waits until the block is left, and never reaches what is started in it: a process inherits the signal mask.

    The mask alone would not make this process wait: another thread takes the signal, and Python raises KeyboardInterrupt in
    the main one all the same, say between the start of a process and the message that tells it what to do.
    """
    main, came = threading.current_thread() is threading.main_thread(), []      # elsewhere Python never raises it
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def work(connection, core: int | None):
    """The worker: receives jobs, sends (True, result) or (False, exception) until the pipe closes.

    With a core of its own, a game engine answers it from the same one: twice as soon as from one that has to be woken up.
    """
    os.setpgid(0, 0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        import cv2
        import torch
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        while True:
            message = connection.recv_bytes()
            try:
                connection.send((True, ForkingPickler.loads(message)()))
            except BaseException as error:
                if hasattr(error, "add_note"):          # Python 3.11
                    error.add_note(traceback.format_exc())
                connection.send((False, error))
    except (EOFError, OSError):
        pass
    os.killpg(0, signal.SIGKILL)


def end_with_parent():
    multiprocess.parent_process().join()
    os.killpg(0, signal.SIGKILL)


class Worker:
    def __init__(self, context, core: int | None):
        self.core = core
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, core), daemon=True)
        before = {name: os.environ.get(name) for name in SINGLE_THREADED}
        os.environ.update(SINGLE_THREADED)          # inherited, and so set before the worker imports torch
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        self.task = None                            # (job, future, attempt)
        self.since = 0.0

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:                  # gone, or not yet the leader of its group
            self.process.kill()
        self.process.join()
        self.connection.close()


class LocalExecutor:
    """`submit(job) -> Future` over `workers` processes; a context manager."""

    def __init__(self, workers: int, deadline: float = 1800.0):
        self.size, self.deadline = workers, deadline        # seconds a job may take
        self.restarts = 0
        self._context = multiprocess.get_context("spawn")
        self._queue: deque = deque()
        self._wake, self._woken = self._context.Pipe()
        self._closed = False
        resource_tracker.ensure_running()           # its start would lift the signal mask that workers are started under
        cores = idle_cores() or [None]
        self._workers: list[Worker] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        try:
            with ctrl_c_waits():                    # the thread has the mask too, and so have the workers that it starts
                for i in range(workers):
                    self._workers.append(Worker(self._context, cores[i % len(cores)]))
                self._thread.start()
        except BaseException:
            self.close()
            raise

    def submit(self, job: Callable[[], Any]) -> Future:
        future: Future = Future()
        self._queue.append((job, future, 1))
        if self._failure is not None:
            raise RuntimeError("the worker processes could not be kept running") from self._failure
        self._wake.send(None)
        return future

    def run(self, jobs: Iterable[Callable[[], Any]], progress: tqdm | None = None, weight: Callable[[Any], float] = lambda r: 1
            ) -> list:
        """The results of `jobs`, in their order; `progress` advances by `weight(result)` as each ends."""
        futures = [self.submit(job) for job in jobs]
        if progress is not None:
            for future in futures:
                future.add_done_callback(lambda f: f.cancelled() or f.exception() or progress.update(weight(f.result())))
        try:
            return [future.result() for future in futures]
        except BaseException:
            self._queue.clear()
            raise

    def close(self):
        self._closed = True
        if self._thread.ident is None:              # it was not started
            self._supervise()
        else:
            self._wake.send(None)
            self._thread.join()
        for _, future, _ in self._queue:
            future.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _supervise(self):
        try:
            while not self._closed:
                self._attend()
        except BaseException as error:              # such as no memory for another process: nobody shall wait for ever
            self._failure = error
            for _, future, _ in [*(worker.task for worker in self._workers if worker.task is not None), *self._queue]:
                future.set_exception(error)
        for worker in self._workers:
            worker.kill()

    def _attend(self):
        self._assign()
        wait([self._woken, *(w.connection for w in self._workers), *(w.process.sentinel for w in self._workers)], 1.0)
        while self._woken.poll():
            self._woken.recv()
        for i, worker in enumerate(self._workers):
            self._receive(worker)
            overdue = worker.task is not None and time.monotonic() - worker.since > self.deadline
            ended = not worker.process.is_alive() and threading.main_thread().is_alive()    # else the interpreter exits, and ended it
            if overdue or ended:
                self._replace(i, f"took longer than {self.deadline:g} s" if overdue else "ended its worker process")

    def _assign(self):
        for worker in self._workers:
            if worker.task is None:
                try:
                    worker.task, worker.since = self._queue.popleft(), time.monotonic()
                except IndexError:
                    return
                try:
                    worker.connection.send(worker.task[0])
                except OSError:                     # it has just died: the sentinel tells, and the job is run again
                    pass
                except Exception as error:          # a job that cannot be sent
                    (_, future, _), worker.task = worker.task, None
                    future.set_exception(error)

    def _receive(self, worker: Worker):
        try:
            if not worker.connection.poll():
                return
            good, value = worker.connection.recv()
        except (EOFError, OSError):
            return
        except Exception as error:                  # a result or an exception that cannot be received
            good, value = False, error
        (_, future, _), worker.task = worker.task, None
        future.set_result(value) if good else future.set_exception(value)

    def _replace(self, i: int, reason: str):
        worker, self._workers[i] = self._workers[i], Worker(self._context, self._workers[i].core)
        self.restarts += 1
        worker.kill()
        if worker.task is not None:
            job, future, attempt = worker.task
            if attempt < ATTEMPTS:
                self._queue.appendleft((job, future, attempt + 1))
            else:
                future.set_exception(WorkerDied(f"a job {reason}, {ATTEMPTS} times: {job}"))
