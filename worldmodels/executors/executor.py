"""What every executor shares: results as jobs end, and how a job and what it needs travel to a worker and back."""

import hashlib
import io
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import lru_cache
from itertools import islice
from queue import SimpleQueue
from typing import Any, NamedTuple

import dill
from multiprocess.reduction import ForkingPickler
from tqdm import tqdm

Job = Callable[[], Any]

ATTEMPTS = 3            # a job that takes its worker with it this often is given up
AHEAD = 2               # jobs for each worker that `each` has under way: results do not pile up


class Shared:
    """Bytes that many jobs need, such as V and M. A job has it as a field; an executor sends it to a worker or a
    machine once, and with each job its digest alone."""

    def __init__(self, data: bytes, digest: str | None = None):
        self.data, self.digest = data, digest or hashlib.sha256(data).hexdigest()

    def __eq__(self, other) -> bool:
        return isinstance(other, Shared) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Executor(ABC):
    """`run` and `each` of an executor that has `size` and `submit`; a context manager."""

    size: int

    @abstractmethod
    def submit(self, job: Job) -> Future:
        """A RuntimeError once the executor is closed."""

    @abstractmethod
    def close(self):
        """Ends the workers."""

    def each(self, jobs: Iterable[Job], ahead: float = AHEAD) -> Iterator[tuple[int, Any]]:
        """Each job's number and result, as it ends. Jobs are taken from `jobs` when they are needed: `ahead` × size of
        them are under way, or wait for the caller."""
        numbered, left, ended = enumerate(jobs), {}, SimpleQueue()
        try:
            while True:
                room = None if math.isinf(ahead) else max(1, int(ahead * self.size)) - len(left)
                for number, job in islice(numbered, room):
                    left[number] = self.submit(job)
                    left[number].add_done_callback(lambda future, number=number: ended.put(number))
                if not left:
                    return
                number = ended.get()
                yield number, left.pop(number).result()
        finally:
            for future in left.values():            # where one has failed: those that have not begun
                future.cancel()

    def run(self, jobs: Iterable[Job], progress: tqdm | None = None,
            weight: Callable[[Any], float] = lambda result: 1) -> list:
        """The results of `jobs`, in their order; `progress` advances by `weight(result)` as each ends."""
        results = {}
        for number, result in self.each(jobs, ahead=math.inf):
            results[number] = result
            if progress is not None:
                progress.update(weight(result))
        return [results[number] for number in range(len(results))]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Message(NamedTuple):
    """A job on its way to a worker."""

    job: bytes                      # pickled, with a digest in place of each Shared
    shared: dict[str, Shared]       # by digest


class JobPickler(ForkingPickler):
    """Leaves out what is shared, and notes it."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.shared: dict[str, Shared] = {}

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, Shared):
            return None
        self.shared[value.digest] = value
        return value.digest


class JobUnpickler(dill.Unpickler):
    def __init__(self, job: bytes, shared: dict[str, Shared]):
        super().__init__(io.BytesIO(job))
        self.persistent_load = shared.__getitem__


def message_of(job: Job) -> Message:
    """The pickler's error where a job cannot be sent."""
    file = io.BytesIO()
    pickler = JobPickler(file)
    pickler.dump(job)
    return Message(file.getvalue(), pickler.shared)


class WorkersExecutor(Executor):
    """An executor whose workers are other processes: jobs travel to them as messages."""

    def submit(self, job: Job) -> Future:
        future: Future = Future()
        try:
            message = message_of(job)
        except Exception as error:                  # a job that cannot be sent
            future.set_exception(error)
        else:
            self._accept(job, message, future)
        return future

    @abstractmethod
    def _accept(self, job: Job, message: Message, future: Future):
        """Takes a job to be done; a RuntimeError where no more are."""


def answer(job: bytes, shared: dict[str, Shared]) -> memoryview:
    """Runs a job in a worker: (True, result) or (False, exception), pickled."""
    single_threaded()
    try:
        return ForkingPickler.dumps((True, JobUnpickler(job, shared).load()()))
    except BaseException as error:
        trace = traceback.format_exc()
        if hasattr(error, "add_note"):              # Python 3.11
            error.add_note(trace)
        try:
            return ForkingPickler.dumps((False, error))
        except Exception:                           # an exception that cannot be pickled
            return ForkingPickler.dumps((False, RuntimeError(trace)))


def answered(message: bytes) -> tuple[bool, Any]:
    """Whether the job gave a result, and it or the exception."""
    try:
        return ForkingPickler.loads(message)
    except BaseException as error:
        return False, error


@lru_cache
def single_threaded():
    """A worker has one core."""
    import cv2
    import torch
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
