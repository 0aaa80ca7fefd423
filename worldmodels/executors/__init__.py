"""Where jobs run: one executor a kind, all under one contract.

A job is a callable without arguments. Its result depends on nothing but itself, so it may run anywhere and more than
once: it brings what it needs, writes no file of a run, and what it made is in its result. It may have an attribute
`deadline`, the seconds it may take; without one, the executor's own deadline holds. It may have `gpus`, how many it
asks for. What many jobs need is a field of theirs that is `Shared`: it travels once.

    EXECUTORS[kind](workers, address, most)     a context manager; a UserError where so many workers cannot be had
    size                            jobs that run at the same time
    submit(job) -> Future           a RuntimeError once the executor is closed
    each(jobs)                      each job's number and result, as it ends; few jobs are under way at a time
    run(jobs, progress, weight)     the results, in the order of the jobs. The calling thread advances `progress` by
                                    `weight(result)` as each job ends
    close()                         ends the workers. Waiting jobs are cancelled, running ones end in WorkerDied

The first exception ends `run` or `each`: its other jobs are cancelled where they have not begun, other callers' jobs go
on. Every future ends, whatever dies. A job that takes its worker with it or is not done by its deadline is run again.
After ATTEMPTS times it ends in WorkerDied. What cannot be pickled fails with the pickler's error.
"""

from worldmodels.errors import WorkerDied
from worldmodels.executors.executor import ATTEMPTS, Executor, Shared
from worldmodels.executors.inline import InlineExecutor
from worldmodels.executors.local import LocalExecutor, ctrl_c_waits
from worldmodels.executors.machine import check_workers, default_workers
from worldmodels.types import UserError


def ray_executor(*arguments, **settings) -> Executor:
    """A RayExecutor; Ray, an extra, is imported here alone."""
    try:
        from worldmodels.executors.ray import RayExecutor
    except ModuleNotFoundError as error:
        raise UserError(f"--executor ray: {error}. Install it with: pip install 'worldmodels[ray]'") from None
    return RayExecutor(*arguments, **settings)


EXECUTORS = {"local": LocalExecutor, "ray": ray_executor, "inline": InlineExecutor}
CHECKS = {"local": check_workers}       # of a number of workers, before any is started

__all__ = ["ATTEMPTS", "CHECKS", "EXECUTORS", "LocalExecutor", "Shared", "WorkerDied", "check_workers", "ctrl_c_waits",
           "default_workers"]
