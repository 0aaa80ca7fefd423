"""Jobs on a Ray cluster (pip install 'worldmodels[ray]'): the machines of `address`, or this one.

A job is a plain Ray task: nothing is kept on a node, so that any other one can do its work. Ray's own retries are off.
A job whose worker or node died is sent again from here, as the contract says, and so is one that is overdue: Ray has no
deadlines. Where all cores are used, a few more jobs are sent than there are cores, so that none waits for its next job.

A worker ends itself when its job is past the deadline (SIGALRM, which no job survives). If the worker is stopped, it
cannot; then it is ended from here after PATIENCE times as long. In a crowded cluster that also covers the time that a
job waits for a core.
"""

import math
import os
import signal
import socket
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from functools import lru_cache, partial
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from worldmodels.errors import WorkerDied
from worldmodels.executors.executor import ATTEMPTS, Job, Message, Shared, WorkersExecutor, answer, answered, message_of
from worldmodels.types import UserError

PATIENCE = 3            # deadlines that a job which was sent may take until its worker is ended from here
TICK = 0.5              # seconds between two looks at what is overdue ...
REFRESH = 10.0          # ... and at how many cores the cluster has
CONNECT = 5.0           # seconds that the head of a cluster has to answer
SPARE = 0.5             # jobs for each core that are sent and wait there
KEPT = 4                # shared values that stay in the object store although no job needs them now
# whose versions have to be those of the driver
PACKAGES = "worldmodels", "torch", "numpy", "numba", "gymnasium", "vizdoom"
# A crashed worker's game engines end with it, for it leads a process group. Ray's other way, a raylet that reaps them,
# ignores SIGCHLD: every program that a job or this process starts then seems to end with 0.
ENDS_CHILDREN = "RAY_process_group_cleanup_enabled"


class Task(NamedTuple):
    """A job that was submitted."""

    job: Job
    message: Message
    future: Future
    deadline: float         # seconds
    attempt: int = 1


class Sent(NamedTuple):
    """A task that a worker has, or that waits for one."""

    task: Task
    reference: ray.ObjectRef
    at: float               # time.monotonic()

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.at + PATIENCE * max(self.task.deadline, TICK)


@lru_cache
def versions() -> dict[str, str]:
    """Of the packages that results depend on, in this process."""
    return {name: version(name) for name in PACKAGES}


def check_versions(wanted: dict[str, str]):
    """A UserError where this process has other versions than the driver's."""
    different = [f"{name} {versions()[name]} (not {wanted[name]})" for name in wanted
                 if versions()[name] != wanted[name]]
    if different:
        raise UserError(f"node {ray.util.get_node_ip_address()} has {', '.join(different)}: install the same versions "
                        "on all nodes, their results would differ")


@ray.remote(num_cpus=1, max_retries=0, max_calls=0)
def perform(job: bytes, deadline: float, wanted: dict[str, str], digests: list[str], *shared: bytes) -> bytes:
    """`answer`, in a process that ends itself at the deadline."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(deadline, 1e-3))
    try:
        if wanted != versions():
            job = message_of(partial(check_versions, wanted)).job
        return bytes(answer(job, {digest: Shared(data, digest) for digest, data in zip(digests, shared)}))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def connect(address: str | None, cores: int | None):
    """Joins the cluster, or starts one of so many cores on this machine. A process has one connection, until it
    ends."""
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", joined):
            raise UserError(f"--address {address}: this process has joined the cluster at {joined} already")
        return
    if address not in (None, "auto"):
        check_answers(address)
    os.environ.setdefault(ENDS_CHILDREN, "1")
    here: dict[str, Any] = {} if address else {"num_cpus": cores, "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise no_cluster(address, error) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)           # not Ray's own


def check_answers(address: str):
    """A UserError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT).close()
    except (OSError, OverflowError, ValueError) as error:
        raise no_cluster(address, error) from None


def no_cluster(address: str | None, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"--address {address}: no Ray cluster answers there ({reason}). `ray start --head` starts one "
                     "and says its address HOST:PORT")


class RayExecutor(WorkersExecutor):
    """`submit(job) -> Future` over `workers` cores of a cluster, all of them if not given, and no more than `most`."""

    def __init__(self, workers: int | None = None, address: str | None = None, most: int | None = None,
                 deadline: float = 1800.0):
        if workers is not None and workers < 1:
            raise UserError(f"--workers {workers}: must be at least 1")
        connect(address, workers)
        self.deadline = deadline                            # seconds that a job without its own deadline may take
        self._workers, self._most = workers, most
        self.size = self._cores()
        if not self.size:
            raise UserError("the Ray cluster has no cores: start nodes with `ray start --address HOST:PORT`")
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._sent: dict[ray.ObjectRef, Sent] = {}
        self._store: OrderedDict[str, ray.ObjectRef] = OrderedDict()        # what is shared, by digest
        self._closed = False
        self._ended: SimpleQueue = SimpleQueue()            # (reference, Ray's future) of a task, or None: to the end
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _accept(self, job: Job, message: Message, future: Future):
        with self._lock:
            if self._closed:
                raise RuntimeError("no more jobs can be run: the executor is closed")
            self._waiting.append(Task(job, message, future, getattr(job, "deadline", self.deadline)))
            self._send()

    def close(self):
        with self._lock:
            closed, self._closed = self._closed, True
            waiting, sent = list(self._waiting), list(self._sent.values())
            self._waiting.clear()
            self._sent.clear()
            self._store.clear()
        if closed:
            return
        for task in waiting:
            if task.attempt > 1:                            # it is not cancelled any more
                task.future.set_exception(WorkerDied("the executor is closed"))
            elif task.future.cancel():
                task.future.set_running_or_notify_cancel()
        for task, reference, _ in sent:
            ray.cancel(reference, force=True)
            task.future.set_exception(WorkerDied("the executor is closed"))
        self._ended.put(None)
        self._thread.join()

    def _cores(self) -> int:
        """How many jobs may run at the same time."""
        cores = self._workers or int(ray.cluster_resources().get("CPU", 0))
        return min(cores, self._most or cores)

    def _send(self):
        """Sends what waits to cores that are free. The caller holds the lock."""
        most = self.size if self._workers else self.size + math.ceil(SPARE * self.size)
        while self._waiting and len(self._sent) < most:
            task = self._waiting.popleft()
            if task.attempt == 1 and not task.future.set_running_or_notify_cancel():
                continue
            job, shared = task.message
            reference = perform.options(num_gpus=getattr(task.job, "gpus", 0)).remote(
                job, task.deadline, versions(), list(shared), *map(self._stored, shared.values()))
            self._sent[reference] = Sent(task, reference, time.monotonic())
            reference.future().add_done_callback(partial(self._note, reference))

    def _note(self, reference: ray.ObjectRef, done: Future):
        """Called in a thread of Ray's, which shall not wait."""
        self._ended.put((reference, done))

    def _stored(self, value: Shared) -> ray.ObjectRef:
        """Where a shared value is in the object store. Tasks that were sent keep theirs alive."""
        if value.digest not in self._store:
            self._store[value.digest] = ray.put(value.data)
            if len(self._store) > KEPT:
                self._store.popitem(last=False)
        self._store.move_to_end(value.digest)
        return self._store[value.digest]

    def _serve(self):
        """The thread that takes what Ray answers and ends what is overdue."""
        refreshed = time.monotonic()
        while True:
            try:
                ended = self._ended.get(timeout=TICK)
            except Empty:
                ended = ()
            if ended is None:
                return
            if ended:
                self._take(*ended)
            else:
                self._end_overdue()
            with self._lock:
                if time.monotonic() > refreshed + REFRESH:
                    refreshed, self.size = time.monotonic(), max(1, self._cores())
                self._send()

    def _end_overdue(self):
        with self._lock:
            overdue = [sent for sent in self._sent.values() if sent.overdue]
            for sent in overdue:
                del self._sent[sent.reference]
        for sent in overdue:
            ray.cancel(sent.reference, force=True)          # a stopped worker hears it when it goes on
            self._again(sent, "it is stopped")

    def _take(self, reference: ray.ObjectRef, done: Future):
        """What Ray says of a task. The core gets its next one first."""
        with self._lock:
            sent = self._sent.pop(reference, None)
            self._send()
        if sent is None:                                    # the executor was closed, or the task was overdue
            return
        future, error = sent.task.future, done.exception()
        if error is None:
            good, value = answered(done.result())
            future.set_result(value) if good else future.set_exception(value)
        elif isinstance(error, RayTaskError) or not isinstance(error, RayError):    # a node without this program
            future.set_exception(error)
        else:
            self._again(sent, type(error).__name__)

    def _again(self, sent: Sent, reason: str):
        """A task whose worker died waits to be sent again, or is given up."""
        task = sent.task
        with self._lock:
            closed = self._closed
            if not closed and task.attempt < ATTEMPTS:
                self._waiting.appendleft(task._replace(attempt=task.attempt + 1))
                return
        if closed:
            return task.future.set_exception(WorkerDied("the executor is closed"))
        late = time.monotonic() - sent.at > task.deadline
        what = f"took longer than {task.deadline:g} s" if late else f"ended its worker ({reason})"
        task.future.set_exception(WorkerDied(f"a job {what}, {ATTEMPTS} times: {task.job}"))
