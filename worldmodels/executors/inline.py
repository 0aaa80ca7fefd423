"""Jobs in this process, one at a time, as they are submitted: for a debugger, and within a job. There is no worker that
could be replaced: a job that ends its process ends the program, and deadlines do not hold."""

from concurrent.futures import Future
from contextlib import contextmanager

from worldmodels.executors.executor import Executor, Job
from worldmodels.types import UserError


@contextmanager
def one_thread():
    """As in a worker: on more threads sums are rounded otherwise."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InlineExecutor(Executor):
    size = 1

    def __init__(self, workers: int | None = None, address: str | None = None, most: int | None = None):
        if workers not in (None, 1) or address:
            raise UserError(f"--workers {workers}, --address {address}: jobs in this process have one worker, and join "
                            "no cluster")
        self._closed = False

    def submit(self, job: Job) -> Future:
        if self._closed:
            raise RuntimeError("no more jobs can be run: the executor is closed")
        future: Future = Future()
        try:
            with one_thread():
                future.set_result(job())
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self):
        self._closed = True
